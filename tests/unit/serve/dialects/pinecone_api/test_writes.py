"""Pinecone's writes: into an index that began empty, what is read afterwards, and what is refused."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio

from shoal.indexing.empty import create_index
from shoal.settings import CreateSettings
from tests.support.api_server import check_error
from tests.support.dialects import ENCODER, client_of, vectors_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

DATA = "/i/articles"
TEXTS = {f"a{number}": f"the otter number {number} sleeps" for number in range(5)}
VECTORS = dict(zip(TEXTS, vectors_of(list(TEXTS.values()), "passage").tolist(), strict=True))
PATIENCE_S = 30.0


@pytest_asyncio.fixture(loop_scope="session")
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    create_index(CreateSettings(index=str(tmp_path / "articles"), encoder=ENCODER))
    async with client_of(tmp_path / "articles", max_passages=8) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def unwritten(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an index that stays empty, since all that is asked of it is refused."""
    root = tmp_path_factory.mktemp("unwritten") / "articles"
    create_index(CreateSettings(index=str(root), encoder=ENCODER))
    async with client_of(root, max_passages=8) as client:
        yield client
        assert (await post(client, "describe_index_stats", {})).json()["totalVectorCount"] == 0


async def post(client: httpx.AsyncClient, path: str, body: Any) -> httpx.Response:
    return await client.post(f"{DATA}/{path}", json=body)


async def post_records(client: httpx.AsyncClient, *records: Any, namespace: str = "__default__") -> httpx.Response:
    lines = "".join(record if isinstance(record, str) else json.dumps(record) + "\n" for record in records)
    return await client.post(
        f"{DATA}/records/namespaces/{namespace}/upsert",
        content=lines.encode(),
        headers={"content-type": "application/x-ndjson"},
    )


async def seen(client: httpx.AsyncClient, response: httpx.Response) -> None:
    """Wait until searches have seen a write, as Pinecone's clients find it out."""
    committed, reconciled = int(response.headers["x-pinecone-lsn-committed"]), 0
    async with asyncio.timeout(PATIENCE_S):
        while reconciled < committed:
            query = await post(client, "query", {"topK": 1, "vector": VECTORS["a0"]})
            reconciled = int(query.headers.get("x-pinecone-lsn-reconciled", 0))


async def fetch(client: httpx.AsyncClient, *ids: str) -> dict[str, Any]:
    vectors: dict[str, Any] = (await client.get(f"{DATA}/vectors/fetch", params={"ids": ids})).json()["vectors"]
    return vectors


async def upsert(client: httpx.AsyncClient, **metadata: Any) -> None:
    vectors = [
        {"id": id_, "values": VECTORS[id_], "metadata": {"text": text, "number": int(id_[1:]), **metadata}}
        for id_, text in TEXTS.items()
    ]
    response = await post(client, "vectors/upsert", {"vectors": vectors, "namespace": ""})
    assert (response.status_code, response.json()) == (200, {"upsertedCount": 5})
    await seen(client, response)


async def test_vectors_are_upserted_and_read_as_they_were_written(client: httpx.AsyncClient) -> None:
    await upsert(client, title="Otters", year=2020)
    answer = await post(client, "query", {"topK": 3, "vector": VECTORS["a3"], "includeMetadata": True})
    match = answer.json()["matches"][0]
    assert (match["id"], match["score"]) == ("a3", pytest.approx(1))
    assert match["metadata"] == {"text": TEXTS["a3"], "title": "Otters", "number": 3, "year": 2020}
    fetched = await fetch(client, "a1")
    np.testing.assert_allclose(fetched["a1"]["values"], VECTORS["a1"], atol=1e-6)
    assert (await post(client, "describe_index_stats", {})).json()["totalVectorCount"] == 5
    words = (await client.post("/v1/search", json={"query": "Otters", "mode": "lexical", "rerank": False})).json()
    assert {result["id"] for result in words["results"]} == set(TEXTS)


async def test_what_is_no_text_stays_metadata(client: httpx.AsyncClient) -> None:
    vector = {"id": "a", "values": [3.0] * 64, "metadata": {"text": " ", "title": 7, "year": None}}
    await seen(client, await post(client, "vectors/upsert", {"vectors": [vector], "namespace": "__default__"}))
    fetched = await fetch(client, "a")
    assert fetched["a"]["metadata"] == {"text": " ", "title": 7}
    np.testing.assert_allclose(fetched["a"]["values"], [0.125] * 64)


async def test_a_passage_is_updated_by_its_id(client: httpx.AsyncClient) -> None:
    await upsert(client)
    values = vectors_of(["a heron"], "passage")[0].tolist()
    body = {"id": "a1", "values": values, "setMetadata": {"checked": True}, "namespace": ""}
    response = await post(client, "vectors/update", body)
    assert response.json() == {"matchedRecords": 1}
    await seen(client, response)
    fetched = (await fetch(client, "a1"))["a1"]
    assert fetched["metadata"] == {"text": TEXTS["a1"], "number": 1, "checked": True}
    np.testing.assert_allclose(fetched["values"], values, atol=1e-6)
    missing = await post(client, "vectors/update", {"id": "none", "setMetadata": {"checked": True}})
    assert missing.json() == {"matchedRecords": 0}


async def test_passages_are_deleted_by_ids_by_a_filter_and_all(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.writing.prepare.MOST_SELECTED", 1)  # so that a deletion takes several steps

    async def left(response: httpx.Response) -> list[str]:
        assert (response.status_code, response.json()) == (200, {})
        await seen(client, response)
        return [vector["id"] for vector in (await client.get(f"{DATA}/vectors/list")).json()["vectors"]]

    await upsert(client)
    assert await left(await post(client, "vectors/delete", {"ids": ["a0", "none"]})) == ["a1", "a2", "a3", "a4"]
    assert await left(await post(client, "vectors/delete", {"filter": {"number": {"$gte": 3}}})) == ["a1", "a2"]
    assert await left(await post(client, "vectors/delete", {"deleteAll": True, "namespace": ""})) == []


async def test_records_are_encoded_and_found_with_both_stages(client: httpx.AsyncClient) -> None:
    records = [{"_id": id_, "text": text, "number": int(id_[1:])} for id_, text in TEXTS.items()]
    response = await post_records(client, *records[:3], "\n", {"id": "a3", "text": TEXTS["a3"]}, " \r\n")
    assert (response.status_code, response.json()) == (201, {"upsertedCount": 4})
    await seen(client, response)
    fetched = await fetch(client, *TEXTS)
    assert list(fetched) == ["a0", "a1", "a2", "a3"]
    for id_, vector in fetched.items():
        np.testing.assert_allclose(vector["values"], VECTORS[id_], atol=1e-6)
    search = {
        "query": {"inputs": {"text": "otter number 2"}, "top_k": 4},
        "rerank": {"model": "overlap", "rank_fields": ["text"], "top_n": 1},
    }
    answer = await post(client, "records/namespaces/__default__/search", search)
    assert int(answer.headers["x-pinecone-lsn-reconciled"]) >= int(response.headers["x-pinecone-lsn-committed"])
    (hit,) = answer.json()["result"]["hits"]
    assert (hit["_id"], hit["fields"]) == ("a2", {"text": TEXTS["a2"], "number": 2})


GOOD = {"id": "a", "values": [1.0] * 64}


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        ("upsert", {"vectors": []}, "vectors", "at least 1"),
        ("upsert", {"vectors": [GOOD] * 9}, "vectors", "1 to 8 (max_passages)"),
        ("upsert", {"vectors": [{"id": "a"}]}, "vectors[0].values", "required"),
        ("upsert", {"vectors": [GOOD, {"id": "b", "values": [1, 2]}]}, "vectors[1]", "vectors[1] (id 'b'): the vector"),
        ("upsert", {"vectors": [GOOD, {**GOOD, "metadata": {"x": {"y": 1}}}]}, "vectors[1]", "that of vectors[0] too"),
        ("upsert", {"vectors": [{**GOOD, "sparseValues": {}}]}, "vectors[0].sparseValues", "left out"),
        ("update", {"setMetadata": {"x": 1}}, "id", "id is required"),
        ("update", {"id": "a", "filter": {"x": 1}}, "id", "filter and dryRun are not there"),
        ("update", {"id": "a", "sparseValues": {}}, "sparseValues", "left out"),
        ("update", {"id": "a", "setMetadata": {"text": "x"}}, "setMetadata.text", "upsert the passage"),
        ("update", {"id": "a", "values": [1, 2]}, None, "the update (id 'a'): the vector has 2 numbers"),
        ("update", {"id": "a", "setMetadata": {"x": {}}}, None, "the update (id 'a'): the metadata field x: nested"),
        ("delete", {}, None, "one of ids, filter and deleteAll"),
        ("delete", {"ids": ["a"], "deleteAll": True}, None, "one of ids, filter and deleteAll"),
        ("delete", {"ids": []}, "ids", "at least 1"),
        ("delete", {"ids": ["a"] * 9}, "ids", "1 to 8"),
        ("delete", {"filter": {}}, "filter", "at least 1"),
        ("delete", {"filter": {"nothing": 1}}, "filter.nothing", "this index has no metadata"),
    ],
    ids=range(18),
)
async def test_what_is_wrong_is_named(
    unwritten: httpx.AsyncClient, path: str, body: Any, param: str | None, message: str
) -> None:
    assert message in check_error(await post(unwritten, f"vectors/{path}", body), 400, "INVALID_ARGUMENT", param)


@pytest.mark.parametrize(
    ("record", "param", "message"),
    [
        ("{", None, "line 2 should be a JSON object"),
        ("[]", None, "line 2 should be a JSON object, a record"),
        ("[" * 100_000, None, "line 2 should be a JSON object"),
        ('{"_id": "b", "_id": "c", "text": "x"}', None, "line 2: the body has the name '_id' twice"),
        ('{"_id": 7, "text": "x"}', None, "line 2 should have an _id"),
        ('{"text": "x"}', None, "line 2 should have an _id"),
        ('{"_id": "b", "chunk_text": "x"}', "records[1]", "records[1] (id 'b'): the text"),
        ('{"_id": "b", "text": "x", "y": NaN}', "records[1]", "not finite"),
        ('{"_id": "a", "text": "x"}', "records[1]", "that of records[0] too"),
    ],
    ids=range(9),
)
async def test_a_record_that_is_wrong_is_named(
    unwritten: httpx.AsyncClient, record: str, param: str | None, message: str
) -> None:
    response = await post_records(unwritten, {"_id": "a", "text": "an otter"}, record)
    assert message in check_error(response, 400, "INVALID_ARGUMENT", param)


async def test_bodies_of_records_are_declared_and_bounded(unwritten: httpx.AsyncClient) -> None:
    check_error(await post_records(unwritten), 400, "INVALID_ARGUMENT", "records")
    many = await post_records(unwritten, *({"_id": f"{number}", "text": "x"} for number in range(9)))
    check_error(many, 400, "INVALID_ARGUMENT", "records")
    path = f"{DATA}/records/namespaces/__default__/upsert"
    wrong = await unwritten.post(path, content=b"{}", headers={"content-type": "text/plain"})
    assert "application/x-ndjson" in check_error(wrong, 415, "UNSUPPORTED_MEDIA_TYPE")


async def test_another_index_or_what_is_no_namespace_is_not_there(unwritten: httpx.AsyncClient) -> None:
    for answer in (
        await post(unwritten, "vectors/upsert", {"vectors": [GOOD], "namespace": "a\n"}),
        await post(unwritten, "vectors/update", {"id": "a", "namespace": "a\n"}),
        await post(unwritten, "vectors/delete", {"deleteAll": True, "namespace": "a\n"}),
        await post_records(unwritten, {"_id": "a", "text": "x"}, namespace="%20"),
        await unwritten.delete(f"{DATA}/namespaces/"),
        await unwritten.delete(f"{DATA}/namespaces/%20"),
    ):
        check_error(answer, 400, "INVALID_ARGUMENT", "namespace")
    check_error(await unwritten.post("/i/movies/vectors/delete", json={"deleteAll": True}), 404, "NOT_FOUND", "name")


async def test_a_namespace_is_there_while_it_has_records(client: httpx.AsyncClient) -> None:
    await upsert(client)
    path = f"{DATA}/namespaces/acme%2Feu%201"
    written = await post_records(client, {"_id": "a1", "text": "our own otter"}, namespace="acme%2Feu%201")
    assert (written.status_code, written.json()) == (201, {"upsertedCount": 1})
    await seen(client, written)
    sizes = [{"name": "__default__", "record_count": 5}, {"name": "acme/eu 1", "record_count": 1}]
    first = (await client.get(f"{DATA}/namespaces?limit=1")).json()
    token = {"limit": 1, "paginationToken": first["pagination"]["next"]}
    second = (await client.get(f"{DATA}/namespaces", params=token)).json()
    assert [first["namespaces"], second["namespaces"]] == [sizes[:1], sizes[1:]]
    assert (await client.get(f"{DATA}/namespaces?prefix=acme")).json()["namespaces"] == sizes[1:]
    assert (await client.get(path)).json() == sizes[1]
    stats = (await post(client, "describe_index_stats", {})).json()
    assert stats["namespaces"] == {"": {"vectorCount": 5}, "acme/eu 1": {"vectorCount": 1}}
    body = {"query": {"top_k": 9, "inputs": {"text": "otter"}}}
    found = await client.post(f"{DATA}/records/namespaces/acme%2Feu%201/search", json=body)
    assert [(hit["_id"], hit["fields"]["text"]) for hit in found.json()["result"]["hits"]] == [("a1", "our own otter")]
    deleted = await client.delete(path)
    assert (deleted.status_code, deleted.json()) == (202, {})
    await seen(client, deleted)
    check_error(await client.get(path), 404, "NOT_FOUND", "namespace")
    assert (await client.get(f"{DATA}/namespaces")).json()["namespaces"] == sizes[:1]


async def test_an_index_of_vectors_alone_needs_them(tmp_path: Path) -> None:
    create_index(CreateSettings(index=str(tmp_path / "articles"), dimension=64))
    async with client_of(tmp_path / "articles", model_alias=[]) as client:
        refused = await post_records(client, {"_id": "a", "text": "an otter"})
        assert "this index has no encoder" in check_error(refused, 400, "INVALID_ARGUMENT", "records")
        await upsert(client)
        answer = await post(client, "query", {"topK": 1, "id": "a4"})
        assert [match["id"] for match in answer.json()["matches"]] == ["a4"]
