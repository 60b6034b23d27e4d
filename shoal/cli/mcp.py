"""`shoal mcp`: the tools for assistants, over this process's input and output."""

import asyncio
import os
from typing import Annotated, Any

import typer

from shoal.cli.errors import guard
from shoal.cli.options import AsJson
from shoal.cli.server import DEFAULT_URL, IndexRoot, Url
from shoal.errors import InvalidArgument

app = typer.Typer()


@app.command()
def mcp(
    url: Url = DEFAULT_URL,
    index: IndexRoot = None,
    rerank: Annotated[
        bool, typer.Option("--rerank/--no-rerank", help="With --index: load a reranker, and order passages by it.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Give an assistant tools to search with by MCP: those of a server, or of an index in this process.

    It speaks on its standard input and output, as assistants start it, and ends when the input does.
    """
    with guard(as_json):
        from shoal.mcp_tools.server import require_sdk

        require_sdk()
        if index is not None and url not in (DEFAULT_URL, os.environ.get("SHOAL_URL")):
            raise InvalidArgument("give either --index ROOT or --url URL", param="--index")
        asyncio.run(_serve(_client(url) if index is None else _index(index, rerank)))


def _client(url: str) -> Any:
    from shoal.client.clients import AsyncClient

    return AsyncClient(url)


def _index(root: str, rerank: bool) -> Any:
    from shoal.engine.index import AsyncIndex

    return AsyncIndex(root) if rerank else AsyncIndex(root, reranker="none")


async def _serve(asker: Any) -> None:
    from shoal.mcp_tools.server import make_server

    async with asker:
        await make_server(asker).run_stdio_async()
