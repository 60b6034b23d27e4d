"""What the clients send when they write: requests of a size, each with a key, sent again with the same one."""

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest

import shoal
from shoal.client.writes import WriteSummary, delete_calls, joined, upsert_calls
from shoal.errors import InvalidArgument, KeyReused, ShoalError


class Server:
    """Answers requests in turn: with a body, an HTTP response or an error of the transport."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(request.content) for request in self.requests]

    @property
    def keys(self) -> list[str]:
        return [request.headers["idempotency-key"] for request in self.requests]


def client(server: Server) -> shoal.Client:
    return shoal.Client("http://shoal", transport=httpx.MockTransport(server.handle))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.client.clients.time.sleep", lambda seconds: None)


def written(position: int, count: int) -> dict[str, int]:
    return {"position": position, "written": count, "unchanged": 0}


def test_passages_are_cut_into_requests_by_number_bytes_and_repeated_ids() -> None:
    items = [{"id": f"{number}", "text": "x"} for number in range(5)]
    assert [call.size for call in upsert_calls(items, 2, 10_000)] == [2, 2, 1]
    assert [call.size for call in upsert_calls([{"id": "a", "text": "x" * 900}, *items], 100, 1000)] == [4, 2]
    repeated = [{"id": "a", "text": "1"}, {"id": "b", "text": "2"}, {"id": "a", "text": "3"}]
    assert [call.body["passages"] for call in upsert_calls(repeated, 100, 10_000)] == [repeated[:2], repeated[2:]]
    assert [call.body for call in delete_calls(iter("abc"), 2)] == [{"ids": ["a", "b"]}, {"ids": ["c"]}]
    with pytest.raises(InvalidArgument, match="batch_passages"):
        list(upsert_calls(items, 0, 1))


def test_arrays_travel_as_base64_and_lists_as_they_are() -> None:
    vector = np.arange(3, dtype=np.float64)
    (call,) = upsert_calls([{"id": "a", "vector": vector}, {"id": "b", "vector": [1, 2]}], 10, 1000)
    first, second = call.body["passages"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(first["vector"]), "<f4"), [0, 1, 2])
    assert second["vector"] == [1, 2]


def test_a_request_without_an_answer_is_sent_again_with_its_key() -> None:
    unavailable = httpx.Response(503, json={"error": {"code": "UNAVAILABLE", "message": "later"}})
    server = Server(httpx.ReadError("broken"), unavailable, written(1, 2), written(2, 1))
    progress: list[int] = []
    with client(server) as opened:
        summary = opened.upsert(
            ({"id": f"{number}", "text": "x"} for number in range(3)), batch_passages=2, progress=progress.append
        )
    assert summary == WriteSummary(position=2, written=3, unchanged=0)
    first, second, third, fourth = server.keys
    assert first == second == third != fourth
    assert progress == [2, 3]
    assert server.bodies[3] == {"passages": [{"id": "2", "text": "x"}]}


def test_what_was_done_before_an_error_is_noted() -> None:
    refused = httpx.Response(422, json={"error": {"code": "KEY_REUSED", "message": "another"}})
    server = Server(written(1, 1), refused)
    with client(server) as opened, pytest.raises(KeyReused) as failed:
        opened.upsert([{"id": "a", "text": "x"}, {"id": "b", "text": "x"}], batch_passages=1)
    assert failed.value.__notes__ == ["1 passages were done by the requests before"]


def test_a_deletion_by_a_filter_goes_on_while_there_are_more() -> None:
    server = Server({"position": 1, "deleted": 10_000, "more": True}, {"position": 2, "deleted": 5, "more": False})
    with client(server) as opened:
        summary = opened.delete(filter={"year": 1999})
    assert (summary.position, summary.deleted) == (2, 10_005)
    assert server.bodies == [{"filter": {"year": 1999}}] * 2
    assert len(set(server.keys)) == 2
    for wrong in ({}, {"ids": ["a"], "all": True}, {"ids": "a"}):
        with client(Server()) as opened, pytest.raises(InvalidArgument):
            opened.delete(**wrong)


def test_an_answer_of_something_else_is_an_error() -> None:
    with client(Server([])) as opened, pytest.raises(ShoalError, match="not one of a Shoal server"):
        opened.update([{"id": "a", "metadata": {}}])
    with pytest.raises(TypeError):
        joined(WriteSummary(), {"written": "x"})
