"""The application on a real local Serve: what a client gets, and what it gets when a replica dies."""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import httpx
import httpx2
import numpy as np
import pytest
import ray
from mcp.client.client import Client as Assistant
from mcp.client.streamable_http import streamable_http_client
from ray import serve
from ray.dag.py_obj_scanner import _PyObjScanner

from serve import telemetry
from serve.app import NAME, build_app
from serve.ray_adapters.handles import EncoderHandle, ShardHandle, readable
from shoal.encoders import TokenEncoder, load_encoder
from shoal.errors import CorruptIndex, InvalidArgument, Overloaded, ShoalError, Unavailable
from shoal.rerankers.late_interaction import LateInteraction
from shoal.settings import EncoderSettings, LateSettings
from shoal.shard.messages import ShardSearch, dense_queries
from tests.support.dashboard import SERVE_METRICS
from tests.support.indexes import passages, publish
from tests.support.serving import local_ray, serving
from tests.support.span_contract import SpanContract
from tests.support.span_receiver import SpanReceiver, receiving_spans

COUNT = 300


@pytest.fixture(scope="module", autouse=True)
def receiver() -> Iterator[SpanReceiver]:
    """What receives the spans of the server below, whose processes begin with the variables that name it."""
    with receiving_spans() as receiver, local_ray():
        yield receiver


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, logs: Path) -> Iterator[httpx.Client]:
    root = tmp_path_factory.mktemp("index")
    publish(root, "v1", passages(COUNT), late=LateSettings(late_interaction="stored", late_dims=32, late_bits=8))
    told = {"log_dir": str(logs), "log_format": "json", "log_level": "DEBUG", "slow_query_ms": 0}
    own = {"encoder_replicas": 1, "retriever_replicas": 1}
    with serving(root, reranker="overlap", reranker_max_replicas=2, **own, **told) as client:
        yield client


class TestSpans(SpanContract):
    """As of a server without Ray (tests/contract/test_spans.py), and those of the replicas."""

    REMOTE: ClassVar[dict[str, str]] = {
        "encoder encode": "encode",
        "retriever search": "shard search",
        "reranker score": "rerank",
    }

    @pytest.fixture
    def traced(self, server: httpx.Client, receiver: SpanReceiver) -> tuple[httpx.Client, SpanReceiver]:
        return server, receiver


def search(client: httpx.Client, query: str, **options: Any) -> dict[str, Any]:
    response = client.post("/v1/search", json={"query": query, **options})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def test_both_stages_answer(server: httpx.Client) -> None:
    answer = search(server, "black otter n8", top_k=20, top_n=5)
    assert answer["reranked"]
    assert answer["coverage"] == {"shards": 2, "answered": 2, "fraction": 1.0, "missing": []}
    assert answer["degraded"] is None
    assert answer["results"][0]["text"] == "the black otter number n8"
    assert len(answer["results"]) == 5
    scores = [result["score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)


async def test_an_assistant_asks_it_at_mcp(server: httpx.Client) -> None:
    """With the client of the SDK; what the tools answer: tests/contract/test_mcp.py."""
    async with (
        httpx2.AsyncClient(timeout=60) as http,
        Assistant(streamable_http_client(f"{server.base_url}/mcp", http_client=http)) as assistant,
    ):
        assert sorted(tool.name for tool in (await assistant.list_tools()).tools) == [
            *("describe_index", "get", "search", "similar")
        ]
        answer = await assistant.call_tool("search", {"query": "black otter n8", "top_n": 3})
        assert not answer.is_error
        assert answer.structured_content is not None
        assert answer.structured_content["results"][0]["id"] == "p8"
        assert (await assistant.call_tool("search", {"query": "fish", "filter": {"unknown": 1}})).is_error


def test_the_shards_rerank_with_their_token_vectors(server: httpx.Client) -> None:
    assert server.get("/v1/index").json()["late_interaction"] == "stored"
    answer = search(server, "black otter n8", top_k=20, top_n=5, rerank="late")
    assert (answer["reranked"], answer["reranker"], answer["degraded"]) == (True, "late", None)
    assert answer["results"][0]["text"] == "the black otter number n8"
    encoder = load_encoder(EncoderSettings(encoder="hashing:64"))
    assert isinstance(encoder, TokenEncoder)
    texts = [result["text"] for result in answer["results"]]
    expected = LateInteraction(encoder, 0).score("black otter n8", texts)
    np.testing.assert_allclose([result["rerank_score"] for result in answer["results"]], expected, atol=0.1)
    assert [result["score"] for result in answer["results"]] == sorted(
        (result["rerank_score"] for result in answer["results"]), reverse=True
    )


def test_stage_one_equals_exact_search_over_all_passages(server: httpx.Client) -> None:
    model, content = load_encoder(EncoderSettings(encoder="hashing:64")), passages(COUNT)
    vectors = model.encode_passages([passage.text for passage in content])
    for query in ("white newt", "n17", "the green fish number n31", "unrelated words"):
        answer = search(server, query, top_k=10, rerank=False)
        exact = vectors @ model.encode_queries([query])[0]
        order = sorted(range(COUNT), key=lambda row: (-exact[row], content[row].id))[:10]
        np.testing.assert_allclose([result["score"] for result in answer["results"]], exact[order], atol=1e-5)
        for result in answer["results"]:
            assert result["score"] == pytest.approx(float(exact[int(result["id"][1:])]), abs=1e-5)


def test_many_clients_at_once_are_answered_in_full(server: httpx.Client) -> None:
    content = passages(COUNT)

    def ask(number: int) -> tuple[int, dict[str, Any]]:
        return number, search(server, content[number].text, top_k=50, top_n=3)

    with ThreadPoolExecutor(16) as clients:
        for number, answer in clients.map(ask, range(120)):
            assert answer["coverage"]["answered"] == 2
            assert answer["results"][0]["id"] == f"p{number}"


def test_a_list_of_queries_is_answered_with_vectors(server: httpx.Client) -> None:
    body = {"query": ["n1", "n2"], "top_k": 5, "top_n": 1, "include": ["vector"]}
    response = server.post("/v1/search", json=body).json()
    first, second = (answer["results"][0] for answer in response["responses"])
    assert (first["id"], second["id"]) == ("p1", "p2")
    assert np.linalg.norm(first["vector"]) == pytest.approx(1, abs=1e-5)


def test_only_what_a_filter_lets_through_is_found(server: httpx.Client) -> None:
    few = {"$or": [{"number": {"$lt": 5}}, {"number": {"$in": [7, 299, 1000]}}]}
    for rerank in (True, False):
        answer = search(server, "black otter n8", top_k=50, top_n=50, rerank=rerank, filter=few)
        assert {result["id"] for result in answer["results"]} == {"p0", "p1", "p2", "p3", "p4", "p7", "p299"}
    nothing = search(server, "fish", filter={"number": {"$gt": 1000}}, explain=True)
    assert nothing["results"] == []
    assert [shard["matches"] for shard in nothing["explain"]["shards"]] == [0, 0]
    wrong = server.post("/v1/search", json={"query": "fish", "filter": {"year": 2020}})
    assert wrong.status_code == 400
    assert wrong.json()["message"] == "filter.year: this index has no such field; its fields are number (integer)"
    assert server.get("/v1/index").json()["fields"] == {"number": "integer"}


def test_what_is_served_is_described(server: httpx.Client) -> None:
    described = server.get("/v1/index").json()
    expected = {"version": "v1", "previous": None, "passages": COUNT, "shards": 2, "dim": 64, "kind": "flat"}
    assert described | expected == described
    assert described["models"] == {"encoder": "hashing:64", "reranker": "overlap"}
    assert server.get("/healthz").status_code == 200
    assert "/v1/search" in server.get("/openapi.json").json()["paths"]


def test_errors_of_the_engine_reach_the_client_without_a_trace_of_ray(server: httpx.Client) -> None:
    missing = server.post("/v1/index/activate", json={"version": "v9"})
    assert missing.status_code == 404
    assert "no published version v9" in missing.json()["message"]
    late = server.post("/v1/search", json={"query": "fish", "timeout_ms": 1})
    assert late.status_code == 504
    assert late.json()["error"]["code"] == "DEADLINE_EXCEEDED"
    for response in (missing, late):
        assert "Traceback" not in response.text
        assert "pid=" not in response.text


def lines_about(logs: Path, request: str) -> dict[str, list[dict[str, Any]]]:
    """Log lines that name a request, by deployment."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in logs.glob("*.log"):
        for line in file.read_text().splitlines():
            record = json.loads(line)
            if request in str(record.get("request_id")).split(","):
                found.setdefault(record["deployment"].removeprefix(f"{NAME}_"), []).append(record)
    return found


def test_every_part_names_the_request_in_its_log(server: httpx.Client, logs: Path) -> None:
    response = server.post("/v1/search", json={"query": "a new query"}, headers={"x-request-id": "trace-me-7"})
    assert response.headers.get_list("x-request-id") == ["trace-me-7"]
    expected = {"ingress", "encoder", "shard-00000", "shard-00001", "reranker"}
    deadline = time.monotonic() + 30
    while set(found := lines_about(logs, "trace-me-7")) != expected:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    (slow,) = (record["slow_query"] for record in found["ingress"] if "slow_query" in record)
    assert slow["total_ms"] >= slow["encode_ms"] > 0
    assert slow["coverage"] == 1
    assert "query" not in slow
    assert server.get("/healthz", headers={"x-request-id": "<b>"}).status_code == 200


def scrape() -> dict[str, float]:
    """Series of every node's exporter, by name and labels."""
    found = {}
    for node in ray.nodes():
        text = httpx.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10).text
        for line in text.splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)
    return found


def test_prometheus_gets_what_is_documented(server: httpx.Client) -> None:
    for number in range(3):
        search(server, f"metrics {number % 2}", filter={"number": {"$gte": 5}})
    server.get("/v1/index")
    assert server.post("/v1/embed", json={"inputs": ["metrics"], "input_type": "query"}).status_code == 200
    assert server.post("/v1/rerank", json={"query": "metrics", "documents": ["metrics"]}).status_code == 200
    assert server.get("/nowhere").status_code == 404
    rare = {telemetry.MISSING, telemetry.DEGRADED}
    expected = {metric.exported for metric in telemetry.METRICS if metric not in rare} | set(SERVE_METRICS)
    deadline = time.monotonic() + 60
    while True:
        series = scrape()
        names = {re.sub(r"_(bucket|sum|count)$", "", series_name(key)) for key in series}
        if expected <= names:
            break
        assert time.monotonic() < deadline, sorted(expected - names)
        time.sleep(0.5)
    stages = {match[1] for key in series if (match := re.match(r'ray_shoal_stage_seconds_count.*stage="(\w+)"', key))}
    assert stages == {"queue", "encode", "retrieve", "merge", "fetch", "rerank", "total"}
    of_replicas = [key for key in series if key.startswith("ray_shoal_compute_seconds_count")]
    assert all('deployment="' in key and 'replica="' in key for key in of_replicas)


def series_name(key: str) -> str:
    return key.partition("{")[0]


def replicas(deployment: str) -> list[str]:
    actors: list[dict[str, str]] = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in actors if f"{NAME}#{deployment}#" in actor["name"]]


def test_a_shard_that_dies_is_left_out_and_comes_back(server: httpx.Client) -> None:
    (name,) = replicas("shard-00001")
    ray.kill(ray.get_actor(name, namespace="serve"))
    answer = search(server, "black otter n8", timeout_ms=3000)
    if answer["coverage"]["answered"] == 1:  # it may be back already
        assert answer["coverage"]["missing"][0]["shard"] == 1
        assert 0 < answer["coverage"]["fraction"] < 1
        assert "1 of 2 shards" in answer["degraded"]
    deadline = time.monotonic() + 90
    while search(server, "black otter n8")["coverage"]["answered"] < 2:
        assert time.monotonic() < deadline, "the shard has not come back"
    assert replicas("shard-00001") != [name]


async def test_handles_raise_what_the_replica_raised() -> None:
    handle = serve.get_deployment_handle("shard-00000", NAME)
    shard = ShardHandle(handle, 0)
    assert await shard.holds("v1", time.monotonic() + 10)
    with pytest.raises(ShoalError, match="no published version v9") as missing:
        await shard.prepare("v9", time.monotonic() + 10)
    assert type(missing.value).__name__ == "NotFound"
    query = np.zeros((1, 3), np.float32)
    with pytest.raises(InvalidArgument, match="a query has a vector of shape"):
        await shard.search(ShardSearch("v1", dense_queries(query), 5, False), time.monotonic() + 10)
    with pytest.raises(ShoalError, match="shard-00000 failed: AttributeError") as unexpected:
        await shard.search(None, time.monotonic() + 10)  # type: ignore[arg-type]
    assert "Traceback" not in str(unexpected.value)
    with pytest.raises(ShoalError, match="deadline passed before encoder had answered"):
        await EncoderHandle(serve.get_deployment_handle("encoder", NAME)).encode(["late"], time.monotonic() - 1)


def test_errors_of_ray_are_put_into_words() -> None:
    from ray.exceptions import ActorDiedError
    from ray.serve.exceptions import BackPressureError

    error = readable(BackPressureError(num_queued_requests=3, max_queued_requests=2), "reranker")
    assert isinstance(error, Overloaded)
    assert error.retry_after_s
    assert isinstance(readable(ActorDiedError(), "reranker"), Unavailable)
    assert readable(CorruptIndex("as it is"), "reranker").message == "as it is"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "index: Field required"),
        ({"index": "i", "top_k": 0}, "top_k: Input should be greater than or equal to 1"),
        ({"index": "i", "reranker_replicas": 2}, "reranker_replicas: Extra inputs are not permitted"),
    ],
)
def test_arguments_are_validated(args: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        build_app(args)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"ingress", "reranker"}),
        ({"reranker": "none"}, {"ingress"}),
        ({"encoder_replicas": 2, "reranker": "none"}, {"ingress", "encoder"}),
        ({"retriever_replicas": 1}, {"ingress", "shard-00000", "shard-00001", "reranker"}),
    ],
)
def test_deployments_are_those_that_the_settings_name(
    settings: dict[str, Any], expected: set[str], tmp_path: Path
) -> None:
    publish(tmp_path, "v1", passages(20))
    names = set()
    todo = [build_app({"index": str(tmp_path), "reranker": "overlap", **settings})]
    while todo:
        bound = todo.pop()._bound_deployment
        names.add(bound.name)
        scanner = _PyObjScanner(serve.Application)  # as Serve finds what it replaces by handles
        todo += scanner.find_nodes(bound.init_args)
        scanner.clear()
    assert names == expected
