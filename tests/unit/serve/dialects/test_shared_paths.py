"""Who speaks which dialect on the paths that several have."""

from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers

from serve.dialects.shared_paths import COHERE, OWN, PINECONE, TEI, spoken
from tests.support.api_server import check_error
from tests.support.dialects import DOCUMENTS, ENCODER, QUERY

pytestmark = pytest.mark.asyncio(loop_scope="session")

NONE: dict[str, str] = {}
KEY = {"api-key": "k"}
VERSION = {"x-pinecone-api-version": "2025-10"}


@pytest.mark.parametrize(
    ("path", "headers", "body", "dialect"),
    [
        ("/v1/rerank", NONE, {"query": "a", "documents": [], "top_n": 1, "timeout_ms": 5}, OWN),
        ("/v1/rerank", NONE, {"topn": 1}, OWN),
        ("/v1/rerank", KEY, {"documents": [], "model": "x"}, COHERE),
        ("/v1/rerank", NONE, {"max_tokens_per_doc": None}, COHERE),
        ("/v1/rerank", NONE, {"top_k": 3}, COHERE),
        ("/rerank", NONE, {"documents": []}, COHERE),
        ("/rerank", NONE, {}, COHERE),
        ("/rerank", NONE, {"rank_fields": ["text"]}, PINECONE),
        ("/rerank", KEY, {"documents": []}, PINECONE),
        ("/rerank", VERSION, {}, PINECONE),
        ("/rerank", KEY, {"texts": []}, TEI),
        ("/rerank", NONE, {"texts": None}, TEI),
        ("/embed", NONE, {"inputs": "a"}, TEI),
        ("/embed", NONE, {"inputs": ["a"]}, TEI),
        ("/embed", NONE, {}, TEI),
        ("/embed", NONE, {"inputs": [{"text": "a"}]}, PINECONE),
        ("/embed", VERSION, {"inputs": ["a"]}, PINECONE),
    ],
)
async def test_the_dialect_goes_by_body_and_headers(path: str, headers: Any, body: Any, dialect: str) -> None:
    assert spoken(path, Headers(headers), body) == dialect


async def test_each_has_its_answer_and_its_errors(client: httpx.AsyncClient) -> None:
    documents = {"query": QUERY, "documents": DOCUMENTS, "model": "overlap"}
    answers: dict[str, Any] = {
        "cohere": (await client.post("/rerank", json=documents)).json(),
        "pinecone": (await client.post("/rerank", json=documents, headers=KEY)).json(),
        "tei": (await client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS}, headers=KEY)).json(),
    }
    assert "results" in answers["cohere"]
    assert "data" in answers["pinecone"]
    orders = [answers["cohere"]["results"], answers["pinecone"]["data"], answers["tei"]]
    assert [[one["index"] for one in order] for order in orders] == [[2, 3, 0, 1]] * 3
    check_error(await client.post("/rerank", json=documents | {"top_n": 0}), 400, "INVALID_ARGUMENT", "top_n")
    check_error(await client.post("/embed", json={"inputs": []}, headers=VERSION), 400, "INVALID_ARGUMENT", "model")
    embedded = await client.post("/embed", json={"model": ENCODER, "inputs": [{"text": "a"}]})
    assert embedded.json()["vector_type"] == "dense"


async def test_own_and_vendors_clients_find_their_fields_on_one_path(client: httpx.AsyncClient) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS}
    own = (await client.post("/v1/rerank", json=body)).json()
    vendors = (await client.post("/v1/rerank", json=body | {"model": "overlap"})).json()
    assert set(own) == {"model", "results", "usage", "meta"}
    assert set(vendors) == {"id", "object", "model", "results", "usage", "meta"}
    assert own["meta"] == vendors["meta"]
    assert set(own["usage"]) == {"pairs", "tokens"}
    assert set(vendors["usage"]) == {"prompt_tokens", "total_tokens"}
    for answer in (own, vendors):
        assert [one["index"] for one in answer["results"]] == [2, 3, 0, 1]
        assert [one["relevance_score"] for one in answer["results"]] == [one["score"] for one in answer["results"]]
    assert "documents[0].url is not a known field" in check_error(
        await client.post("/v1/rerank", json=body | {"documents": [{"text": "a", "url": "b"}]}),
        400, "INVALID_ARGUMENT", "documents[0].url",
    )  # fmt: skip


@pytest.mark.parametrize("body", [[], "text", None, 5, [{"texts": 1}]])
async def test_a_body_that_is_no_object_is_refused(client: httpx.AsyncClient, body: Any) -> None:
    check_error(await client.post("/rerank", json=body), 400, "INVALID_ARGUMENT")
    response = await client.post("/embed", json=body)
    assert (response.status_code, response.json()["error_type"]) == (400, "validation")


async def test_the_document_describes_all_bodies(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    for path, names in (
        ("/v1/rerank", {"RerankBody", "VendorRerankFields"}),
        ("/rerank", {"VendorRerankFields", "PineconeRerankFields", "TeiRerankFields"}),
        ("/embed", {"PineconeEmbedFields", "TeiEmbedFields"}),
    ):
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert {member["$ref"].rpartition("/")[2] for member in schema["anyOf"]} == names
