"""`shoal compare`: what reranking changed."""

import typer

from shoal.cli import tables
from shoal.cli.errors import guard
from shoal.cli.options import AsJson
from shoal.cli.output import console, print_json
from shoal.cli.server import DEFAULT_URL, ApiKey, Mode, Query, TimeoutMs, TopK, TopN, Url, ask
from shoal.settings import ServeSettings

app = typer.Typer()


@app.command()
def compare(
    query: Query,
    url: Url = DEFAULT_URL,
    top_k: TopK = None,
    top_n: TopN = None,
    mode: Mode = None,
    timeout_ms: TimeoutMs = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show the original and the reranked order side by side."""
    with guard(as_json):
        shown = ServeSettings.model_fields["top_n"].default if top_n is None else top_n
        candidates = max(ServeSettings.model_fields["top_k"].default, shown) if top_k is None else top_k
        # All candidates come back, because a passage that reranking moves out of sight belongs to the picture.
        response = ask(
            url, api_key, query, top_k=candidates, top_n=candidates, rerank=True, mode=mode, timeout_ms=timeout_ms
        )
        if as_json:
            print_json(response.model_dump(mode="json", exclude_unset=True))
        else:
            terminal = console()
            terminal.print(tables.comparison(response, shown, terminal.width))
