"""Pinecone's data plane: what is near, fetched, listed and counted."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from shoal.filters import parse
from tests.support.api_server import check_error
from tests.support.dialects import client_of, vectors_of
from tests.support.indexes import passages

pytestmark = pytest.mark.asyncio(loop_scope="session")

DATA = "/i/articles"
CONTENT = {passage.id: passage for passage in passages(60)}
VECTORS = dict(zip(CONTENT, vectors_of([passage.content for passage in CONTENT.values()], "passage"), strict=True))
VECTOR = vectors_of(["black otter n8"], "query")[0]
COSINES = {id_: float(vector @ VECTOR) for id_, vector in VECTORS.items()}


async def query(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post(f"{DATA}/query", json={"topK": 5} | body)


async def test_the_nearest_passages_are_those_of_numpy(client: httpx.AsyncClient) -> None:
    # A vector of any length means its direction.
    answer = (await query(client, vector=(7 * VECTOR).tolist(), topK=20)).json()
    scores = [match["score"] for match in answer["matches"]]
    np.testing.assert_allclose(scores, sorted(COSINES.values(), reverse=True)[:20], atol=1e-5)
    for match in answer["matches"]:
        assert COSINES[match["id"]] == pytest.approx(match["score"], abs=1e-5)
        assert set(match) == {"id", "score"}
    assert (answer["namespace"], answer["usage"]) == ("", {"readUnits": 1})


async def test_metadata_and_values_come_if_asked_for(client: httpx.AsyncClient) -> None:
    body = {"vector": VECTOR.tolist(), "includeMetadata": True, "includeValues": True, "namespace": "__default__"}
    for match in (await query(client, **body)).json()["matches"]:
        passage = CONTENT[match["id"]]
        assert match["metadata"] == {"text": passage.text, "number": passage.metadata["number"]}  # type: ignore[index]
        np.testing.assert_allclose(match["values"], VECTORS[match["id"]], atol=1e-6)


@pytest.mark.parametrize(
    "conditions",
    [
        {"number": {"$eq": 8}},
        {"number": 8},
        {"number": {"$in": [8, 18, 28]}},
        {"$and": [{"number": {"$gte": 10}}, {"number": {"$lt": 20}}]},
        {"$or": [{"number": {"$gt": 57}}, {"number": {"$lte": 1}}]},
        {"number": {"$nin": list(range(50))}},
        {"number": {"$ne": 3, "$exists": True}},
    ],
)
async def test_filters_are_those_of_shoal(client: httpx.AsyncClient, conditions: Any) -> None:
    assert parse(conditions, {"number": "integer"}, 100, 10) is not None
    matches = (await query(client, vector=VECTOR.tolist(), topK=60, filter=conditions)).json()["matches"]
    numbers = {int(match["id"][1:]) for match in matches}
    expected = {
        "$eq": {8}, "$in": {8, 18, 28}, "$and": set(range(10, 20)), "$or": {58, 59, 0, 1},
        "$nin": set(range(50, 60)), "$ne": set(range(60)) - {3}, "8": {8},
    }  # fmt: skip
    (key,) = conditions
    operator = key if key != "number" else next(iter(conditions[key])) if isinstance(conditions[key], dict) else "8"
    assert numbers == expected[operator]


async def test_a_passage_is_nearest_to_itself(client: httpx.AsyncClient) -> None:
    matches = (await query(client, id="p8")).json()["matches"]
    assert matches[0] == {"id": "p8", "score": pytest.approx(1.0, abs=1e-5)}
    cosines = sorted((float(vector @ VECTORS["p8"]) for vector in VECTORS.values()), reverse=True)[:5]
    np.testing.assert_allclose([match["score"] for match in matches], cosines, atol=1e-5)
    assert (await query(client, id="nothing")).json()["matches"] == []


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "vector", "vector or id is required"),
        ({"vector": [0.1] * 64, "id": "p1"}, "vector", "one of them"),
        ({"vector": [0.0] * 64}, "vector", "zeros"),
        ({"vector": [0.1] * 63}, "vector", "64"),
        ({"vector": []}, "vector", "at least 1"),
        ({"vector": ["a"]}, "vector[0]", "number"),
        ({"id": ""}, "id", "at least 1"),
        ({"id": "p1", "topK": 0}, "topK", "greater"),
        ({"id": "p1", "topK": 1001}, "topK", "1 to 1,000"),
        ({"id": "p1", "filter": {"colour": "red"}}, "filter.colour", "no such field"),
        ({"id": "p1", "filter": {"number": {"$regex": "x"}}}, "filter.number.$regex", "no operator"),
        ({"id": "p1", "sparseVector": {"indices": [1], "values": [0.5]}}, "sparseVector", "left out"),
        ({"id": "p1", "scanFactor": 2.0}, "scanFactor", "left out"),
        ({"id": "p1", "includevalues": True}, "includevalues", "not a known field"),
    ],
)
async def test_what_is_wrong_with_a_query_is_named(
    client: httpx.AsyncClient, body: Any, param: str, words: str
) -> None:
    assert words in check_error(await query(client, **body), 400, "INVALID_ARGUMENT", param)


async def test_a_namespace_that_is_not_there_is_empty(client: httpx.AsyncClient) -> None:
    answers = [
        await query(client, vector=VECTOR.tolist(), namespace="movies"),
        await query(client, id="p1", namespace="movies"),
        await client.get(f"{DATA}/vectors/fetch?ids=p1&namespace=movies"),
        await client.get(f"{DATA}/vectors/list?namespace=movies"),
    ]
    for answer in answers:
        body = answer.json()
        assert (answer.status_code, body["namespace"]) == (200, "movies")
        assert not body.get("matches")
        assert not body.get("vectors")
    answer = await client.get(f"{DATA}/namespaces/movies")
    assert "'movies'" in check_error(answer, 404, "NOT_FOUND", "namespace")


async def test_passages_are_fetched_by_their_ids(client: httpx.AsyncClient) -> None:
    answer = (await client.get(f"{DATA}/vectors/fetch?ids=p3&ids=none&ids=p8&ids=p3&namespace=")).json()
    assert list(answer["vectors"]) == ["p3", "p8"]
    assert "degraded" not in answer
    for id_, vector in answer["vectors"].items():
        assert (vector["id"], vector["metadata"]["text"]) == (id_, CONTENT[id_].text)
        np.testing.assert_allclose(vector["values"], VECTORS[id_], atol=1e-6)
    check_error(await client.get(f"{DATA}/vectors/fetch"), 400, "INVALID_ARGUMENT", "ids")
    check_error(await client.get(f"{DATA}/vectors/fetch?ids="), 400, "INVALID_ARGUMENT", "ids[0]")


async def fetch_by_metadata(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post(f"{DATA}/vectors/fetch_by_metadata", json=body)


async def test_passages_are_fetched_by_a_filter_a_page_at_a_time(client: httpx.AsyncClient) -> None:
    asked: dict[str, Any] = {"filter": {"number": {"$gte": 5}}, "limit": 20}
    pages = [(await fetch_by_metadata(client, **asked)).json()]
    while token := pages[-1].get("pagination", {}).get("next"):
        pages.append((await fetch_by_metadata(client, **asked, paginationToken=token)).json())
    assert [len(page["vectors"]) for page in pages] == [20, 20, 15]
    found = {id_: vector for page in pages for id_, vector in page["vectors"].items()}
    assert list(found) == sorted(id_ for id_, passage in CONTENT.items() if passage.metadata["number"] >= 5)  # type: ignore[index, operator]
    for id_, vector in found.items():
        assert (vector["id"], vector["metadata"]["text"]) == (id_, CONTENT[id_].text)
        np.testing.assert_allclose(vector["values"], VECTORS[id_], atol=1e-6)
    whole = (await fetch_by_metadata(client, filter={"number": {"$lt": 3}})).json()
    assert (list(whole["vectors"]), whole["namespace"]) == (["p0", "p1", "p2"], "")
    assert "pagination" not in whole
    empty = (await fetch_by_metadata(client, filter={"number": 3}, namespace="nobody")).json()
    assert (empty["vectors"], empty["namespace"]) == ({}, "nobody")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "filter"),
        ({"filter": {}}, "filter"),
        ({"filter": {"genre": "drama"}}, "filter.genre"),
        ({"filter": {"number": 1}, "limit": 0}, "limit"),
        ({"filter": {"number": 1}, "limit": 100_000}, "limit"),
        ({"filter": {"number": 1}, "paginationToken": "p1"}, "paginationToken"),
        ({"filter": {"number": 1}, "includeValues": False}, "includeValues"),
    ],
)
async def test_what_is_wrong_with_a_fetch_by_a_filter_is_named(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    check_error(await fetch_by_metadata(client, **body), 400, "INVALID_ARGUMENT", param)


async def test_ids_are_listed_a_page_at_a_time(client: httpx.AsyncClient) -> None:
    listed: list[str] = []
    token = ""
    while True:
        page = (await client.get(f"{DATA}/vectors/list?prefix=p&limit=17{token}")).json()
        listed += [vector["id"] for vector in page["vectors"]]
        if "pagination" not in page:
            break
        token = f"&paginationToken={page['pagination']['next']}"
    assert listed == sorted(CONTENT)
    check_error(await client.get(f"{DATA}/vectors/list?limit=0"), 400, "INVALID_ARGUMENT", "limit")
    check_error(await client.get(f"{DATA}/vectors/list?paginationToken=!"), 400, "INVALID_ARGUMENT", "paginationToken")


async def test_the_index_is_counted(client: httpx.AsyncClient) -> None:
    stats = (await client.post(f"{DATA}/describe_index_stats", json={})).json()
    assert stats == {
        "namespaces": {"": {"vectorCount": 60}}, "dimension": 64, "indexFullness": 0.0, "totalVectorCount": 60,
        "metric": "cosine", "vectorType": "dense",
    }  # fmt: skip
    wrong = await client.post(f"{DATA}/describe_index_stats", json={"filter": {"number": 1}})
    check_error(wrong, 400, "INVALID_ARGUMENT", "filter")


async def test_a_query_is_bounded_by_the_limits_of_the_server(articles: Path) -> None:
    async with client_of(articles, max_top_k=9, top_k=9, max_vectors=3) as client:
        check_error(await query(client, id="p1", topK=10), 400, "INVALID_ARGUMENT", "topK")
        check_error(await query(client, id="p1", topK=5, includeValues=True), 400, "INVALID_ARGUMENT", "topK")
        assert len((await query(client, id="p1", topK=3, includeValues=True)).json()["matches"]) == 3
