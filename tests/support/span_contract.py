"""What the spans of a search say, wherever it is answered."""

import secrets
from typing import Any, ClassVar

import httpx

from tests.support.span_receiver import ReceivedSpan, SpanReceiver

STAGES = ("encode", "retrieve", "merge", "fetch", "rerank")
SECRET = "black otter n8"


class Trace:
    """A trace that a client has begun."""

    def __init__(self, sampled: bool = True) -> None:
        self.id, self.parent = secrets.token_hex(16), secrets.token_hex(8)
        self.headers = {"traceparent": f"00-{self.id}-{self.parent}-{'01' if sampled else '00'}"}


class SpanContract:
    """Tests of a server with two shards and the reranker `overlap`; classes give `traced` and REMOTE.

    REMOTE: spans of other processes, by name, and of which span they are part.
    """

    REMOTE: ClassVar[dict[str, str]] = {}

    def test_a_search_is_one_trace_from_the_request_to_the_shards(
        self, traced: tuple[httpx.Client, SpanReceiver]
    ) -> None:
        client, receiver = traced
        trace = Trace()
        body = {"query": SECRET, "top_k": 20, "top_n": 5}
        answer = client.post("/v1/search", json=body, headers={**trace.headers, "x-request-id": "r-17"})
        assert answer.status_code == 200, answer.text
        spans = receiver.wait_for(trace.id, "POST /v1/search", "search", "shard search", *STAGES, *self.REMOTE)
        by_id = {span.id: span for span in spans}
        names = {span.name: span for span in spans}
        request = names["POST /v1/search"]
        assert (request.parent, request.kind, request.service) == (trace.parent, "server", "shoal")
        assert request.attributes == {
            "http.request.method": "POST",
            "http.route": "/v1/search",
            "http.response.status_code": 200,
            "shoal.request_id": "r-17",
        }
        assert answer.headers["traceresponse"] == f"00-{trace.id}-{request.id}-01"
        assert by_id[names["search"].parent] is request
        for stage in STAGES:
            assert by_id[names[stage].parent] is names["search"]
        shards = [span for span in spans if span.name == "shard search"]
        assert sorted(span.attributes["shoal.shard"] for span in shards) == [0, 1]
        assert {by_id[span.parent].name for span in shards} == {"retrieve"}
        for name, parent in self.REMOTE.items():
            assert {by_id[span.parent].name for span in spans if span.name == name} == {parent}
        assert not any(span.failed for span in spans)
        assert all(0 < span.started <= span.ended for span in spans)
        self.check_what_a_search_says(names["search"], answer.json())
        assert names["encode"].attributes["shoal.batch"] == 1

    def check_what_a_search_says(self, search: ReceivedSpan, answer: dict[str, Any]) -> None:
        assert search.attributes == {
            "shoal.top_k": 20,
            "shoal.top_n": 5,
            "shoal.filtered": False,
            "shoal.query_characters": len(SECRET),
            "shoal.index_version": answer["index_version"],
            "shoal.mode": answer["mode"],
            "shoal.results": 5,
            "shoal.reranked": True,
            "shoal.pairs": 20,
            "shoal.shards": 2,
            "shoal.shards_answered": 2,
            "shoal.coverage": 1.0,
            "shoal.degraded": [],
        }

    def test_several_queries_have_a_span_each(self, traced: tuple[httpx.Client, SpanReceiver]) -> None:
        client, receiver = traced
        trace = Trace()
        client.post(
            "/v1/search", json={"query": ["red fish n1", "blue otter n2"], "rerank": False}, headers=trace.headers
        )
        spans = receiver.wait_for(trace.id, "POST /v1/search")
        searches = {span.id for span in spans if span.name == "search"}
        retrievals = [span for span in spans if span.name == "retrieve"]
        assert len(searches) == 2
        assert {span.parent for span in retrievals} == searches
        shards = [span for span in spans if span.name == "shard search"]
        assert sorted(span.attributes["shoal.shard"] for span in shards) == [0, 0, 1, 1]
        assert {span.parent for span in shards} == {span.id for span in retrievals}

    def test_no_span_holds_a_text_an_id_or_a_key(self, traced: tuple[httpx.Client, SpanReceiver]) -> None:
        client, receiver = traced
        trace = Trace()
        headers = {**trace.headers, "authorization": "Bearer shoal-secret-key"}
        found = client.post("/v1/search", json={"query": SECRET, "filter": {"number": 8}}, headers=headers)
        assert [result["id"] for result in found.json()["results"]] == ["p8"]
        fetched = client.post("/v1/passages/fetch", json={"ids": ["p8", "no-such-passage"]}, headers=headers)
        assert fetched.json()["missing"] == ["no-such-passage"]
        spans = receiver.wait_for(trace.id, "POST /v1/search", "POST /v1/passages/fetch", "shard locate")
        for secret in ("otter", "secret-key", "'p8'", "no-such-passage"):
            assert secret not in "".join(span.content for span in spans)

    def test_a_wrong_request_fails_by_its_type(self, traced: tuple[httpx.Client, SpanReceiver]) -> None:
        client, receiver = traced
        trace = Trace()
        answer = client.post("/v1/search", json={"query": "fish", "filter": {"no_such": 1}}, headers=trace.headers)
        assert answer.status_code == 400
        (request,) = receiver.wait_for(trace.id, "POST /v1/search")
        assert not request.failed  # it is the client's
        assert request.attributes["http.response.status_code"] == 400

    def test_what_a_client_does_not_sample_is_not_traced(self, traced: tuple[httpx.Client, SpanReceiver]) -> None:
        client, receiver = traced
        left_out, trace = Trace(sampled=False), Trace()
        answer = client.post("/v1/search", json={"query": "fish"}, headers=left_out.headers)
        assert answer.status_code == 200
        assert "traceresponse" not in answer.headers
        client.post("/v1/search", json={"query": "fish"}, headers=trace.headers)
        receiver.wait_for(trace.id, "POST /v1/search")
        assert receiver.of(left_out.id) == []

    def test_a_request_without_a_trace_begins_one(self, traced: tuple[httpx.Client, SpanReceiver]) -> None:
        client, receiver = traced
        for headers in ({}, {"traceparent": "00-nonsense-01"}):
            answer = client.get("/v1/index", headers=headers)
            _, trace, _, _ = answer.headers["traceresponse"].split("-")
            (span,) = receiver.wait_for(trace, "GET /v1/index")
            assert span.parent == ""
        assert not any("healthz" in span.name or "readyz" in span.name for span in receiver.spans)
