"""`shoal serve --local --catalog`: indexes by their names, made and removed over HTTP, and whose keys see what."""

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from serve.local import local_api, settings_of_all
from serve.local_indexes import CatalogIndexes
from shoal.catalog.catalog import Catalog
from shoal.serving import keys
from shoal.settings import CatalogSettings, RunSettings
from tests.support.api_server import check_error
from tests.support.closing import PATIENCE_S, SlowCopy
from tests.support.indexes import passages, publish

KEYS = {name: keys.make() for name in ("all", "fish", "fish-admin", "new-admin")}
LINES = [
    keys.line(KEYS["all"], "all", "admin"),
    keys.line(KEYS["fish"], "fish", "write", indexes=["fish"]),
    keys.line(KEYS["fish-admin"], "fish-admin", "admin", indexes=["fish", "gone"]),
    keys.line(KEYS["new-admin"], "new-admin", "admin", indexes=["new"]),
]
TYPED = {"passages": [{"id": "w1", "text": "a walrus writes", "metadata": {"year": 2020}}]}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    for name in ("articles", "birds", "fish"):
        publish(folder / name, "v1", passages(12, name), shards=1)
    return folder


class Server:
    """An application over a catalog, within the event loop of the test."""

    def __init__(self, folder: Path, *, given: bool = True, **options: Any) -> None:
        roots: dict[str, Any] = {"index": str(folder / "articles")} if given else {}
        options = {"catalog": str(folder / "catalog"), "reranker": "overlap", "encoders": ["hashing:32"]} | options
        self.settings = RunSettings(local=True, **roots, **options)
        self.catalog = Catalog(
            settings_of_all(self.settings),
            self.settings.part(CatalogSettings),
            [self.settings.index, *self.settings.further_indexes] if given else [],
        )
        self.indexes = CatalogIndexes(self.catalog)
        self.app: FastAPI = local_api(self.indexes, self.settings)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await self.catalog.open()
            try:
                yield client
                await self.indexes.settle()
            finally:
                self.catalog.close()


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    shutil.copytree(published / "articles", tmp_path / "articles")
    for name in ("birds", "fish"):
        shutil.copytree(published / name, tmp_path / "catalog" / name)
    return tmp_path


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    (tmp_path / "keys").write_text("\n".join(LINES))
    return str(tmp_path / "keys")


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name]}"}


async def texts_of(client: httpx.AsyncClient, prefix: str) -> list[str]:
    answer = await client.post(f"{prefix}/search", json={"query": "black otter", "top_n": 3})
    assert answer.status_code == 200, answer.text
    return [result["text"] for result in answer.json()["results"]]


async def test_every_index_answers_at_its_name_and_the_first_one_by_default(folder: Path) -> None:
    async with Server(folder).client() as client:
        assert (await client.get("/readyz")).json() == {"ready": True}
        for name, prefix in (("articles", "/v1"), *((name, f"/v1/indexes/{name}") for name in ("articles", "birds"))):
            assert all(text.endswith(name) for text in await texts_of(client, prefix))
            described = (await client.get(f"{prefix}/index")).json()
            assert described["passages"] == 12
            fetched = await client.post(f"{prefix}/passages/fetch", json={"ids": ["p1"]})
            assert fetched.json()["passages"][0]["text"].endswith(name)
        assert (await client.get("/v1/indexes/birds")).json()["passages"] == 12
        assert (await client.head("/v1/indexes/birds")).status_code == 200
        states = {each["name"]: each["state"] for each in (await client.get("/v1/indexes")).json()}
        assert states == {"articles": "ready", "birds": "ready", "fish": "unloaded"}
        embedded = await client.post("/v1/indexes/birds/embeddings", json={"input": "a bird"})  # OpenAI's
        assert len(embedded.json()["data"][0]["embedding"]) == 64
        matches = await client.post("/i/birds/query", json={"topK": 2, "id": "p1", "includeMetadata": True})
        assert all(match["metadata"]["text"].endswith("birds") for match in matches.json()["matches"])
        asked = {"knowledge_id": "birds", "query": "otter", "retrieval_setting": {"top_k": 2}}
        records = (await client.post("/retrieval", json=asked)).json()["records"]
        assert all(record["content"].endswith("birds") for record in records)


async def test_without_a_default_index_only_names_answer(folder: Path) -> None:
    async with Server(folder, given=False).client() as client:
        assert (await client.get("/readyz")).status_code == 200
        for path in ("/v1/search", "/v1/embed", "/v1/rerank"):
            bodies: dict[str, Any] = {
                "/v1/search": {"query": "x"},
                "/v1/embed": {"inputs": ["x"], "input_type": "query"},
                "/v1/rerank": {"query": "x", "documents": ["y"]},
            }
            message = check_error(await client.post(path, json=bodies[path]), 404, "NOT_FOUND", None)
            assert "GET /v1/indexes" in message
        assert (await client.get("/v1/index")).status_code == 404
        assert all(text.endswith("fish") for text in await texts_of(client, "/v1/indexes/fish"))


NOT_THERE = (
    *("/v1/indexes/nothing/search", "/v1/indexes/Fish/search", "/v1/indexes/..%2Ffish/search", "/v1/indexes/fish/"),
    *("/v1/indexes/fish/indexes", "/v1/indexes/fish/nothing", "/v1/indexes//search", "/i/nothing/query"),
)


async def test_other_names_and_paths_are_not_found(folder: Path) -> None:
    async with Server(folder).client() as client:
        for path in NOT_THERE:
            body = {"topK": 1, "id": "p1"} if path.startswith("/i/") else {"query": "x"}
            assert (await client.post(path, json=body)).status_code in (404, 405), path


async def test_an_index_is_made_written_to_and_removed(folder: Path, key_file: str) -> None:
    server = Server(folder, api_keys_file=key_file)
    async with server.client() as client:
        client.headers.update(bearer("all"))
        body = {"name": "walruses", "encoder": "hashing:32", "metadata_types": ["year:integer"]}
        made = await client.post("/v1/indexes", json=body)
        assert (made.status_code, made.json()["dim"], made.json()["passages"]) == (201, 32, 0)
        assert made.json()["fields"] == {"year": "integer"}
        check_error(await client.post("/v1/indexes", json=body), 409, "CONFLICT", "name")
        written = (await client.post("/v1/indexes/walruses/passages", json=TYPED)).json()
        asked = {"query": "walrus", "min_position": written["position"], "filter": {"year": 2020}}
        found = (await client.post("/v1/indexes/walruses/search", json=asked)).json()
        assert [result["id"] for result in found["results"]] == ["w1"]
        assert (await client.delete("/v1/indexes/walruses")).status_code == 202
        assert not (folder / "catalog" / "walruses").exists()
        assert (await client.post("/v1/indexes/walruses/search", json=asked)).status_code == 404
        assert (await client.delete("/v1/indexes/walruses")).status_code == 404
        assert (await client.post("/v1/indexes", json=body)).status_code == 201
        vectors = await client.post("/v1/indexes", json={"name": "vectors", "dimension": 3})
        assert vectors.json()["models"] == {"encoder": "none:3", "reranker": "overlap"}
        upsert = {"passages": [{"id": "v", "vector": [1, 0, 0]}]}
        position = (await client.post("/v1/indexes/vectors/passages", json=upsert)).json()["position"]
        near = {"vector": [1, 0, 0], "min_position": position}
        assert (await client.post("/v1/indexes/vectors/search", json=near)).json()["results"][0]["id"] == "v"
    async with Server(folder, api_keys_file=key_file).client() as client:  # what was written is there for the next one
        near = {"vector": [1, 0, 0]}
        answer = await client.post("/v1/indexes/vectors/search", json=near, headers=bearer("all"))
        assert answer.json()["results"][0]["id"] == "v"


NOT_MADE: list[tuple[dict[str, Any], int, str]] = [
    ({"name": "New", "dimension": 3}, 400, "name"),
    ({"name": "../new", "dimension": 3}, 400, "name"),
    ({"name": "-new", "dimension": 3}, 400, "name"),
    ({"name": "n" * 64, "dimension": 3}, 400, "name"),
    ({"name": "new"}, 400, "dimension"),
    ({"name": "new", "dimension": 3, "encoder": "hashing:32"}, 400, "dimension"),
    ({"name": "new", "encoder": "hashing:64"}, 400, "encoder"),
    ({"name": "new", "encoder": "/etc/passwd"}, 400, "encoder"),
    ({"name": "new", "dimension": 70_000}, 400, "dimension"),
    ({"name": "new", "dimension": 3, "metadata_types": ["year"]}, 400, "metadata_types[0]"),
    ({"name": "new", "dimension": 3, "root": "/tmp"}, 400, "root"),
    ({"name": "fish", "dimension": 3}, 409, "name"),
    ({"name": "articles", "dimension": 3}, 409, "name"),
    ({"name": "linked", "dimension": 3}, 409, "name"),
    ({"name": "notes", "dimension": 3}, 409, "name"),
]


async def test_what_is_not_made(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "catalog" / "linked").symlink_to(folder / "elsewhere")
    (folder / "catalog" / "notes").mkdir()
    before = sorted(path.name for path in (folder / "catalog").iterdir())
    async with Server(folder).client() as client:
        for body, status, param in NOT_MADE:
            response = await client.post("/v1/indexes", json=body)
            check_error(response, status, {400: "INVALID_ARGUMENT", 409: "CONFLICT"}[status], param)
    assert sorted(path.name for path in (folder / "catalog").iterdir()) == before
    assert list((folder / "elsewhere").iterdir()) == []


async def test_no_more_are_made_than_there_may_be(folder: Path) -> None:
    async with Server(folder, max_indexes=3).client() as client:
        response = await client.post("/v1/indexes", json={"name": "new", "dimension": 3})
        assert "--max-indexes" in check_error(response, 409, "CONFLICT", None)


async def test_those_that_are_made_side_by_side_count(folder: Path) -> None:
    async with Server(folder, max_indexes=4).client() as client:
        bodies = [{"name": name, "dimension": 3} for name in ("new", "newer", "newest")]
        answers = await asyncio.gather(*(client.post("/v1/indexes", json=body) for body in bodies))
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
        assert len((await client.get("/v1/indexes")).json()) == 4


async def test_an_index_that_is_being_removed_is_not_made_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.catalog.management.USUAL_REMOVAL_S", 0.0)
    server = Server(folder)
    async with server.client() as client:
        body = {"name": "fish", "dimension": 3}
        async with server.catalog.use("fish", time.monotonic() + 60):
            assert (await client.delete("/v1/indexes/fish")).status_code == 202
            refused = await client.post("/v1/indexes", json=body)
            assert "still being removed" in check_error(refused, 409, "CONFLICT", "name")
        await server.indexes.settle()
        assert (await client.post("/v1/indexes", json=body)).status_code == 201


async def make_and_write(client: httpx.AsyncClient, copy: SlowCopy) -> None:
    """Make an index `new` and write to it, until its log is being copied."""
    await client.post("/v1/indexes", json={"name": "new", "dimension": 3})
    written = await client.post("/v1/indexes/new/passages", json={"passages": [{"id": "v", "vector": [1, 0, 0]}]})
    assert written.status_code == 200, written.text
    assert await asyncio.to_thread(copy.begun.wait, PATIENCE_S)


async def test_an_index_is_removed_once_nothing_writes_to_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = SlowCopy(root := folder / "catalog" / "new", monkeypatch)
    server = Server(folder)
    async with server.client() as client:
        await make_and_write(client, copy)
        assert (await client.delete("/v1/indexes/new")).status_code == 202
        await server.indexes.settle()
        assert copy.ended.is_set()
        assert not root.exists()


async def test_an_index_is_forgotten_once_nothing_writes_to_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, server = SlowCopy(folder / "catalog" / "new", monkeypatch), Server(folder)
    async with server.client() as client:
        await make_and_write(client, copy)
        server.catalog.entries["new"].unload()
        await server.catalog.sweep()
        assert copy.ended.is_set()
        assert "new" not in server.catalog.entries


async def test_only_folders_of_the_catalog_are_removed_and_never_through_links(folder: Path) -> None:
    shutil.copytree(folder / "catalog" / "fish", folder / "outside")
    (folder / "catalog" / "outside").symlink_to(folder / "outside")
    shutil.copytree(folder / "catalog" / "fish", folder / "catalog" / "mine")
    (folder / "catalog" / "mine" / "thesis.txt").write_text("years of work")
    (folder / "catalog" / "fish" / "versions" / "link").symlink_to(folder / "outside")
    (folder / "catalog" / ".birds.removed-0123456789abcdef").mkdir()
    async with Server(folder, further_indexes=[str(folder / "catalog" / "birds")]).client() as client:
        assert not (folder / "catalog" / ".birds.removed-0123456789abcdef").exists()  # left by one that was killed
        assert (await client.delete("/v1/indexes/outside")).status_code == 404
        for name in ("articles", "birds"):
            assert "--index" in check_error(await client.delete(f"/v1/indexes/{name}"), 409, "CONFLICT", None)
        assert "thesis.txt" in check_error(await client.delete("/v1/indexes/mine"), 409, "CONFLICT", None)
        assert (await client.delete("/v1/indexes/fish")).status_code == 202
    assert not (folder / "catalog" / "fish").exists()
    assert (folder / "outside" / "CURRENT").exists()
    assert (folder / "catalog" / "birds" / "CURRENT").exists()
    assert (folder / "catalog" / "mine" / "thesis.txt").exists()
    assert (folder / "articles" / "CURRENT").exists()


async def test_a_broken_index_is_listed_with_its_reason_and_the_others_answer(folder: Path) -> None:
    (folder / "catalog" / "fish" / "versions" / "v1" / "manifest.json").write_text("{}")
    async with Server(folder).client() as client:
        assert (await client.post("/v1/indexes/fish/search", json={"query": "x"})).status_code == 409
        listed = {each["name"]: each for each in (await client.get("/v1/indexes")).json()}
        assert listed["fish"]["state"] == "failed"
        assert "manifest" in listed["fish"]["problem"]
        assert all(text.endswith("birds") for text in await texts_of(client, "/v1/indexes/birds"))


def operations(app: FastAPI) -> list[tuple[str, str]]:
    """Every route of the application, with names in its path filled in."""
    return [(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods]


BODIES: dict[str, Any] = {
    "/search": {"query": "otter"},
    "/passages": TYPED,
    "/passages/delete": {"ids": ["p1"]},
    "/passages/update": {"updates": [{"id": "p1", "metadata": {}}]},
    "/passages/fetch": {"ids": ["p1"]},
    "/embed": {"inputs": ["x"], "input_type": "query"},
    "/rerank": {"query": "x", "documents": ["y"]},
    "/index/activate": {"version": "v1"},
    "/index/rollback": {},
    "/query": {"topK": 1, "id": "p1"},
    "/vectors/fetch_by_metadata": {"filter": {"number": 1}},
    "/vectors/upsert": {"vectors": [{"id": "a", "values": [1.0] * 64, "metadata": {"text": "a"}}]},
    "/vectors/update": {"id": "p1", "setMetadata": {"year": 1}},
    "/vectors/delete": {"ids": ["p1"]},
}


async def test_a_key_cannot_tell_whether_an_index_is_there_that_it_is_not_good_for(folder: Path, key_file: str) -> None:
    """On every route that has the name of an index in its path or body; with the words that hide the name."""
    server = Server(folder, api_keys_file=key_file)
    paths = [(method, path) for method, path in operations(server.app) if "{index}" in path or "{name}" in path]
    paths += [
        ("POST", "/v1/indexes/{index}/mcp"),
        ("POST", "/v1/indexes/{index}/embeddings"),
        ("DELETE", "/v1/indexes/{index}"),
    ]
    paths = [(method, path) for method, path in paths if not path.startswith(("/v1/models", "/models"))]
    assert len(paths) > 25
    async with server.client() as client:
        for method, path in paths:
            answers = []
            for name in ("birds", "never"):
                asked = re.sub(r"\{(index|name)\}", name, path).replace("{namespace}", "__default__")
                body = next((BODIES[end] for end in sorted(BODIES, key=len, reverse=True) if path.endswith(end)), {})
                sent = {"json": body} if method in ("POST", "PATCH") else {}
                answer = await client.request(method, asked, headers=bearer("fish-admin"), **sent)
                answers.append((answer.status_code, answer.text.replace(name, "NAME")))
                assert answer.status_code == 404, (method, asked, answer.text)
            assert answers[0] == answers[1], (method, path)
        assert server.catalog.entries.keys() == {"articles"}  # nothing was even looked for
        assert (folder / "catalog" / "birds" / "CURRENT").exists()


async def test_a_bound_key_sees_and_changes_its_own_alone(folder: Path, key_file: str) -> None:
    server = Server(folder, api_keys_file=key_file)
    async with server.client() as client:
        mine, admin = bearer("fish"), bearer("fish-admin")
        for path in ("/v1/indexes", "/indexes"):
            listed = (await client.get(path, headers=mine)).json()
            names = [each["name"] for each in (listed["indexes"] if path == "/indexes" else listed)]
            assert names == ["fish"]
        found = await client.post("/v1/indexes/fish/search", json={"query": "otter"}, headers=mine)
        assert found.json()["results"][0]["text"].endswith("fish")
        # The default index is another's: it, its models and its size are not this key's to see.
        defaults: list[tuple[str, str, Any]] = [
            ("POST", "/v1/search", {"query": "otter"}), ("GET", "/v1/index", None), ("GET", "/v1/models", None),
            ("GET", "/models", None), ("GET", "/info", None), ("POST", "/v1/embeddings", {"input": "x"}),
            ("POST", "/v2/rerank", {"query": "x", "documents": ["y"]}), ("GET", "/v1/passages", None),
            ("POST", "/embed", {"inputs": "x"}), ("POST", "/rerank", {"query": "x", "texts": ["y"]}),
            ("POST", "/v1/passages", TYPED), ("POST", "/v1/passages/fetch", {"ids": ["p1"]}),
        ]  # fmt: skip
        for method, path, body in defaults:
            answer = await client.request(method, path, json=body, headers=mine)
            assert answer.status_code == 404, (path, answer.text)
            assert "articles" not in answer.text
        for name, status in (("birds", 404), ("never", 404), ("articles", 404), ("default", 404), ("fish", 200)):
            asked = {"knowledge_id": name, "query": "otter", "retrieval_setting": {"top_k": 2}}
            assert (await client.post("/retrieval", json=asked, headers=mine)).status_code == status, name
        # What may be made and removed: nothing that tells of others.
        for name in ("birds", "never"):
            for path in ("/v1/indexes", "/indexes"):
                refused = await client.post(path, json={"name": name, "dimension": 3}, headers=admin)
                assert refused.status_code == 403, refused.text
        assert (await client.delete("/v1/indexes/fish", headers=mine)).status_code == 403
        assert (await client.post("/indexes", json={"name": "gone", "dimension": 3}, headers=admin)).status_code == 201
        assert (await client.delete("/indexes/gone", headers=admin)).status_code == 202
        assert (await client.delete("/v1/indexes/fish", headers=admin)).status_code == 202
        assert (await client.post("/v1/indexes/fish/search", json={"query": "x"}, headers=admin)).status_code == 404


async def test_mcp_answers_for_the_index_of_its_path(folder: Path, key_file: str) -> None:
    pytest.importorskip("mcp")
    server = Server(folder, api_keys_file=key_file)
    call = {
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "search", "arguments": {"query": "black otter", "top_n": 1}},
    }  # fmt: skip
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}
    async with server.client() as client, server.app.router.lifespan_context(server.app):
        paths = {"/mcp": "articles", "/v1/indexes/birds/mcp": "birds", "/v1/indexes/fish/mcp": "fish"}
        for path, name in paths.items():
            key = "fish" if name == "fish" else "all"
            answer = (await client.post(path, json=call, headers=headers | bearer(key))).json()
            (found,) = answer["result"]["structuredContent"]["results"]
            assert found["text"].endswith(name)
        answer = (await client.post("/mcp", json=call, headers=headers | bearer("fish"))).json()
        assert answer["result"]["isError"]
        assert "articles" not in str(answer)
