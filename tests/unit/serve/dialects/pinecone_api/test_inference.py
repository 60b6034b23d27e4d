"""Pinecone's inference: vectors, reranking and models."""

from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.api_server import check_error
from tests.support.dialects import DOCUMENTS, ENCODER, QUERY, scores_of, vectors_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

HEADERS = {"api-key": "k", "x-pinecone-api-version": "2025-10"}


async def embed(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    inputs = [{"text": text} for text in DOCUMENTS]
    return await client.post("/embed", headers=HEADERS, json={"model": ENCODER, "inputs": inputs} | body)


async def rerank(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    documents = [{"text": text, "id": f"d{place}"} for place, text in enumerate(DOCUMENTS)]
    body = {"model": "bge-reranker-v2-m3", "query": QUERY, "documents": documents} | body
    return await client.post("/rerank", headers=HEADERS, json=body)


async def test_texts_become_vectors(client: httpx.AsyncClient) -> None:
    answer = (await embed(client, parameters={"input_type": "passage", "truncate": "END"})).json()
    vectors = np.array([one["values"] for one in answer["data"]], np.float32)
    np.testing.assert_array_equal(vectors, vectors_of(DOCUMENTS, "passage"))
    assert {one["vector_type"] for one in answer["data"]} == {"dense"}
    assert (answer["model"], answer["vector_type"]) == (ENCODER, "dense")
    assert answer["usage"] == {"total_tokens": sum(len(text.split()) for text in DOCUMENTS)}
    alias = await embed(client, model="multilingual-e5-large", parameters={"input_type": "query", "dimension": 64})
    assert alias.json()["model"] == ENCODER


async def test_documents_are_ranked_and_come_back(client: httpx.AsyncClient) -> None:
    answer = (await rerank(client, top_n=2, rank_fields=["text"], parameters={"truncate": "END"})).json()
    scores = scores_of(QUERY, DOCUMENTS)
    assert (answer["model"], answer["usage"]) == ("overlap", {"rerank_units": 1})
    assert [(one["index"], one["document"]["id"]) for one in answer["data"]] == [(2, "d2"), (3, "d3")]
    assert [one["score"] for one in answer["data"]] == pytest.approx([scores[2], scores[3]])
    bare = (await rerank(client, documents=DOCUMENTS, return_documents=False)).json()["data"]
    assert [set(one) for one in bare] == [{"index", "score"}] * 4


@pytest.mark.parametrize(
    ("call", "body", "param"),
    [
        (embed, {"inputs": [{"text": ""}]}, "inputs[0]"),
        (embed, {"inputs": ["a"]}, "inputs[0]"),
        (embed, {"parameters": {"input_type": "other"}}, "parameters.input_type"),
        (embed, {"parameters": {"dimension": 8}}, "parameters.dimension"),
        (embed, {"inputs": [{"text": "a " * 600}], "parameters": {"truncate": "NONE"}}, "inputs[0]"),
        (rerank, {"documents": []}, "documents"),
        (rerank, {"documents": [{"body": "a"}]}, "documents[0]"),
        (rerank, {"parameters": {"truncate": "NONE"}}, "parameters.truncate"),
        (rerank, {"top_n": 0}, "top_n"),
        (rerank, {"colour": 0}, "colour"),
    ],
)
async def test_what_is_wrong_is_named(client: httpx.AsyncClient, call: Any, body: Any, param: str) -> None:
    check_error(await call(client, **body), 400, "INVALID_ARGUMENT", param)


async def test_models_are_listed_and_others_refused(client: httpx.AsyncClient) -> None:
    models = (await client.get("/models")).json()["models"]
    assert [model["model"] for model in models] == [
        ENCODER, "multilingual-e5-large", "overlap", "rerank-v3.5", "bge-reranker-v2-m3",
    ]  # fmt: skip
    embedders = (await client.get("/models?type=embed&vector_type=dense")).json()["models"]
    assert [model["default_dimension"] for model in embedders] == [64, 64]
    assert (await client.get("/models?vector_type=sparse")).json()["models"] == []
    assert (await client.get("/models/overlap")).json() == models[2]
    check_error(await client.get("/models/llama-text-embed-v2"), 404, "NOT_FOUND", "model")
    check_error(await client.get("/models?type=other"), 400, "INVALID_ARGUMENT", "type")
    for call in (embed, rerank):
        check_error(await call(client, model="other"), 404, "NOT_FOUND", "model")
