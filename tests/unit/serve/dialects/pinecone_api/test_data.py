"""Pinecone's data plane: what is fetched, listed and counted."""

import httpx
import numpy as np
import pytest

from tests.support.api_server import check_error
from tests.support.dialects import vectors_of
from tests.support.indexes import passages

pytestmark = pytest.mark.asyncio(loop_scope="session")

DATA = "/i/articles"
CONTENT = {passage.id: passage for passage in passages(60)}
VECTORS = dict(zip(CONTENT, vectors_of([passage.content for passage in CONTENT.values()], "passage"), strict=True))


async def test_a_namespace_that_is_not_there_is_told(client: httpx.AsyncClient) -> None:
    answers = [
        await client.get(f"{DATA}/vectors/fetch?ids=p1&namespace=movies"),
        await client.get(f"{DATA}/vectors/list?namespace=movies"),
        await client.get(f"{DATA}/namespaces/movies"),
    ]
    for answer in answers:
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


async def test_ids_are_listed_a_page_at_a_time(client: httpx.AsyncClient) -> None:
    listed: list[str] = []
    token = ""
    while True:
        page = (await client.get(f"{DATA}/vectors/list?prefix=p&limit=17{token}")).json()
        listed += [vector["id"] for vector in page["vectors"]]
        if page["pagination"] is None:
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
