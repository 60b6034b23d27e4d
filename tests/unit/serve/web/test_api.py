"""The HTTP application over the real pipeline and fake services: no sockets, no Ray."""

import json
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter

from serve.dialects.native import models as native
from serve.dialects.native import render, routes
from serve.versions.description import IndexDescription, ModelNames
from serve.web.api import create_api
from shoal.errors import (
    Conflict,
    CorruptIndex,
    DeadlineExceeded,
    InvalidArgument,
    ModelUnavailable,
    NotFound,
    Overloaded,
    ShoalError,
    Unavailable,
)
from shoal.filters import Compare
from shoal.index_root.manifest import CurvePoint, VectorIndexInfo
from shoal.records import SearchAnswer, SearchRequest
from shoal.search.pipeline import SearchPipeline
from shoal.testing.fakes import (
    FakeEncoder,
    FakeReranker,
    FakeShard,
    corpus,
    exact,
    serve_settings,
    served_version,
    vector_of,
)

PASSAGES = corpus(40, title=True)


class FakeEngine:
    """The real pipeline over two fake shards; remembers its requests and raises `error` if it is set."""

    def __init__(self, settings: Any) -> None:
        self.shards = [FakeShard(PASSAGES[:10]), FakeShard(PASSAGES[10:])]
        self.pipeline = SearchPipeline(FakeEncoder(), self.shards, FakeReranker(), settings)
        self.pipeline.switch(served_version("v1", [10, 30]))
        self.requests: list[SearchRequest] = []
        self.missing: list[str] = []
        self.error: Exception | None = None
        self.previous: str | None = None

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        self.requests += requests
        if self.error:
            raise self.error
        return await self.pipeline.search_all(requests)

    async def describe(self) -> IndexDescription:
        assert self.pipeline.version is not None
        return IndexDescription(
            version=self.pipeline.version,
            previous=self.previous,
            created_at="2026-11-22T23:34:11+00:00",
            passages=40,
            shards=2,
            dim=8,
            metric="cosine",
            kind="flat",
            search="",
            recall_at_10=None,
            curve=[],
            modes=["dense"],
            late_interaction="none",
            fields={},
            models=ModelNames("fake", "fake"),
        )

    async def activate(self, version: str) -> None:
        if self.error:
            raise self.error
        self.previous = self.pipeline.version
        self.pipeline.switch(served_version(version, [10, 30]))

    async def rollback(self) -> None:
        if self.previous is None:
            raise Conflict("there is no previous version")
        await self.activate(self.previous)

    async def ready(self) -> list[str]:
        return self.missing


class Server:
    """A client of an application that runs in the same event loop."""

    def __init__(self, **settings: Any) -> None:
        self.settings = serve_settings(**settings)
        self.engine = FakeEngine(self.settings)
        self.app = create_api(lambda: self.engine, self.settings)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://shoal")

    async def post(self, body: Any, **changes: Any) -> httpx.Response:
        return await self.client.post("/v1/search", json=body, **changes)

    async def post_raw(self, content: Any, **headers: str) -> httpx.Response:
        headers = {"content-type": "application/json", **headers}
        return await self.client.post("/v1/search", content=content, headers=headers)


@pytest.fixture
def server() -> Server:
    return Server()


def check_error(response: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    """Check everything that holds for every error, and return the message."""
    body = response.json()
    assert response.status_code == body["status"] == status, body
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert ("retry-after" in response.headers) == (status in (429, 503))
    error = body["error"]
    assert (error["code"], error["param"]) == (code, param), body
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    assert error["type"] == kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    assert error["message"] == body["message"] == body["detail"]
    assert "Traceback" not in response.text
    message: str = error["message"]
    return message


def answer_of(response: httpx.Response) -> native.SearchResponse:
    """Check a response against the model that OpenAPI declares."""
    assert response.status_code == 200, response.text
    return TypeAdapter(native.SearchResponse).validate_json(response.content, strict=True)


async def test_a_search_with_defaults(server: Server) -> None:
    response = await server.post({"query": "fish"})
    answer = answer_of(response)
    candidates = [int(id_[1:]) for id_, _ in exact(PASSAGES, "fish", 25)]
    assert [result.id for result in answer.results] == [f"p{n:04d}" for n in sorted(candidates, reverse=True)[:10]]
    best = answer.results[0]
    number = max(candidates)
    assert (best.text, best.title, best.metadata) == (
        f"text of passage {number}",
        f"title {number}",
        {"number": number},
    )
    assert (best.score, best.rerank_score, best.retrieval_rank) == (number, number, candidates.index(number) + 1)
    assert answer.id == response.headers["x-request-id"]
    assert (answer.index_version, answer.reranked, answer.degraded) == ("v1", True, None)
    assert answer.coverage.model_dump() == {"shards": 2, "answered": 2, "fraction": 1.0, "missing": []}
    assert answer.usage.model_dump() == {"queries": 1, "pairs": 25}
    assert set(response.json()) == {
        "id", "index_version", "results", "mode", "reranked", "reranker", "coverage", "degraded", "timings_ms", "usage",
    }  # fmt: skip
    assert set(response.json()["results"][0]) == {
        "id", "score", "retrieval_score", "retrieval_rank", "rerank_score", "title", "text", "metadata",
    }  # fmt: skip


async def test_a_list_of_queries_is_answered_with_a_list(server: Server) -> None:
    response = await server.post({"query": ["a", "b"], "rerank": False, "top_n": 1}, headers={"x-request-id": "mine"})
    answers = TypeAdapter(native.SearchResponses).validate_json(response.content, strict=True).responses
    assert [answer.results[0].id for answer in answers] == [exact(PASSAGES, query, 1)[0][0] for query in ("a", "b")]
    assert [answer.id for answer in answers] == ["mine-0", "mine-1"]
    assert len((await server.post({"query": ["a"]})).json()["responses"]) == 1


@pytest.mark.parametrize(
    ("include", "fields"),
    [([], set()), (["text"], {"title", "text"}), (["metadata"], {"metadata"}), (["vector", "vector"], {"vector"})],
)
async def test_include_chooses_the_parts_of_a_passage(server: Server, include: list[str], fields: set[str]) -> None:
    response = await server.post({"query": "a", "include": include})
    answer = answer_of(response)
    assert set(response.json()["results"][0]) - {
        "id", "score", "retrieval_score", "retrieval_rank", "rerank_score",
    } == fields  # fmt: skip
    if fields == {"vector"}:
        expected = vector_of(PASSAGES[int(answer.results[0].id[1:])].text)
        np.testing.assert_allclose(answer.results[0].vector, expected, rtol=1e-6)  # type: ignore[arg-type]


async def test_a_passage_without_a_title_has_no_title_field(server: Server) -> None:
    server.engine.shards[:] = [FakeShard(corpus(10)), FakeShard([])]
    server.engine.pipeline.switch(served_version("v1", [10, 0]))
    assert "title" not in (await server.post({"query": "a"})).json()["results"][0]


@pytest.mark.parametrize(
    ("body", "top_k", "top_n"),
    [
        ({}, 25, 10),
        ({"top_k": 3}, 3, 3),
        ({"top_k": 50}, 50, 10),
        ({"top_n": 3}, 25, 3),
        ({"top_n": 60}, 60, 60),
        ({"top_k": 7, "top_n": 7}, 7, 7),
        ({"top_k": 50, "rerank": False}, 50, 50),
        ({"rerank": False}, 25, 10),
        ({"top_k": None, "top_n": None, "filter": None, "mode": None, "include": None, "timeout_ms": None}, 25, 10),
        ({"filter": {}, "mode": "dense"}, 25, 10),
        ({"top_k": 1000}, 1000, 10),
    ],
)
async def test_what_is_left_out_follows_what_is_given(server: Server, body: Any, top_k: int, top_n: int) -> None:
    answer_of(await server.post({"query": "a", **body}))
    (request,) = server.engine.requests
    assert (request.top_k, request.top_n) == (top_k, top_n)


async def test_a_filter_reaches_the_shards_and_one_that_does_not_fit_is_refused_with_its_path(server: Server) -> None:
    server.engine.pipeline.switch(served_version("v1", [10, 30], {"number": "integer"}))
    answer_of(await server.post({"query": "a", "filter": {"number": {"$gte": 7}}}))
    assert [shard.calls[0].filters for shard in server.engine.shards] == [[Compare("number", "gte", 7)]] * 2
    message = check_error(
        await server.post({"query": "a", "filter": {"$or": [{"number": {"$gt": "x"}}]}}),
        400,
        "INVALID_ARGUMENT",
        "filter.$or[0].number.$gt",
    )
    assert message == 'filter.$or[0].number.$gt: should be a number, not "x"'
    deep = "{" + '"$and": [{' * 400 + "}]" * 400 + "}"
    response = await server.post_raw('{"query": "a", "filter": ' + deep + "}")
    assert "nested more than 16 levels" in check_error(response, 400, "INVALID_ARGUMENT", "filter" + ".$and[0]" * 16)


async def test_each_query_gets_the_recall_that_it_asks_for_and_more_than_the_version_has_is_refused(
    server: Server,
) -> None:
    curve = [CurvePoint(search=f"nprobe={n}", recall=recall, latency_ms=1.0) for n, recall in ((1, 0.8), (8, 0.99))]
    ivf = VectorIndexInfo(kind="ivf", search="nprobe=1", recall_at_10=0.8, latency_ms=1.0, curve=curve)
    server.engine.pipeline.switch(served_version("v1", [10, 30], index=ivf))
    answer_of(await server.post({"query": "a", "recall": 0.9}))
    answer_of(await server.post({"query": "b"}))
    assert [[call.search_params for call in shard.calls] for shard in server.engine.shards] == [
        [["nprobe=8"], None]
    ] * 2
    refused = check_error(await server.post({"query": "a", "recall": 0.995}), 400, "INVALID_ARGUMENT", "recall")
    assert "at most 0.99" in refused
    for wrong in (0, 1.5, "much"):
        check_error(await server.post({"query": "a", "recall": wrong}), 400, "INVALID_ARGUMENT", "recall")


async def test_late_reranks_where_the_shards_can_and_is_refused_where_they_cannot(server: Server) -> None:
    refused = check_error(await server.post({"query": "a", "rerank": "late"}), 400, "INVALID_ARGUMENT", "rerank")
    assert "build it with --late-interaction stored" in refused
    server.engine.pipeline.switch(served_version("v1", [10, 30], late=True))
    answer = answer_of(await server.post({"query": "a", "rerank": "late", "top_n": 3}))
    nearest = sorted((id_ for id_, _ in exact(PASSAGES, "a", 25)), reverse=True)
    assert [result.id for result in answer.results] == nearest[:3]
    assert (answer.reranked, answer.reranker) == (True, "late")
    answer = answer_of(await server.post({"query": "a", "rerank": True}))
    assert (answer.reranked, answer.reranker) == (True, "late_interaction")
    answer = answer_of(await server.post({"query": "a", "rerank": False}))
    assert (answer.reranked, answer.reranker) == (False, None)
    for wrong in ("early", 1, [], {}):
        check_error(await server.post({"query": "a", "rerank": wrong}), 400, "INVALID_ARGUMENT", "rerank")


async def test_rerank_is_off_by_default_where_there_is_no_reranker() -> None:
    server = Server(reranker="none")
    answer = answer_of(await server.post({"query": "a"}))
    assert (answer.reranked, answer.degraded) == (False, None)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"query": "a", "top_k": 5, "top_k": 6}', "top_k"),
        (b'{"query": "a", "filter": {"year": 2020, "year": {"$gte": 1}}}', "year"),
        (b'{"query": "a", "filter": {"$or": [{"a": 1}, {"b": {"$gt": 1, "$gt": 2}}]}}', "$gt"),
        (b'{"query": "a", "' + b"n" * 900 + b'": 1, "' + b"n" * 900 + b'": 2}', "n" * 64),
    ],
)
async def test_a_name_that_stands_twice_is_refused(server: Server, body: bytes, name: str) -> None:
    """The last value would win without a word."""
    message = check_error(await server.post_raw(body), 400, "INVALID_ARGUMENT")
    assert f"{name!r} twice" in message


async def test_explain_and_timeout(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes.time, "time", lambda: 5_000_000_000.0)
    answer = answer_of(await server.post({"query": "a", "explain": True, "timeout_ms": 1500}))
    assert answer.explain is not None
    assert set(answer.explain) == {"plan", "shards", "candidates"}
    assert server.engine.requests[0].deadline == 5_000_000_001.5


async def test_a_partial_answer_is_a_success(server: Server) -> None:
    server.engine.shards[0].behaviour.errors = [ValueError("/secret/path")]
    response = await server.post({"query": "a"})
    answer = answer_of(response)
    assert answer.coverage.model_dump() == {
        "shards": 2, "answered": 1, "fraction": 0.75, "missing": [{"shard": 0, "reason": "error"}],
    }  # fmt: skip
    assert answer.degraded == "1 of 2 shards is missing (shard 0: error)"
    assert "secret" not in response.text


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "query", "query is required"),
        ({"query": None}, "query", "query is required"),
        ({"query": ""}, "query", "query should have at least 1 character"),
        ({"query": " \n\t\u2003"}, "query", "query should not be blank"),
        ({"query": "x" * 9000}, "query", "query should have at most 8192 characters"),
        ({"query": "é" * 8000}, "query", "query should be at most 8192 bytes of UTF-8, not 16000"),
        ({"query": "x" * 900_000}, "query", "query should have at most 8192 characters"),
        ({"query": 5}, "query", "query should be a valid string"),
        ({"query": {"text": "a"}}, "query", "query should be a valid string"),
        ({"query": []}, "query", "query should have at least 1 item, not 0"),
        ({"query": ["a"] * 65}, "query", "query should have at most 64 items, not 65"),
        ({"query": ["a", " "]}, "query[1]", "query[1] should not be blank"),
        ({"query": ["a", 5]}, "query[1]", "query[1] should be a valid string"),
        ({"query": ["a", None]}, "query[1]", "query[1] should be a valid string"),
        ({"query": "a", "top_k": 0}, "top_k", "top_k should be greater than or equal to 1"),
        ({"query": "a", "top_k": -1}, "top_k", "top_k should be greater than or equal to 1"),
        ({"query": "a", "top_k": 10**9}, "top_k", "top_k should be less than or equal to 1000"),
        ({"query": "a", "top_k": 10**30}, "top_k", "top_k should be less than or equal to 1000"),
        ({"query": "a", "top_k": "5"}, "top_k", "top_k should be a valid integer"),
        ({"query": "a", "top_k": 2.5}, "top_k", "top_k should be a valid integer"),
        ({"query": "a", "top_k": True}, "top_k", "top_k should be a valid integer"),
        ({"query": "a", "top_n": 0}, "top_n", "top_n should be greater than or equal to 1"),
        ({"query": "a", "top_n": 1001}, "top_n", "top_n should be less than or equal to 1000"),
        ({"query": "a", "top_k": 5, "top_n": 6}, "top_n", "top_n should be at most top_k (5), not 6"),
        ({"query": "a", "rerank": "yes"}, "rerank", "rerank should be true, false or 'late'"),
        ({"query": "a", "mode": "sparse"}, "mode", "mode should be 'dense', 'lexical' or 'hybrid'"),
        ({"query": "a", "filter": "year > 2020"}, "filter", "filter should be a valid dictionary"),
        ({"query": "a", "include": "text"}, "include", "include should be a valid list"),
        (
            {"query": "a", "include": ["text", "txt"]},
            "include[1]",
            "include[1] should be 'text', 'metadata' or 'vector'",
        ),
        ({"query": "a", "timeout_ms": 0}, "timeout_ms", "timeout_ms should be greater than or equal to 1"),
        ({"query": "a", "timeout_ms": 60_001}, "timeout_ms", "timeout_ms should be less than or equal to 60000"),
        ({"query": "a", "topk": 5}, "topk", "topk is not a known field"),
        ({"query": "a", "t" * 5000: 5}, "t" * 64 + "...", "t" * 64 + "... is not a known field"),
        (
            {"query": "a", "topk": 5, "top_k": 0},
            "top_k",
            "top_k should be greater than or equal to 1; topk is not a known",
        ),
        ([], None, "the body should be a JSON object"),
        ("fish", None, "the body should be a JSON object"),
    ],
)
async def test_a_wrong_field_is_named(server: Server, body: Any, param: str | None, message: str) -> None:
    assert message in check_error(await server.post(body), 400, "INVALID_ARGUMENT", param)
    assert server.engine.requests == []


@pytest.mark.parametrize(
    ("wrong", "param", "problems"),
    [
        ({f"k{n}": n for n in range(50_000)}, "k0", 10),
        ({"include": [""] * 100_000}, "include", 1),
        ({"query": [""] * 64}, "query[0]", 10),
        ({"query": [""] * 100_000}, "query", 1),
    ],
)
async def test_of_many_problems_the_first_are_named(
    server: Server, monkeypatch: pytest.MonkeyPatch, wrong: Any, param: str, problems: int
) -> None:
    described = 0
    errors = RequestValidationError.errors

    def counted(error: RequestValidationError) -> Any:
        nonlocal described
        described = len(errors(error))
        return errors(error)

    monkeypatch.setattr(RequestValidationError, "errors", counted)
    response = await server.post({"query": "a", **wrong})
    message = check_error(response, 400, "INVALID_ARGUMENT", param)
    assert len(message.split("; ")) == problems + (problems > 1)
    assert message.endswith("; and more") == (problems > 1)
    assert described <= 64, "each is a dictionary made of many parts"


@pytest.mark.parametrize(
    ("content", "param", "message"),
    [
        (b"", None, "the body is empty; send a JSON object"),
        (b"null", None, "the body"),
        (b'{"query": "a"', None, "the body is not JSON: Expecting ',' delimiter at character 13"),
        (b'{"query": "a",}', None, "the body is not JSON"),
        (b"{'query': 'a'}", None, "the body is not JSON"),
        (b'{"query": "\xff"}', None, "the body"),
        (b'{"query": "\\ud800"}', "query", "query should be a valid string"),
        (b'{"query": ["a", "\\udfff"]}', "query[1]", "query[1] should be a valid string"),
        (b'{"query": "a", "top_k": NaN}', "top_k", "top_k should be a"),
        (b'{"query": "a", "top_k": Infinity}', "top_k", "top_k should be a"),
        (b'{"query": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, "the body"),
        (b'{"query": "a", "top_k": ' + b"9" * 10_000 + b"}", None, "the body"),
    ],
)
async def test_a_body_that_is_no_proper_json_is_refused(
    server: Server, content: bytes, param: str | None, message: str
) -> None:
    assert message in check_error(await server.post_raw(content), 400, "INVALID_ARGUMENT", param)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_body_that_is_not_declared_as_json_is_refused(server: Server, content_type: str) -> None:
    response = await server.post_raw(b'{"query": "a"}', **{"content-type": content_type})
    assert "Content-Type: application/json" in check_error(response, 415, "UNSUPPORTED_MEDIA_TYPE")


async def test_json_with_a_charset_is_json(server: Server) -> None:
    answer_of(await server.post_raw(b'{"query": "a"}', **{"content-type": "application/json; charset=utf-8"}))


async def test_a_body_too_large_is_refused_before_it_is_read(server: Server) -> None:
    pulled = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal pulled
        while True:
            pulled += 1
            yield b" " * 100_000

    response = await server.post_raw(endless())
    assert "1000000 bytes" in check_error(response, 413, "PAYLOAD_TOO_LARGE")
    assert pulled == 11
    pulled = 0
    response = await server.post_raw(endless(), **{"content-length": "1000001"})
    check_error(response, 413, "PAYLOAD_TOO_LARGE")
    assert pulled <= 1
    largest = json.dumps({"query": "a"}).encode()
    answer_of(await server.post_raw(largest + b" " * (1_000_000 - len(largest))))


async def test_no_more_queries_than_may_wait_are_accepted() -> None:
    server = Server(max_waiting=3)
    check_error(await server.post({"query": ["a"] * 4}), 400, "INVALID_ARGUMENT", "query")
    assert len((await server.post({"query": ["a"] * 3})).json()["responses"]) == 3


@pytest.mark.parametrize(
    ("body", "param", "makes"),
    [
        ({"top_n": 8}, "top_n", "top_n 8 of 3 queries makes 24 results, more than the 20 of one answer"),
        ({"top_n": 3, "include": ["vector"]}, "top_n", "makes 9 results with vectors, more than the 8 of one answer"),
        ({"top_n": 1, "explain": True}, "top_k", "top_k 25 of 3 queries makes 75 results"),
    ],
)
async def test_one_answer_has_so_many_results_and_no_more(body: Any, param: str, makes: str) -> None:
    server = Server(max_results=20, max_vectors=8)
    refused = await server.post({"query": ["a", "b", "c"], **body})
    assert makes in check_error(refused, 400, "INVALID_ARGUMENT", param)
    assert server.engine.requests == []
    many = {"query": "a", "top_k": 20, "top_n": 8, "include": ["vector"], "explain": True}
    assert (await server.post(many)).status_code == 200
    response = await server.post({"query": ["a", "b"], "top_n": 4, "include": ["vector"]})
    assert [len(answer["results"]) for answer in response.json()["responses"]] == [4, 4]


async def test_a_large_answer_is_written_beside_the_loop(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    writers: list[bool] = []
    written = render.render_answer

    def write(*args: Any) -> bytes:
        writers.append(threading.current_thread() is threading.main_thread())
        return written(*args)

    monkeypatch.setattr(render, "render_answer", write)
    small = await server.post({"query": "a", "top_n": 20})
    response = await server.post({"query": ["a", "b", "c"], "top_n": 20})
    assert writers == [True, False, False, False]
    first, *_ = TypeAdapter(native.SearchResponses).validate_json(response.content, strict=True).responses
    assert [result.id for result in first.results] == [result.id for result in answer_of(small).results]


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (InvalidArgument("wrong", param="query"), 400, None),
        (NotFound("gone"), 404, None),
        (Conflict("unfit"), 409, None),
        (CorruptIndex("broken"), 409, None),
        (Overloaded("full", retry_after_s=2.1), 429, "3"),
        (Overloaded("full"), 429, "1"),
        (ModelUnavailable("no model"), 503, "1"),
        (Unavailable("nobody", retry_after_s=0.01), 503, "1"),
        (DeadlineExceeded("late"), 504, None),
        (ShoalError("internal"), 500, None),
    ],
)
async def test_every_error_has_its_status(
    server: Server, error: ShoalError, status: int, retry_after: str | None
) -> None:
    server.engine.error = error
    response = await server.post({"query": "a"})
    assert check_error(response, status, error.code, error.param) == error.message
    assert response.headers.get("retry-after") == retry_after


async def test_what_nobody_expected_is_logged_and_tells_the_client_nothing(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.engine.error = ValueError("/secret/path")
    response = await server.post({"query": "a"}, headers={"x-request-id": "abc-123"})
    message = check_error(response, 500, "INTERNAL")
    assert "abc-123" in message
    assert "secret" not in response.text
    assert "request abc-123: POST /v1/search failed" in caplog.text
    assert "/secret/path" in caplog.text


async def test_unknown_routes_and_methods(server: Server) -> None:
    assert "there is no /v1/nothing here" in check_error(await server.client.get("/v1/nothing"), 404, "NOT_FOUND")
    response = await server.client.get("/v1/search")
    assert "GET is not allowed on /v1/search" in check_error(response, 405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("given", ["0af7651916cd43dd", "a.b:c_d-e/f+g="])
async def test_a_sane_request_id_is_kept(server: Server, given: str) -> None:
    for response in (
        await server.post({"query": "a"}, headers={"x-request-id": given}),
        await server.post({}, headers={"x-request-id": given}),
        await server.client.get("/healthz", headers={"x-request-id": given}),
        await server.client.get("/find_no_services", headers={"x-request-id": given}),
    ):
        assert response.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "<script>", "a\tb", b"\xff"])
async def test_any_other_request_id_is_replaced(server: Server, given: Any) -> None:
    headers = {} if given is None else {"x-request-id": given}
    made = [(await server.client.get("/healthz", headers=headers)).headers["x-request-id"] for _ in range(2)]
    assert all(len(one) == 32 for one in made)
    assert made[0] != made[1]


async def test_a_server_around_the_application_can_add_the_request_id_instead() -> None:
    settings = serve_settings()
    app = create_api(FakeEngine(settings), settings, adds_request_id=False)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shoal") as client:
        response = await client.post("/v1/search", json={"query": "a"}, headers={"x-request-id": "mine"})
    assert "x-request-id" not in response.headers
    assert response.json()["id"] == "mine"


async def test_health_and_readiness(server: Server) -> None:
    assert (await server.client.get("/healthz")).json() == {"status": "ok"}
    assert (await server.client.get("/readyz")).json() == {"ready": True}
    server.engine.missing = ["shard 1 has no replica with version v2", "the encoder does not answer"]
    response = await server.client.get("/readyz")
    message = check_error(response, 503, "UNAVAILABLE")
    assert message == "not ready: shard 1 has no replica with version v2, the encoder does not answer"
    assert response.json()["missing"] == server.engine.missing
    assert (await server.client.get("/healthz")).status_code == 200


async def test_the_index_can_be_described_activated_and_rolled_back(server: Server) -> None:
    info = native.IndexInfo.model_validate_json((await server.client.get("/v1/index")).content)
    assert (info.version, info.previous, info.passages) == ("v1", None, 40)
    refusal = check_error(await server.client.post("/v1/index/rollback", json={}), 409, "CONFLICT")
    assert refusal == "there is no previous version"
    activated = (await server.client.post("/v1/index/activate", json={"version": "v2"})).json()
    assert (activated["version"], activated["previous"]) == ("v2", "v1")
    # What a page of another site can make a browser send is refused.
    for sent in ({}, {"content": "{}", "headers": {"content-type": "text/plain"}}):
        assert (await server.client.post("/v1/index/rollback", **sent)).status_code in (400, 415)
    assert server.engine.pipeline.version == "v2"
    assert (await server.client.post("/v1/index/rollback", json={})).json()["version"] == "v1"
    assert (await server.post({"query": "a"})).json()["index_version"] == "v1"


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "version"), ({"version": 5}, "version"), ({"version": ""}, "version"), ({"v": "x"}, "version")],
)
async def test_an_activation_names_a_version(server: Server, body: Any, param: str) -> None:
    check_error(await server.client.post("/v1/index/activate", json=body), 400, "INVALID_ARGUMENT", param)


async def test_an_engine_itself_can_be_given() -> None:
    settings = serve_settings()
    app = create_api(FakeEngine(settings), settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shoal") as client:
        assert (await client.get("/readyz")).status_code == 200


async def test_the_documentation_page_lists_the_routes_without_its_scripts(server: Server) -> None:
    page = (await server.client.get("/docs")).text
    plain = page.partition('<div id="swagger-ui">')[2].partition("<script")[0]
    for route in ("POST /v1/search", "GET /v1/index", "GET /readyz", "openapi.json"):
        assert route in plain


async def test_openapi_is_complete_and_true(server: Server) -> None:
    document = (await server.client.get("/openapi.json")).json()
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(operations) >= {
        "POST /v1/search", "GET /v1/index", "POST /v1/index/activate", "POST /v1/index/rollback",
        "GET /healthz", "GET /readyz",
    }  # fmt: skip
    schemas = document["components"]["schemas"]
    for name, operation in operations.items():
        assert operation["description"], name
        assert "422" not in operation["responses"], name
        for status, response in operation["responses"].items():
            schema = response["content"]["application/json"]["schema"]
            if status != "200":
                assert schema["$ref"].split("/")[-1] in ("ErrorBody", "NotReady"), (name, status)
            if status in ("429", "503"):
                assert "Retry-After" in response["headers"], (name, status)
    assert "HTTPValidationError" not in schemas
    assert set(operations["POST /v1/search"]["responses"]) >= {"200", "400", "413", "415", "429", "500", "503", "504"}

    for example in schemas["SearchResponse"]["examples"]:
        TypeAdapter(native.SearchResponse).validate_python(example, strict=True)
    for example in schemas["SearchBody"]["examples"]:
        answer_of(await server.post(example))

    fields = schemas["SearchBody"]["properties"]
    assert schemas["SearchBody"]["additionalProperties"] is False
    assert (fields["top_k"]["default"], fields["top_k"]["minimum"], fields["top_k"]["maximum"]) == (25, 1, 1000)
    assert fields["timeout_ms"]["maximum"] == server.settings.max_timeout_ms
    for name, field in fields.items():
        assert field["description"], name


async def test_limits_come_from_the_settings() -> None:
    server = Server(
        top_k=4, top_n=2, max_top_k=5, max_query_bytes=10, max_queries=2, timeout_ms=500, max_timeout_ms=600
    )
    answer_of(await server.post({"query": "a"}))
    assert (server.engine.requests[0].top_k, server.engine.requests[0].top_n) == (4, 2)
    for body, param in (
        ({"query": "a", "top_k": 6}, "top_k"),
        ({"query": "x" * 11}, "query"),
        ({"query": ["a"] * 3}, "query"),
        ({"query": "a", "timeout_ms": 601}, "timeout_ms"),
    ):
        check_error(await server.post(body), 400, "INVALID_ARGUMENT", param)
