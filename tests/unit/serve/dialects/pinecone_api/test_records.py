"""Pinecone's records: both stages in one call, and namespaces."""

from typing import Any

import httpx
import pytest

from tests.support.api_server import check_error
from tests.support.dialects import scores_of, vectors_of
from tests.support.indexes import passages

pytestmark = pytest.mark.asyncio(loop_scope="session")

SEARCH = "/i/articles/records/namespaces/__default__/search"
QUERY = "black otter n8"
RERANK = {"model": "bge-reranker-v2-m3", "rank_fields": ["text"]}
TEXTS = {passage.id: passage.text for passage in passages(60)}


async def search(client: httpx.AsyncClient, query: Any, **body: Any) -> httpx.Response:
    return await client.post(SEARCH, json={"query": {"top_k": 20} | query} | body)


async def test_both_stages_in_one_call(client: httpx.AsyncClient) -> None:
    answer = (await search(client, {"inputs": {"text": QUERY}}, rerank=RERANK | {"top_n": 3}, fields=["text"])).json()
    hits = answer["result"]["hits"]
    assert (hits[0]["_id"], len(hits)) == ("p8", 3)
    for hit in hits:
        assert hit["fields"] == {"text": TEXTS[hit["_id"]]}
        assert hit["_score"] == pytest.approx(scores_of(QUERY, [TEXTS[hit["_id"]]])[0])
    assert answer["usage"] == {"read_units": 1, "rerank_units": 1}


async def test_stage_one_alone_is_that_of_the_server(client: httpx.AsyncClient) -> None:
    answer = (await search(client, {"inputs": {"text": QUERY}, "top_k": 5})).json()
    own = await client.post("/v1/search", json={"query": QUERY, "top_k": 5, "rerank": False})
    assert [hit["_id"] for hit in answer["result"]["hits"]] == [result["id"] for result in own.json()["results"]]
    assert answer["result"]["hits"][0]["fields"] == {"text": TEXTS["p8"], "number": 8}
    assert answer["usage"] == {"read_units": 1}


async def test_records_are_found_by_vector_by_record_and_with_a_query_for_the_reranker_alone(
    client: httpx.AsyncClient,
) -> None:
    values = vectors_of([QUERY], "query")[0].tolist()
    by_vector = (await search(client, {"vector": {"values": values}, "top_k": 5})).json()["result"]["hits"]
    own = await client.post("/i/articles/query", json={"topK": 5, "vector": values})
    assert [hit["_id"] for hit in by_vector] == [match["id"] for match in own.json()["matches"]]
    assert (await search(client, {"id": "p8"})).json()["result"]["hits"][0]["_id"] == "p8"
    assert (await search(client, {"id": "none"})).json()["result"]["hits"] == []
    other = {"inputs": {"text": QUERY}, "top_k": 10, "filter": {"number": {"$lt": 30}}}
    answer = await search(client, other, rerank=RERANK | {"query": "heron", "top_n": 1})
    (hit,) = answer.json()["result"]["hits"]
    assert hit["_score"] == pytest.approx(scores_of("heron", [hit["fields"]["text"]])[0])


@pytest.mark.parametrize(
    ("query", "body", "param"),
    [
        ({}, {}, "query"),
        ({"inputs": {"text": "a"}, "id": "p1"}, {}, "query"),
        ({"inputs": {"text": ""}}, {}, "query.inputs.text"),
        ({"inputs": {"text": " "}}, {}, "query.inputs.text"),
        ({"inputs": {"text": "a"}, "top_k": 0}, {}, "query.top_k"),
        ({"inputs": {"text": "a"}, "top_k": 5000}, {}, "query.top_k"),
        ({"inputs": {"text": "a"}, "match_terms": {"terms": ["a"]}}, {}, "query.match_terms"),
        ({"inputs": {"text": "a"}, "filter": {"none": 1}}, {}, "filter.none"),
        ({"inputs": {"text": "a"}}, {"rerank": RERANK | {"rank_fields": ["chunk_text"]}}, "rerank.rank_fields"),
        ({"inputs": {"text": "a"}}, {"rerank": RERANK | {"top_n": 21}}, "rerank.top_n"),
        ({"inputs": {"text": "a"}}, {"rerank": RERANK | {"parameters": {"truncate": "NONE"}}}, "rerank.parameters"),
        ({"id": "p1"}, {"rerank": RERANK}, "rerank.query"),
    ],
)
async def test_what_is_wrong_is_named(client: httpx.AsyncClient, query: Any, body: Any, param: str) -> None:
    check_error(await search(client, query, **body), 400, "INVALID_ARGUMENT", param)


async def test_another_model_is_not_found_and_another_namespace_is_empty(client: httpx.AsyncClient) -> None:
    wrong = await search(client, {"inputs": {"text": "a"}}, rerank=RERANK | {"model": "cohere-rerank-3.5"})
    check_error(wrong, 404, "NOT_FOUND", "model")
    path = SEARCH.replace("__default__", "movies")
    body = {"query": {"top_k": 1, "inputs": {"text": "a"}}}
    assert (await client.post(path, json=body)).json()["result"] == {"hits": []}
    check_error(await client.get("/i/articles/namespaces/movies"), 404, "NOT_FOUND", "namespace")


async def test_the_default_namespace_is_there(client: httpx.AsyncClient) -> None:
    namespace = {"name": "__default__", "record_count": 60}
    assert (await client.get("/i/articles/namespaces")).json() == {"namespaces": [namespace], "pagination": None}
    assert (await client.get("/i/articles/namespaces/__default__")).json() == namespace
