"""`shoal search`: one question, both stages."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from shoal.cli import tables
from shoal.cli.errors import guard
from shoal.cli.options import AsJson
from shoal.cli.output import console, print_json
from shoal.cli.server import (
    DEFAULT_URL,
    After,
    Collapse,
    Diversity,
    Facets,
    Filter,
    GroupBy,
    GroupSize,
    Highlight,
    IndexRoot,
    MinScore,
    Mode,
    Namespace,
    OptionalQuery,
    OrderBy,
    PassageId,
    Recall,
    TimeoutMs,
    TopK,
    TopN,
    Url,
    Vector,
    ask,
)
from shoal.cli.vectors import read_vector_file
from shoal.errors import InvalidArgument

app = typer.Typer()

_SENT = (
    *("top_k", "top_n", "mode", "filter", "namespace", "min_score", "diversity", "after", "recall", "timeout_ms", "id"),
    *("instruction", "correct_spelling"),
)
"""Parameters that a search is asked as they are."""

Rerank = Annotated[
    bool | None, typer.Option("--rerank/--no-rerank", help="Rerank what stage one found. Default: the server's.")
]
Late = Annotated[
    bool, typer.Option("--late", help="Rerank by the token vectors that the shards hold of their passages.")
]
Instruction = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="What the query looks for, for encoders that read an instruction. Default: that of the index.",
    ),
]
CorrectSpelling = Annotated[
    bool | None,
    typer.Option(
        "--correct-spelling/--no-correct-spelling",
        help="Take words that no passage holds for others one slip away. Default: as the server does.",
    ),
]
Full = Annotated[bool, typer.Option("--full", help="Show whole texts, not their beginnings.")]


@app.command()
def search(  # noqa: PLR0913 - one parameter for each option
    query: OptionalQuery = None,
    url: Url = DEFAULT_URL,
    index: IndexRoot = None,
    top_k: TopK = None,
    top_n: TopN = None,
    rerank: Rerank = None,
    late: Late = False,
    mode: Mode = None,
    filter: Filter = None,
    namespace: Namespace = None,
    facet: Facets = None,
    group_by: GroupBy = None,
    group_size: GroupSize = None,
    collapse: Collapse = False,
    min_score: MinScore = None,
    diversity: Diversity = None,
    highlight: Highlight = False,
    after: After = None,
    order_by: OrderBy = None,
    recall: Recall = None,
    instruction: Instruction = None,
    correct_spelling: CorrectSpelling = None,
    timeout_ms: TimeoutMs = None,
    vector: Vector = None,
    id: PassageId = None,
    full: Full = False,
    as_json: AsJson = False,
) -> None:
    """Ask a server, or an index in this process, one question and show both stages.

    A row is a passage: its final rank, the score that it stands there by, the rank it had in stage one, and its score
    there. With hybrid search the score may be blended of several; then the reranker's own stands beside it.
    """
    given = dict(locals())
    with guard(as_json):
        response = ask(url, query, index, **_options(given))
        if as_json:
            print_json(response.model_dump(mode="json", exclude_unset=True))
        else:
            terminal = console()
            terminal.print(tables.answer(response, terminal.width, full=full))


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a search is asked, out of the parameters of the command."""
    if given["late"] and given["rerank"] is not None:
        raise InvalidArgument("--late is a way of reranking; leave --rerank and --no-rerank out", param="late")
    return {
        **{name: given[name] for name in _SENT},
        "rerank": "late" if given["late"] else given["rerank"],
        "facets": given["facet"] or None,
        "group_by": _group(given["group_by"], given["group_size"]),
        "collapse": given["collapse"] or None,
        "highlight": given["highlight"] or None,
        "order_by": _order(given["order_by"]),
        "vector": None if given["vector"] is None else read_vector_file(given["vector"]),
    }


def _group(field: str | None, size: int | None) -> dict[str, Any] | None:
    if field is None:
        if size is not None:
            raise InvalidArgument("--group-size goes with --group-by FIELD", param="--group-size")
        return None
    return {"field": field} if size is None else {"field": field, "size": size}


def _order(field: str | None) -> dict[str, Any] | None:
    if field is None:
        return None
    name = field.removesuffix(":desc")
    return {"field": name, "descending": name != field}
