"""What the commands that ask a server, or an index in this process, have in common."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer

from shoal.client.answers import IndexDescription, SearchResponse
from shoal.client.clients import DEFAULT_URL, Client
from shoal.errors import InvalidArgument, Unavailable

if TYPE_CHECKING:
    from shoal.engine.index import Index

__all__ = [
    "DEFAULT_URL",
    "After",
    "Collapse",
    "Diversity",
    "Facets",
    "Filter",
    "GroupBy",
    "GroupSize",
    "Highlight",
    "IndexRoot",
    "MinScore",
    "Mode",
    "Namespace",
    "OptionalQuery",
    "OrderBy",
    "PassageId",
    "Query",
    "Recall",
    "TimeoutMs",
    "TopK",
    "TopN",
    "Url",
    "Vector",
    "WrittenIndex",
    "ask",
    "connect",
    "parsed_filter",
    "writing",
]

WRITE_S = 300.0
"""Seconds that one request which writes may take, with all its attempts."""
WRITE_HERE_MS = 600_000
"""Milliseconds that one request may take to write to an index root in this process: the most that there may be."""

Query = Annotated[list[str], typer.Argument(metavar="QUERY", help="The question; several words are one question.")]
OptionalQuery = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[QUERY]",
        show_default=False,
        help="The question; several words are one question. May be left out with --vector or --id.",
    ),
]
Vector = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Search by the vector in this file, a list of numbers in JSON or a NumPy array (.npy), instead of the "
        "question's.",
    ),
]
PassageId = Annotated[
    str | None,
    typer.Option("--id", metavar="ID", help="Search by the vector of this passage, for others like it."),
]
Url = Annotated[str, typer.Option(metavar="URL", envvar="SHOAL_URL", help="The server to ask.")]
# No variable: who has set SHOAL_INDEX for `shoal serve` goes on asking that server.
IndexRoot = Annotated[
    str | None,
    typer.Option("--index", metavar="ROOT", help="Search this index root in this process, without a server."),
]
TopK = Annotated[
    int | None, typer.Option(metavar="INT", help="Candidates taken from stage one. Default: the server's.")
]
TopN = Annotated[int | None, typer.Option(metavar="INT", help="Results shown. Default: the server's.")]
Mode = Annotated[
    str | None,
    typer.Option(metavar="MODE", help="How stage one searches: dense, lexical or hybrid. Default: the server's."),
]
Recall = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER", help="Share of the ten nearest passages to find. Default: what the index is tuned for."
    ),
]
TimeoutMs = Annotated[int | None, typer.Option(metavar="INT", help="Deadline of the answer. Default: the server's.")]

Filter = Annotated[
    str | None,
    typer.Option(
        metavar="JSON", help='Conditions on metadata that results fulfil, such as \'{"year": {"$gte": 2020}}\'.'
    ),
]


Namespace = Annotated[
    str | None, typer.Option(metavar="NAME", help="Whose passages are meant. Default: those of the default namespace.")
]


Facets = Annotated[
    list[str] | None,
    typer.Option(
        "--facet", metavar="FIELD", help="Count the values of this metadata field too. May be given several times."
    ),
]


GroupBy = Annotated[
    str | None,
    typer.Option(
        metavar="FIELD",
        help="Group the results by this metadata field, or by $document, of whose pieces passages are.",
    ),
]
GroupSize = Annotated[int | None, typer.Option(metavar="INT", help="Results of one group. Default: 1.")]
Collapse = Annotated[bool, typer.Option("--collapse", help="Show only the best of passages with equal texts.")]
MinScore = Annotated[float | None, typer.Option(metavar="NUMBER", help="Show only results that score at least this.")]
Diversity = Annotated[
    float | None,
    typer.Option(metavar="NUMBER", help="Choose results that differ: 0 by their scores, 1 by their difference."),
]


OrderBy = Annotated[
    str | None,
    typer.Option(
        metavar="FIELD", help="Show what fulfils the filter by this field; FIELD:desc begins with the greatest."
    ),
]
Highlight = Annotated[bool, typer.Option("--highlight", help="Show the best sentence of each passage.")]
After = Annotated[str | None, typer.Option(metavar="CURSOR", help="The page behind an answer that ended with this.")]
WrittenIndex = Annotated[
    str | None,
    typer.Option("--index", metavar="ROOT", help="Write to this index root in this process, without a server."),
]


@contextlib.contextmanager
def writing(url: str, index: str | None) -> Iterator["Client | Index"]:
    """Open what a command writes to: a server, or an index root in this process. Raises InvalidArgument for both."""
    if index is None:
        with connect(url, WRITE_S) as client:
            yield client
        return
    _require_no_url(url)
    from shoal.engine.index import Index

    # A slow machine takes minutes to encode a batch of long passages, and nobody else waits for it.
    with Index(index, reranker="none", write_timeout_ms=WRITE_HERE_MS) as opened:
        yield opened


@contextlib.contextmanager
def connect(url: str, timeout_s: float = 60.0) -> Iterator[Client]:
    """Open a client for one command. Raises InvalidArgument where nothing listens: the user can set that right.

    The API key comes from SHOAL_API_KEY and from no option: everybody on a machine can read its command lines.
    """
    with Client(url, timeout_s=timeout_s) as client:
        try:
            yield client
        except Unavailable as error:
            if isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout):
                raise InvalidArgument(error.message, param="--url") from None
            raise


def ask(url: str, words: list[str] | None, index: str | None = None, **options: Any) -> SearchResponse:
    """Search for one question; options that are None are left to the server, or to its defaults.

    Args:
        words: Of the question; none where the options say by which vector or passage to search.
        index: The index root that is searched in this process, instead of a server.

    Raises:
        InvalidArgument: Both.
    """
    given: Any = {name: value for name, value in options.items() if value is not None}
    query = _question(words, needed=not given.keys() & {"vector", "id"})
    if "filter" in given:
        given["filter"] = parsed_filter(given["filter"])
    if index is not None:
        return _ask_here(url, index, query, given)
    # A query may take as long as it asks for, and its answer some time to arrive.
    timeout_s = max(60.0, given.get("timeout_ms", 0) / 1000 + 10)
    with connect(url, timeout_s) as client:
        answer: SearchResponse = client.search(query, **given)
        return answer


def _question(words: list[str] | None, *, needed: bool) -> str | None:
    if not words:
        if needed:
            raise InvalidArgument("QUERY is missing; ask something, or give --vector FILE or --id ID", param="QUERY")
        return None
    query = " ".join(words)
    try:
        query.encode()
    except UnicodeEncodeError:
        raise InvalidArgument("QUERY is not valid UTF-8", param="QUERY") from None
    return query


def _ask_here(url: str, index: str, query: str | None, options: Any) -> SearchResponse:
    _require_no_url(url)
    from shoal.engine.index import Index

    # A reranker that is not asked need not be loaded.
    settings = {} if options.get("rerank", query is not None) is True else {"reranker": "none"}
    with Index(index, **settings) as opened:
        answer: SearchResponse = opened.search(query, **options)
        return answer


def _require_no_url(url: str) -> None:
    if url not in (DEFAULT_URL, os.environ.get("SHOAL_URL")):
        raise InvalidArgument("give either --index ROOT or --url URL", param="--index")


def parsed_filter(text: str) -> dict[str, Any]:
    """Return a filter that was typed as JSON. Raises InvalidArgument."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"--filter is not JSON: {error}", param="--filter") from None
    if not isinstance(document, dict):
        raise InvalidArgument(
            """--filter should be a JSON object, such as '{"year": {"$gte": 2020}}'""", param="--filter"
        )
    return document


def unit_of_writes(index: IndexDescription) -> str:
    """What writes to an index are counted in: a text that is cut into passages counts once."""
    return "passages" if index.chunk_characters is None else "records"
