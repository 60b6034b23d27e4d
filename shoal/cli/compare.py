"""`shoal compare`: what reranking changed."""

from typing import Annotated

import typer

from shoal.cli import tables
from shoal.cli.errors import guard
from shoal.cli.options import AsJson
from shoal.cli.output import console, print_json
from shoal.cli.server import DEFAULT_URL, Filter, IndexRoot, Mode, Query, TimeoutMs, Url, ask
from shoal.errors import InvalidArgument
from shoal.settings import ServeSettings

TOP_K: int = ServeSettings.model_fields["top_k"].default
"""Candidates of each search, unless asked otherwise."""
TOP_N: int = ServeSettings.model_fields["top_n"].default
"""Results of each search, unless asked otherwise."""
app = typer.Typer()


@app.command()
def compare(  # noqa: PLR0913 - one parameter for each option
    query: Query,
    url: Url = DEFAULT_URL,
    index: IndexRoot = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            metavar="INT", help=f"Candidates that are compared. Default: {TOP_K}, or --top-n if that is more."
        ),
    ] = None,
    top_n: Annotated[
        int, typer.Option(metavar="INT", help="Rows shown; with --json all candidates are there.")
    ] = TOP_N,
    mode: Mode = None,
    filter: Filter = None,
    timeout_ms: TimeoutMs = None,
    as_json: AsJson = False,
) -> None:
    """Show the original and the reranked order side by side."""
    with guard(as_json):
        if top_n < 1:
            raise InvalidArgument(f"--top-n: should be at least 1 (got {top_n})", param="--top-n")
        candidates = max(TOP_K, top_n) if top_k is None else top_k
        # All candidates come back, because a passage that reranking moves out of sight belongs to the picture.
        response = ask(
            url,
            query,
            index,
            top_k=candidates,
            top_n=candidates,
            rerank=True,
            mode=mode,
            filter=filter,
            timeout_ms=timeout_ms,
        )
        if as_json:
            print_json(response.model_dump(mode="json", exclude_unset=True))
        else:
            terminal = console()
            terminal.print(tables.comparison(response, top_n, terminal.width))
