"""`shoal serve --local`: what it refuses, whom it answers, what it logs. Its answers: tests/contract/test_engine.py."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from serve import local
from serve.local import RAY_ONLY, JsonLines, LocalIngress, LocalServer, check_local, local_api, serve_locally
from shoal.engine.engine import LocalEngine
from shoal.errors import InvalidArgument, NotFound, Overloaded
from shoal.records import SearchAnswer, SearchRequest
from shoal.serving import keys
from shoal.settings import RunSettings, ServeSettings
from tests.support.indexes import passages, publish


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path / "index", "v1", passages(40))
    return tmp_path / "index"


def run_settings(root: Path, **changes: Any) -> RunSettings:
    return RunSettings(index=str(root), local=True, reranker="overlap", **changes)


@asynccontextmanager
async def client_of(settings: RunSettings) -> AsyncIterator[httpx.AsyncClient]:
    engine = LocalEngine(settings.part(ServeSettings))
    transport = httpx.ASGITransport(local_api(engine, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/readyz")).status_code == 503
        await engine.open()
        yield client
    engine.close()


@pytest.mark.parametrize("name", RAY_ONLY)
def test_options_that_need_ray_are_refused(name: str, tmp_path: Path) -> None:
    values: dict[str, Any] = {"proxy": "ray", "trusted_proxies": ["10.0.0.0/8"], "log_dir": "logs"}
    values |= {"hedge_budget": 0, "gpus_per_replica": 1}
    default = RunSettings.model_fields[name].default
    settings = run_settings(tmp_path, **{name: values.get(name, 60)})
    with pytest.raises(InvalidArgument, match="--local") as raised:
        check_local(settings)
    assert raised.value.param == f"--{name.replace('_', '-')}"
    check_local(run_settings(tmp_path, **{name: default}))


async def test_every_route_answers(root: Path) -> None:
    async with client_of(run_settings(root)) as client:
        assert (await client.get("/readyz")).json() == {"ready": True}
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/v1/index")).json()["models"] == {"encoder": "hashing:64", "reranker": "overlap"}
        answer = (await client.post("/v1/search", json={"query": "the black otter n8"})).json()
        assert answer["results"][0]["text"] == "the black otter number n8"
        listed = (await client.get("/v1/index/versions")).json()["versions"]
        assert [(each["version"], each["state"], each["passages"]) for each in listed] == [("v1", "current", 40)]
        assert (await client.post("/v1/index/activate", json={"version": "v2"})).status_code == 404
        assert (await client.post("/v1/index/rollback", json={})).status_code == 409
        assert "paths" in (await client.get("/openapi.json")).json()


async def test_keys_and_names_are_asked_for(root: Path, tmp_path: Path) -> None:
    key, file = keys.make(), tmp_path / "keys"
    file.write_text(keys.line(key, "reader"))
    async with client_of(run_settings(root, api_keys_file=str(file))) as client:
        assert (await client.post("/v1/search", json={"query": "fish"})).status_code == 401
        asked = await client.post("/v1/search", json={"query": "fish"}, headers={"x-api-key": key})
        assert asked.status_code == 200
        refused = await client.post("/v1/index/rollback", json={}, headers={"x-api-key": key})
        assert refused.status_code == 403
    async with client_of(run_settings(root)) as client:
        assert (await client.get("/v1/index", headers={"host": "evil.example"})).status_code == 403
    async with client_of(run_settings(root, allowed_hosts=["search.example"])) as client:
        assert (await client.get("/v1/index", headers={"host": "search.example"})).status_code == 200


async def test_more_than_max_requests_are_refused_at_once(root: Path) -> None:
    class Slow:
        def __init__(self) -> None:
            self.go_on = asyncio.Event()

        async def search(self, requests: list[SearchRequest]) -> list[SearchAnswer]:
            await self.go_on.wait()
            return []

    slow: Any = Slow()
    ingress = LocalIngress(slow, ServeSettings(index=str(root), max_requests=2))
    begun = [asyncio.create_task(ingress.search([])) for _ in range(2)]
    await asyncio.sleep(0)
    for refused in (ingress.search([]), ingress.embed([], "query", 0), ingress.rerank("fish", [], 0)):
        with pytest.raises(Overloaded):
            await refused
    slow.go_on.set()
    assert await asyncio.gather(*begun) == [[], []]
    assert await ingress.search([]) == []


async def test_texts_are_embedded_and_documents_scored(root: Path) -> None:
    settings = run_settings(root).part(ServeSettings)
    engine = LocalEngine(settings)
    await engine.open()
    ingress, deadline = LocalIngress(engine, settings), time.monotonic() + 60
    texts = [f"text {number}" for number in range(2 * settings.max_batch + 1)]
    embedded = await ingress.embed(texts, "passage", deadline)
    assert embedded.vectors.shape == (len(texts), 64)
    assert (await ingress.embed(texts[:1], "query", deadline)).vectors.shape == (1, 64)
    scores = (await ingress.rerank("black otter", ["green snail", "black otter"], deadline)).scores
    assert scores[1] > scores[0]
    engine.close()


def test_an_index_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_log_to_stderr", lambda settings: None)
    with pytest.raises(NotFound, match="nothing"):
        serve_locally(run_settings(tmp_path / "nothing"), lambda: None)


def test_a_line_of_json_tells_what_failed() -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "it failed: %s", ("why",), (ValueError, error, None))
    line = json.loads(JsonLines().format(record))
    assert line["message"] == "it failed: why"
    assert "ValueError: no" in line["exc_text"]


def test_connections_are_bounded(root: Path) -> None:
    server = LocalServer(FastAPI(), run_settings(root, body_timeout_s=3), lambda: None)
    server.config.load()
    connection: Any = server.config.http_protocol_class
    assert connection.head_timeout_s == 3  # tests/unit/serve/web/test_connections.py says what that does


async def test_what_keeps_the_server_from_compacting_is_told_as_its_problem(root: Path) -> None:
    settings, problem = run_settings(root), "what was written cannot be compacted"
    engine = LocalEngine(settings.part(ServeSettings))
    await engine.open()
    ingress = LocalIngress(engine, settings.part(ServeSettings), lambda: problem)
    assert (await ingress.describe()).problem == problem
    engine.close()
