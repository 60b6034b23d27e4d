"""The tools for assistants, asked with the SDK's own client: over stdio for a server and an index, and at /mcp."""

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import StdioServerParameters
from mcp.client.client import Client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from shoal.records import Passage
from shoal.serving import keys
from tests.support.indexes import passages, publish
from tests.support.servers import ROOT, Server, running

KEY = keys.make()
COUNT = 60
TOOLS = ["describe_index", "get", "search", "similar"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mcp") / "index"
    publish(root, "v1", passages(COUNT))
    return root


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants keys."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "keys").write_text(keys.line(KEY, "assistant") + "\n")
    with running(folder, root, "--local", "--reranker=overlap", f"--api-keys-file={folder / 'keys'}") as server:
        server.wait_ready()
        yield server
        assert "Traceback" not in server.errors()
        server.process.terminate()
        assert server.process.wait() == 0


def command(*arguments: str) -> Any:
    """`shoal mcp` with arguments, as an assistant starts it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SHOAL_API_KEY": KEY}
    line = ["-c", "from shoal.cli.main import main; main()", "mcp", *arguments]
    return stdio_client(StdioServerParameters(command=sys.executable, args=line, env=environment))


@asynccontextmanager
async def endpoint(server: Server, key: str | None = KEY) -> AsyncIterator[Any]:
    """/mcp of a server."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as client,
        streamable_http_client(f"{server.url}/mcp", http_client=client) as streams,
    ):
        yield streams


@pytest.fixture(params=["an index", "a server", "its endpoint"])
def transport(request: pytest.FixtureRequest, root: Path, server: Server) -> Any:
    match request.param:
        case "an index":
            return command("--index", str(root), "--no-rerank")
        case "a server":
            return command("--url", server.url)
    return endpoint(server)


async def test_an_assistant_searches_gets_and_is_told_what_there_is(transport: Any) -> None:
    content = {passage.id: passage.text for passage in passages(COUNT)}
    async with Client(transport) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert sorted(tools) == TOOLS
        for tool in tools.values():
            assert tool.annotations is not None
            assert (tool.annotations.read_only_hint, tool.annotations.destructive_hint) == (True, False)
            assert tool.output_schema is not None
            assert tool.description

        found = await client.call_tool(
            "search", {"query": "black otter", "top_n": 3, "filter": {"number": {"$gte": 30}}}
        )
        assert not found.is_error
        results = found.structured_content["results"]  # type: ignore[index]
        assert len(results) == 3
        assert all(result["text"] == content[result["id"]] for result in results)
        assert all(result["metadata"]["number"] >= 30 for result in results)
        assert results[0]["best_sentence"] == results[0]["text"]
        assert [result["score"] for result in results] == sorted((r["score"] for r in results), reverse=True)

        like = await client.call_tool("similar", {"id": "p8", "top_n": 4})
        assert like.structured_content is not None
        assert len(like.structured_content["results"]) == 4
        assert "p8" not in [result["id"] for result in like.structured_content["results"]]
        assert (await client.call_tool("similar", {"id": "nothing"})).is_error

        got = await client.call_tool("get", {"ids": ["p7", "nothing"]})
        assert got.structured_content is not None
        assert [(passage["id"], passage["text"]) for passage in got.structured_content["passages"]] == [
            ("p7", content["p7"])
        ]
        assert got.structured_content["missing"] == ["nothing"]

        described = await client.call_tool("describe_index", {})
        assert described.structured_content is not None
        assert described.structured_content["passages"] == COUNT
        assert described.structured_content["fields"] == {"number": "integer"}

        refused = await client.call_tool("search", {"query": "fish", "filter": {"unknown": 1}})
        assert refused.is_error
        assert "filter.unknown: this index has no such field; its fields are number (integer)" in str(refused.content)
        for wrong in ({"query": "fish", "top_n": 51}, {"query": ""}, {}):
            answer = await client.call_tool("search", wrong)
            assert answer.is_error
            assert "Traceback" not in str(answer.content)


@pytest.mark.parametrize("key", [None, keys.make()], ids=["none", "another"])
async def test_nobody_asks_the_endpoint_without_a_key(server: Server, key: str | None) -> None:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    async with httpx2.AsyncClient(headers=headers) as client:
        answer = await client.post(f"{server.url}/mcp", json=body)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "UNAUTHENTICATED"


async def test_one_document_is_found_once(tmp_path: Path) -> None:
    pieces = [Passage(f"d{number // 6}#{number}", passage.text) for number, passage in enumerate(passages(COUNT))]
    publish(tmp_path / "index", "v1", pieces)
    async with Client(command("--index", str(tmp_path / "index"), "--no-rerank")) as client:
        found = await client.call_tool("search", {"query": "otter", "top_n": 10, "one_per_document": True})
    assert found.structured_content is not None
    documents = [result["id"].partition("#")[0] for result in found.structured_content["results"]]
    assert sorted(documents) == sorted({f"d{number}" for number in range(10)})
