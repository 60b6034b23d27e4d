"""Spans of a server without Ray, received as a collector does."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shoal.system import spans
from tests.support.indexes import passages, publish
from tests.support.local_server import serving_locally
from tests.support.span_contract import SECRET, SpanContract, Trace
from tests.support.span_receiver import SpanReceiver, receiving_spans


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("spans")
    publish(root, "v1", passages(60))
    return root


@pytest.fixture(scope="module")
def receiver() -> Iterator[SpanReceiver]:
    with receiving_spans() as receiver:
        spans.stop()  # so that the variables are read
        yield receiver
        spans.stop()


class TestLocally(SpanContract):
    @pytest.fixture(scope="class")
    def traced(self, root: Path, receiver: SpanReceiver) -> Iterator[tuple[httpx.Client, SpanReceiver]]:
        with serving_locally(root, reranker="overlap") as url, httpx.Client(base_url=url, timeout=60) as client:
            yield client, receiver


def test_queries_are_in_spans_where_the_owner_wants_them(root: Path, receiver: SpanReceiver) -> None:
    trace = Trace()
    with serving_locally(root, reranker="overlap", trace_queries=True) as url:
        httpx.post(f"{url}/v1/search", json={"query": SECRET + " x" * 200}, headers=trace.headers)
    (search,) = [span for span in receiver.wait_for(trace.id, "search") if span.name == "search"]
    assert search.attributes["shoal.query"] == (SECRET + " x" * 200)[:200]


def test_an_answer_that_lacks_something_says_so(
    root: Path, receiver: SpanReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*arguments: object) -> None:
        raise RuntimeError("the black otter bit")

    monkeypatch.setattr("shoal.search.local.LocalReranker.score", fail)
    trace = Trace()
    with serving_locally(root, reranker="overlap") as url:
        answer = httpx.post(f"{url}/v1/search", json={"query": SECRET}, headers=trace.headers).json()
    assert not answer["reranked"]
    spans = {span.name: span for span in receiver.wait_for(trace.id, "POST /v1/search", "search")}
    assert spans["search"].attributes["shoal.degraded"] == ["reranker_failed"]
    assert not spans["POST /v1/search"].failed


def test_a_server_without_an_exporter_makes_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spans.stop()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    with serving_locally(root, reranker="overlap") as url:
        answer = httpx.post(f"{url}/v1/search", json={"query": SECRET}, headers=Trace().headers)
    assert answer.status_code == 200
    assert "traceresponse" not in answer.headers
    spans.stop()
