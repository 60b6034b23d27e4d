"""The HTTP application over the real pipeline and fake services: no sockets, no Ray."""

import time
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import TypeAdapter

from serve.dialects.native import models as native
from serve.web.api import create_api
from shoal.client import answers as client_answers
from shoal.filters import Compare
from shoal.index_root.manifest import CurvePoint, VectorIndexInfo
from shoal.testing.fakes import (
    FakeShard,
    corpus,
    exact,
    fingerprint,
    serve_settings,
    served_version,
    vector_of,
)
from tests.support.api_server import PASSAGES, FakeEngine, Server, answer_of, check_error


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
        "id", "index_version", "results", "mode", "reranked", "reranker", "coverage", "degraded", "warnings",
        "timings_ms", "usage",
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
    assert (answer.reranked, answer.reranker) == (True, "late")
    answer = answer_of(await server.post({"query": "a", "rerank": "read"}))
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


async def test_explain_and_timeout(server: Server) -> None:
    before = time.monotonic()
    answer = answer_of(await server.post({"query": "a", "explain": True, "timeout_ms": 1500}))
    assert answer.explain is not None
    assert set(answer.explain) == {"plan", "shards", "candidates"}
    assert before + 1.5 <= server.engine.requests[0].deadline <= time.monotonic() + 1.5


async def test_a_query_that_was_cut_is_told_so(server: Server) -> None:
    version = server.engine.pipeline.version
    assert version
    served = replace(served_version(version, [10, 30]), encoder=fingerprint(20))
    server.engine.pipeline.switch(served)
    expected = "the query has 21 tokens, and the encoder reads 20 of them; the rest was not searched for by vectors"
    response = await server.post({"query": ["fish " * 21, "fish"]})
    answers = TypeAdapter(native.SearchResponses).validate_json(response.content, strict=True).responses
    assert [(answer.warnings, answer.degraded) for answer in answers] == [([expected], None), ([], None)]
    known = client_answers.SearchResponses.model_validate_json(response.content)
    assert [answer.warnings for answer in known.responses] == [[expected], []]


async def test_a_partial_answer_is_a_success(server: Server) -> None:
    server.engine.shards[0].behaviour.errors = [ValueError("/secret/path")]
    response = await server.post({"query": "a"})
    answer = answer_of(response)
    assert answer.coverage.model_dump() == {
        "shards": 2, "answered": 1, "fraction": 0.75, "missing": [{"shard": 0, "reason": "error"}],
    }  # fmt: skip
    assert answer.degraded == "1 of 2 shards is missing (shard 0: error)"
    assert "secret" not in response.text


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


async def test_versions_are_listed_as_the_documentation_says(server: Server) -> None:
    await server.client.post("/v1/index/activate", json={"version": "v2"})
    answer = native.VersionsResponse.model_validate((await server.client.get("/v1/index/versions?limit=5")).json())
    assert [(each.version, each.state) for each in answer.versions] == [("v2", "current"), ("v1", "previous")]
    for asked in ("limit=0", "limit=100000", "limit=x", "depth=3"):
        refused = await server.client.get(f"/v1/index/versions?{asked}")
        check_error(refused, 400, "INVALID_ARGUMENT", asked.partition("=")[0])


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
        # FastAPI names 422 for every route with a body; here it is that of a retry key alone.
        keyed = any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", ()))
        assert ("422" in operation["responses"]) == keyed, name
        for status, response in operation["responses"].items():
            schema = response["content"]["application/json"]["schema"]
            if status >= "400":
                bodies = {body["$ref"].split("/")[-1] for body in schema.get("anyOf", [schema])}
                assert bodies <= {"ErrorBody", "NotReady", "DifyError", "TeiError"}, (name, status)
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
