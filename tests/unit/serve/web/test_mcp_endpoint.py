"""/mcp within the application: names, bodies, and what is said where the SDK is missing."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

import shoal.mcp_tools.server
from tests.support.api_server import PASSAGES, Server

LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
HEADERS = {"accept": "application/json, text/event-stream"}


@pytest.fixture
async def started() -> AsyncIterator[Server]:
    server = Server()
    async with server.app.router.lifespan_context(server.app):
        yield server


async def post(server: Server, body: Any, **headers: str) -> httpx.Response:
    return await server.client.post("/mcp", json=body, headers={**HEADERS, **headers})


async def test_tools_are_listed_and_called_with_json(started: Server) -> None:
    listed = await post(started, LIST)
    assert listed.status_code == 200
    assert {tool["name"] for tool in listed.json()["result"]["tools"]} == {"search", "similar", "get", "describe_index"}
    call = {"name": "get", "arguments": {"ids": ["p0003"]}}
    got = (await post(started, {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call})).json()["result"]
    assert got["structuredContent"]["passages"][0]["text"] == PASSAGES[3].text


async def test_what_goes_wrong_inside_is_not_told(started: Server) -> None:
    started.engine.error = RuntimeError("secret place")
    call = {"name": "search", "arguments": {"query": "fish"}}
    answer = await post(started, {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call})
    assert answer.json()["result"]["isError"]
    assert "secret" not in answer.text


async def test_pages_of_other_sites_may_not_ask(started: Server) -> None:
    assert (await post(started, LIST, origin="https://evil.example")).status_code == 403
    assert (await post(started, LIST, origin="http://shoal")).status_code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_nothing_opens_a_stream_that_never_ends(started: Server, method: str) -> None:
    answer = await started.client.request(method, "/mcp", headers=HEADERS)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


async def test_a_body_that_is_too_large_is_refused(started: Server) -> None:
    answer = await post(started, {**LIST, "params": {"x": "y" * started.settings.max_body_bytes}})
    assert answer.status_code == 413


async def test_where_the_sdk_is_missing_it_is_said_how_to_get_it(
    started: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shoal.mcp_tools.server, "find_spec", lambda name: None)
    answer = await post(started, LIST)
    assert answer.status_code == 404
    assert "pip install 'shoal[mcp]'" in answer.json()["error"]["message"]


async def test_there_is_none_where_it_is_turned_off() -> None:
    assert (await post(Server(mcp=False), LIST)).status_code == 404
