"""Clients of one of several indexes, and what they ask about all of them."""

import json

import httpx
import pytest
from typer.testing import CliRunner

from shoal import AsyncClient, Client
from shoal.cli.index import app
from shoal.errors import Conflict, InvalidArgument, NotFound

DESCRIPTION = {
    "version": "v1", "previous": None, "passages": 3, "shards": 1, "dim": 8, "metric": "cosine", "kind": "flat",
    "models": {"encoder": "hashing:8", "reranker": None},
}  # fmt: skip


class Server:
    """Answers as a server of two indexes does, and notes what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, object]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        self.asked.append((request.method, request.url.path, body))
        if request.method == "DELETE":
            return httpx.Response(202, json={"name": "lamps"})
        if request.url.path == "/v1/indexes":
            entry = {"name": "lamps", "state": "unloaded", "passages": 3, "version": "v1"}
            if request.method == "GET":
                return httpx.Response(200, json=[entry, {"name": "broken", "state": "failed", "problem": "it is torn"}])
            if body["name"] == "taken":
                error = {"code": "CONFLICT", "message": "there is one already", "param": "name"}
                return httpx.Response(409, json={"error": error})
            return httpx.Response(201, json=entry)
        return httpx.Response(200, json=DESCRIPTION)

    def paths(self) -> list[str]:
        return [f"{method} {path}" for method, path, _ in self.asked]


@pytest.fixture
def server() -> Server:
    return Server()


def test_a_client_of_one_index_asks_below_its_name(server: Server) -> None:
    with Client("http://shoal", transport=httpx.MockTransport(server)) as client:
        assert client.index().passages == 3
        lamps = client.index("lamps")
        assert isinstance(lamps, Client)
        lamps.describe()
        lamps.activate("v1")
        lamps.index("chairs").describe()
        client.describe()
    for url, index in (("http://shoal/below/v1/indexes/lamps/", None), ("http://shoal/below", "lamps")):
        with Client(url, index=index, transport=httpx.MockTransport(server)) as client:
            client.describe()
    assert server.paths() == [
        "GET /v1/index", "GET /v1/indexes/lamps/index", "POST /v1/indexes/lamps/index/activate",
        "GET /v1/indexes/chairs/index", "GET /v1/index",
        "GET /below/v1/indexes/lamps/index", "GET /below/v1/indexes/lamps/index",
    ]  # fmt: skip


async def test_the_same_with_asyncio(server: Server) -> None:
    async with AsyncClient("http://shoal", transport=httpx.MockTransport(server)) as client:
        assert (await client.index()).passages == 3
        assert (await client.index("lamps").describe()).passages == 3
        assert [each.name for each in await client.indexes()] == ["lamps", "broken"]
        assert (await client.create_index("lamps", dimension=8)).name == "lamps"
        await client.delete_index("lamps")
    assert server.paths() == [
        "GET /v1/index", "GET /v1/indexes/lamps/index",
        "GET /v1/indexes", "POST /v1/indexes", "DELETE /v1/indexes/lamps",
    ]  # fmt: skip


def test_indexes_are_listed_made_and_removed(server: Server) -> None:
    with Client("http://shoal", index="lamps", transport=httpx.MockTransport(server)) as client:
        assert [(each.name, each.problem) for each in client.indexes()] == [("lamps", None), ("broken", "it is torn")]
        assert client.create_index("lamps", encoder="e", metadata_types=["year:integer"]).passages == 3
        client.delete_index("lamps")
        with pytest.raises(Conflict, match="already"):
            client.create_index("taken", dimension=3)
        with pytest.raises(NotFound):
            client.delete_index("../lamps")
    made = {"name": "lamps", "encoder": "e", "metadata_types": ["year:integer"]}
    assert server.asked[1] == ("POST", "/v1/indexes", made)


@pytest.mark.parametrize(
    ("url", "index"), [("http://shoal/v1/indexes/a", "b"), ("http://shoal", "A"), ("http://x", "")]
)
def test_names_that_are_none(url: str, index: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        Client(url, index=index)
    assert raised.value.param == "index"


def test_the_command_lists_what_a_server_has(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    class Here(Client):
        def __init__(self, url: str, timeout_s: float) -> None:
            super().__init__(url, timeout_s=timeout_s, transport=httpx.MockTransport(server))

    monkeypatch.setattr("shoal.cli.server.Client", Here)
    shown = CliRunner().invoke(app, ["list", "--url", "http://shoal"])
    assert shown.stdout.splitlines() == ["lamps: unloaded, 3 passages", "broken: failed: it is torn"]
    listed = json.loads(CliRunner().invoke(app, ["list", "--url", "http://shoal", "--json"]).stdout)
    assert [each["name"] for each in listed["indexes"]] == ["lamps", "broken"]
