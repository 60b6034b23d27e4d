"""What the HTTP application refuses, and how: wrong fields, bodies, sizes, errors and request ids."""

import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter

from serve.dialects.native import models as native
from serve.dialects.native import render
from serve.web.api import create_api
from shoal.engine.request_models import SearchFields
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
from shoal.testing.fakes import (
    serve_settings,
    served_version,
)
from tests.support.api_server import FakeEngine, Server, answer_of, check_error


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
        ({"query": "a", "rerank": "yes"}, "rerank", "rerank should be true, false, 'late' or 'read'"),
        ({"query": "a", "mode": "fuzzy"}, "mode", "mode should be 'dense', 'lexical', 'hybrid' or 'sparse'"),
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


async def test_an_unknown_field_is_answered_with_those_that_exist(server: Server) -> None:
    fields = ", ".join(SearchFields.model_fields)
    response = await server.post({"query": "a", "topk": 5, "n": None, "top_n": 0})
    assert check_error(response, 400, "INVALID_ARGUMENT", "top_n") == (
        "top_n should be greater than or equal to 1; topk is not a known field "
        f"(the fields are {fields}); n is not a known field"
    )
    response = await server.client.post("/v1/index/activate", json={"version": "v1", "wait": True})
    message = check_error(response, 400, "INVALID_ARGUMENT", "wait")
    assert message == "wait is not a known field (the fields are version)"
    response = await server.client.post("/v1/index/rollback", json={"to": "v1"})
    message = check_error(response, 400, "INVALID_ARGUMENT", "to")
    assert message == "to is not a known field (there are no fields)"


@pytest.mark.parametrize(("value", "path"), [("NaN", ""), ('{"$gt": NaN}', ".$gt"), ('{"$in": [1, NaN]}', ".$in[1]")])
async def test_nan_in_a_filter_is_named(server: Server, value: str, path: str) -> None:
    server.engine.pipeline.switch(served_version("v1", [10, 30], {"number": "integer"}))
    body = f'{{"query": "fish", "filter": {{"number": {value}}}}}'
    message = check_error(await server.post_raw(body.encode()), 400, "INVALID_ARGUMENT", f"filter.number{path}")
    assert message == f"filter.number{path}: is NaN, which is no number and matches nothing"
