"""The blocking and the asynchronous client go through the same tests, over httpx.MockTransport.

Long because every test asks the one fake server, with a fake clock.
"""

import asyncio
import email.utils
import gzip
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

import shoal
from shoal.client import answer_body
from shoal.errors import (
    Conflict,
    CorruptIndex,
    DeadlineExceeded,
    EncoderMismatch,
    InvalidArgument,
    ModelUnavailable,
    NotFound,
    Overloaded,
    PermissionDenied,
    ShoalError,
    Unauthenticated,
    Unavailable,
)

ANSWER: dict[str, Any] = {
    "id": "req-1",
    "index_version": "20261122T000000-abcd",
    "results": [
        {
            "id": "a",
            "score": 0.9,
            "retrieval_score": 0.5,
            "retrieval_rank": 2,
            "rerank_score": 0.9,
            "text": "A",
            "metadata": {"k": 1},
        }
    ],
    "reranked": True,
    "coverage": {"shards": 2, "answered": 2, "fraction": 1.0, "missing": []},
    "degraded": None,
    "timings_ms": {"total": 12.5},
    "usage": {"pairs": 25},
}
INDEX = {
    "version": "v2",
    "previous": "v1",
    "passages": 10,
    "shards": 2,
    "dim": 64,
    "metric": "cosine",
    "kind": "flat",
    "models": {},
}


GZIP = {"content-encoding": "gzip"}
HUGE_DAY = "Mon, 99999999999999999999 Jan 2020 00:00:00 GMT"
"""No date that a number of days can hold."""


class Arriving(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The body of an answer that arrives part by part; `taken` counts the parts that somebody waited for."""

    def __init__(self, part: bytes, parts: int) -> None:
        self._part = part
        self._parts = parts
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self._parts):
            self.taken += 1
            yield self._part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part


class Server:
    """Answers requests from a list, and keeps what it was sent. A fake clock moves with the waits of the client."""

    def __init__(self) -> None:
        self.answers: list[httpx.Response | Exception] = []
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []
        self.now = 1000.0

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def body(self, number: int = 0) -> Any:
        return json.loads(self.requests[number].content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()

    async def wait(seconds: float) -> None:
        server.wait(seconds)

    monkeypatch.setattr(time, "sleep", server.wait)
    monkeypatch.setattr(asyncio, "sleep", wait)
    monkeypatch.setattr(time, "monotonic", lambda: server.now)
    monkeypatch.setattr(random, "random", lambda: 0.5)
    for name in ("SHOAL_URL", "SHOAL_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return server


Call = Callable[..., Any]


@pytest.fixture(params=["blocking", "asyncio"])
def call(request: pytest.FixtureRequest, server: Server) -> Call:
    """`call(method, *args, **options)` on a new client; `client={...}` gives the arguments of its constructor."""

    def blocking(method: str, *args: Any, client: dict[str, Any] | None = None, **options: Any) -> Any:
        with shoal.Client(transport=httpx.MockTransport(server.handle), **(client or {})) as opened:
            return getattr(opened, method)(*args, **options)

    def asynchronous(method: str, *args: Any, client: dict[str, Any] | None = None, **options: Any) -> Any:
        async def run() -> Any:
            async with shoal.AsyncClient(transport=httpx.MockTransport(server.handle), **(client or {})) as opened:
                return await getattr(opened, method)(*args, **options)

        # A loop of our own, because the fake clock would confuse one that waits.
        steps = run()
        try:
            steps.send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("the client waited for something real")

    return blocking if request.param == "blocking" else asynchronous


def refusal(status: int, code: str, message: str = "no", param: str | None = None, **headers: str) -> httpx.Response:
    body = {
        "error": {"code": code, "type": "x", "message": message, "param": param},
        "message": message,
        "status": status,
    }
    return httpx.Response(status, json=body, headers=headers)


def test_search_sends_what_was_asked_and_reads_the_answer(server: Server, call: Call) -> None:
    server.answers = [httpx.Response(200, json=ANSWER)]
    options = {
        "top_k": 50,
        "top_n": 5,
        "rerank": False,
        "mode": "hybrid",
        "recall": 0.99,
        "include": ["text"],
        "timeout_ms": 100,
        "explain": True,
    }
    options["filter"] = {"year": {"$gte": 2020}}
    response = call("search", "fish", **options)
    request = server.requests[0]
    assert (request.method, str(request.url)) == ("POST", "http://127.0.0.1:8000/v1/search")
    assert server.body() == {"query": "fish", **options}
    assert request.headers["user-agent"] == f"shoal/{shoal.__version__}"
    assert "authorization" not in request.headers
    assert response.results[0].id == "a"
    assert response.results[0].retrieval_rank == 2
    assert response.coverage.fraction == 1.0
    assert response.degraded is None
    assert response.model_dump(mode="json", exclude_unset=True) == ANSWER


def test_options_that_are_left_out_are_the_servers_business(server: Server, call: Call) -> None:
    server.answers = [httpx.Response(200, json=ANSWER)]
    call("search", "fish")
    assert server.body() == {"query": "fish"}


def test_several_queries_give_several_responses(server: Server, call: Call) -> None:
    server.answers = [httpx.Response(200, json={"responses": [ANSWER, {**ANSWER, "id": "req-2"}]})]
    assert [response.id for response in call("search", ["a", "b"])] == ["req-1", "req-2"]
    assert server.body()["query"] == ["a", "b"]


def test_fields_of_a_newer_server_are_kept(server: Server, call: Call) -> None:
    server.answers = [httpx.Response(200, json={**ANSWER, "novelty": [1]})]
    assert call("search", "fish").novelty == [1]


def test_index_activate_and_rollback(server: Server, call: Call) -> None:
    server.answers = [httpx.Response(200, json=INDEX) for _ in range(3)]
    described = call("index")
    assert (described.version, described.previous, described.passages, described.shards) == ("v2", "v1", 10, 2)
    assert call("activate", "v2").version == "v2"
    assert call("rollback").version == "v2"
    sent = [(request.method, request.url.path) for request in server.requests]
    assert sent == [("GET", "/v1/index"), ("POST", "/v1/index/activate"), ("POST", "/v1/index/rollback")]
    assert server.body(1) == {"version": "v2"}


def test_ready(server: Server, call: Call) -> None:
    server.answers = [httpx.Response(200), httpx.Response(503), httpx.ConnectError("refused")]
    assert [call("ready") for _ in range(3)] == [True, False, False]
    assert server.waits == []


def test_address_and_key(server: Server, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers = [httpx.Response(200, json=INDEX) for _ in range(2)]
    call("index", client={"url": "https://example.org/shoal/", "api_key": "secret"})
    monkeypatch.setenv("SHOAL_URL", "http://other:1")
    monkeypatch.setenv("SHOAL_API_KEY", "mine")
    call("index")
    assert [str(request.url) for request in server.requests] == [
        "https://example.org/shoal/v1/index", "http://other:1/v1/index"
    ]  # fmt: skip
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer secret", "Bearer mine"]


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "nonsense", "//host"])
def test_what_is_no_url_is_refused_at_once(url: str, call: Call) -> None:
    with pytest.raises(InvalidArgument, match="is not the URL of a server") as caught:
        call("index", client={"url": url})
    assert caught.value.param == "url"


def test_attempts_must_be_positive(call: Call) -> None:
    with pytest.raises(InvalidArgument):
        call("index", client={"attempts": 0})


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "INVALID_ARGUMENT", InvalidArgument),
        (404, "NOT_FOUND", NotFound),
        (409, "CONFLICT", Conflict),
        (409, "ENCODER_MISMATCH", EncoderMismatch),
        (409, "CORRUPT_INDEX", CorruptIndex),
        (503, "MODEL_UNAVAILABLE", ModelUnavailable),
        (413, "PAYLOAD_TOO_LARGE", InvalidArgument),
        (500, "INTERNAL", ShoalError),
        (504, "DEADLINE_EXCEEDED", DeadlineExceeded),
        (401, "SOMETHING_NEW", Unauthenticated),
        (403, "SOMETHING_NEW", PermissionDenied),
        (422, "SOMETHING_NEW", InvalidArgument),
        (502, "SOMETHING_NEW", ShoalError),
    ],
)
def test_a_refusal_becomes_the_error_that_the_server_raised(
    status: int, code: str, kind: type[ShoalError], server: Server, call: Call
) -> None:
    server.answers = [refusal(status, code, "top_n must be >= 1", "top_n")]
    with pytest.raises(ShoalError) as caught:
        call("search", "fish")
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.param) == ("top_n must be >= 1", "top_n")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, "nothing here", NotFound),
        (502, "<html>", ShoalError),
        (400, '{"error": "text"}', InvalidArgument),
        (409, "[]", Conflict),
        (409, 100_000 * "[", Conflict),
    ],
)
def test_a_refusal_by_something_else_names_the_place(
    status: int, body: str, kind: type[ShoalError], server: Server, call: Call
) -> None:
    server.answers = [httpx.Response(status, text=body)]
    with pytest.raises(ShoalError) as caught:
        call("index")
    assert type(caught.value) is kind
    assert caught.value.message.startswith(f"http://127.0.0.1:8000 answered {status}")


@pytest.mark.parametrize("body", ["hello", "[]", "{}", '{"id": 1}', 100_000 * "["])
def test_an_answer_of_something_else_is_an_error(body: str, server: Server, call: Call) -> None:
    server.answers = [httpx.Response(200, text=body)]
    with pytest.raises(ShoalError, match="not one of a Shoal server"):
        call("search", "fish")


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize(("part", "coding"), [(bytes(1000), {}), (gzip.compress(bytes(1000)), GZIP)])
def test_an_answer_without_end_is_given_up(
    status: int, part: bytes, coding: dict[str, str], server: Server, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_body, "MAX_ANSWER_BYTES", 999)
    arriving = Arriving(part, 50)
    server.answers = [httpx.Response(status, headers=coding, stream=arriving)]
    with pytest.raises(ShoalError, match="larger than 999 bytes"):
        call("index")
    assert arriving.taken == 1
    assert len(server.requests) == 1


@pytest.mark.parametrize("coding", ["gzip, gzip", "deflate", "br", "zstd"])
def test_an_answer_in_another_coding_is_not_unpacked(coding: str, server: Server, call: Call) -> None:
    """What is packed twice is a million times larger."""
    arriving = Arriving(gzip.compress(gzip.compress(bytes(10**6))), 1)
    server.answers = [httpx.Response(200, headers={"content-encoding": coding}, stream=arriving)]
    with pytest.raises(ShoalError, match="packed with"):
        call("index")
    assert arriving.taken == 0
    assert server.requests[0].headers["accept-encoding"] == "gzip"


def test_an_answer_with_gzip_is_read(server: Server, call: Call) -> None:
    arriving = Arriving(gzip.compress(json.dumps(INDEX).encode()), 1)
    server.answers = [httpx.Response(200, headers=GZIP, stream=arriving)]
    assert call("index").version == "v2"


@pytest.mark.parametrize("charset", ["hex", "zip", "nonsense"])
def test_a_refusal_in_an_odd_charset_is_shown(charset: str, server: Server, call: Call) -> None:
    server.answers = [httpx.Response(404, headers={"content-type": f"text/x; charset={charset}"}, content=b"\xff no")]
    with pytest.raises(NotFound, match="answered 404"):
        call("index")


@pytest.mark.parametrize(("status", "code"), [(429, "OVERLOADED"), (503, "UNAVAILABLE")])
def test_a_busy_server_is_asked_again_after_the_time_it_names(
    status: int, code: str, server: Server, call: Call
) -> None:
    server.answers = [refusal(status, code, **{"retry-after": "2"}), httpx.Response(200, json=ANSWER)]
    assert call("search", "fish").id == "req-1"
    # 2 s, and half (the fake chance) of 0.1 * 2**1.
    assert server.waits == [pytest.approx(2.1)]
    assert server.body(0) == server.body(1)


def test_retry_after_as_a_date(server: Server, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
    date = email.utils.formatdate(1_800_000_007, usegmt=True)
    server.answers = [refusal(503, "UNAVAILABLE", **{"retry-after": date}), httpx.Response(200, json=INDEX)]
    call("index")
    assert server.waits == [pytest.approx(7.1)]


@pytest.mark.parametrize("header", ["soon", "nan", "-3", "", "Fri, 31 Feb", HUGE_DAY])
def test_an_odd_retry_after_is_ignored(header: str, server: Server, call: Call) -> None:
    server.answers = [refusal(503, "UNAVAILABLE", **{"retry-after": header}), httpx.Response(200, json=INDEX)]
    call("index")
    assert server.waits == [pytest.approx(0.1)]


def test_waits_grow_until_the_attempts_are_used_up(server: Server, call: Call) -> None:
    server.answers = [refusal(429, "OVERLOADED", f"full {n}", **{"retry-after": "0"}) for n in range(4)]
    with pytest.raises(Overloaded, match="full 3") as caught:
        call("search", "fish")
    assert caught.value.retry_after_s == 0.0
    assert server.waits == pytest.approx([0.1, 0.2, 0.4])


def test_backoff_is_bounded(server: Server, call: Call) -> None:
    server.answers = [refusal(429, "OVERLOADED") for _ in range(9)]
    with pytest.raises(Overloaded):
        call("index", client={"attempts": 9})
    assert max(server.waits) == pytest.approx(2.5)


def test_one_attempt_means_no_retries(server: Server, call: Call) -> None:
    server.answers = [refusal(503, "UNAVAILABLE", **{"retry-after": "1"})]
    with pytest.raises(Unavailable) as caught:
        call("index", client={"attempts": 1})
    assert caught.value.retry_after_s == 1.0
    assert server.waits == []


def test_a_wait_beyond_the_deadline_is_not_begun(server: Server, call: Call) -> None:
    server.answers = [refusal(503, "UNAVAILABLE", **{"retry-after": "4"}) for _ in range(3)]
    with pytest.raises(Unavailable):
        call("index", client={"timeout_s": 10.0})
    assert server.waits == pytest.approx([4.1, 4.2])
    timeouts = [request.extensions["timeout"]["read"] for request in server.requests]
    assert timeouts == pytest.approx([10.0, 5.9, 1.7])


@pytest.mark.parametrize(
    ("query", "options", "fault"),
    [
        ("a lone \ud800", {}, "surrogates not allowed"),
        ("fish", {"filter": {"year": float("nan")}}, "not JSON compliant"),
        ("fish", {"filter": {"year": {2020}}}, "set is not JSON serializable"),
    ],
)
def test_what_json_cannot_say_is_not_sent(server: Server, call: Call, query: str, options: Any, fault: str) -> None:
    with pytest.raises(InvalidArgument, match=f"cannot be sent as JSON: .*{fault}"):
        call("search", query, **options)
    assert server.requests == []


@pytest.mark.parametrize("url", ["http://me:secret@host:1", "ftp://me:secret@host"])
def test_no_message_repeats_a_password_of_the_url(url: str, server: Server, call: Call) -> None:
    server.answers = [httpx.Response(404, text="no such page")]
    with pytest.raises(ShoalError, match="//host") as caught:
        call("index", client={"url": url})
    assert "secret" not in str(caught.value)
    assert all("authorization" in request.headers for request in server.requests)


def test_what_a_url_cannot_say_is_not_sent(server: Server, call: Call) -> None:
    with pytest.raises(InvalidArgument, match=r"cannot be sent in a URL: .*surrogates not allowed"):
        call("list", prefix="a lone \ud800")
    assert server.requests == []


def test_a_broken_connection_is_tried_again(server: Server, call: Call) -> None:
    broken = [httpx.ConnectError("refused"), httpx.ReadError("reset"), httpx.RemoteProtocolError("gone")]
    server.answers = [*broken, httpx.Response(200, json=ANSWER)]
    assert call("search", "fish").id == "req-1"
    assert len(server.requests) == 4


def test_no_server_says_what_to_start(server: Server, call: Call) -> None:
    server.answers = [httpx.ConnectError("[Errno 111] Connection refused") for _ in range(4)]
    with pytest.raises(Unavailable, match=r"no server at http://127.0.0.1:8000 .*shoal serve --index ROOT") as caught:
        call("search", "fish")
    assert isinstance(caught.value.__cause__, httpx.ConnectError)


def test_a_server_that_does_not_answer_in_time_is_not_asked_again(server: Server, call: Call) -> None:
    server.answers = [httpx.ReadTimeout("")]
    with pytest.raises(DeadlineExceeded, match="did not answer within 3 s"):
        call("search", "fish", client={"timeout_s": 3})
    assert len(server.requests) == 1


def test_a_rollback_that_may_have_arrived_is_not_sent_again(server: Server, call: Call) -> None:
    server.answers = [httpx.ConnectError("refused"), httpx.ReadError("reset")]
    with pytest.raises(Unavailable, match="broke"):
        call("rollback")
    assert len(server.requests) == 2


def test_a_rollback_that_may_have_been_done_is_not_sent_again(server: Server, call: Call) -> None:
    server.answers = [httpx.Response(503)]
    with pytest.raises(Unavailable):
        call("rollback")
    assert len(server.requests) == 1


def test_a_rollback_that_was_refused_is_sent_again(server: Server, call: Call) -> None:
    server.answers = [httpx.Response(429), httpx.Response(200, json=INDEX)]
    assert call("rollback").version == "v2"
