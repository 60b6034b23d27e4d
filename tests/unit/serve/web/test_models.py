"""Texts embedded and documents reranked over HTTP."""

from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from serve.dialects.native.model_routes import EmbedResponse, RerankResponse
from shoal.errors import DeadlineExceeded, Overloaded, Unavailable
from shoal.testing.fakes import vector_of
from tests.support.api_server import Server, check_error

EMBED, RERANK = "/v1/embed", "/v1/rerank"
TEXT = {"inputs": ["fish"], "input_type": "query"}
PAIR = {"query": "fish", "documents": ["document 1"]}


async def test_texts_are_embedded(server: Server) -> None:
    texts = ["a red fish", "nine words of which the fake reads but eight"]
    response = await server.client.post(EMBED, json={"inputs": texts, "input_type": "passage"})
    body = TypeAdapter(EmbedResponse).validate_json(response.content, strict=True)
    np.testing.assert_allclose([text.vector for text in body.data], [vector_of(text) for text in texts], atol=1e-6)
    assert (body.model, body.dim, body.usage.texts, body.usage.tokens) == ("fake", 8, 2, 11)
    assert [text.truncated for text in body.data] == [False, True]
    assert set(response.json()["data"][0]) == {"vector", "truncated"}


async def test_many_texts_and_the_vectors_of_tokens_are_serialised_in_a_thread(server: Server) -> None:
    asked = {"inputs": ["a b", "c"] * 20, "input_type": "query", "include": ["tokens"], "dimensions": None}
    response = await server.client.post(EMBED, json=asked)
    body = TypeAdapter(EmbedResponse).validate_json(response.content, strict=True)
    assert [len(text.tokens or ()) for text in body.data] == [2, 1] * 20
    np.testing.assert_allclose(body.data[0].tokens, [vector_of("a"), vector_of("b")], atol=1e-6)
    assert [text.vector for text in body.data] == [None] * 40


async def test_fewer_dimensions_are_normalised_anew(server: Server) -> None:
    response = await server.client.post(EMBED, json=TEXT | {"dimensions": 4})
    cut = vector_of("fish")[:4]
    np.testing.assert_allclose(response.json()["data"][0]["vector"], cut / np.linalg.norm(cut), atol=1e-6)
    assert response.json()["dim"] == 4


async def test_documents_are_reranked(server: Server) -> None:
    documents = ["document 2", {"id": "best", "title": "a title", "text": "document 9"}, "document 2", {"text": "no 1"}]
    response = await server.client.post(RERANK, json={"query": "which", "documents": documents, "top_n": 3})
    body = TypeAdapter(RerankResponse).validate_json(response.content, strict=True)
    assert [(result.index, result.score) for result in body.results] == [(1, 9), (0, 2), (2, 2)]
    assert response.json()["results"] == [
        {"index": 1, "id": "best", "score": 9.0, "relevance_score": pytest.approx(1 / (1 + np.exp(-9)))},
        {"index": 0, "score": 2.0, "relevance_score": pytest.approx(1 / (1 + np.exp(-2)))},
        {"index": 2, "score": 2.0, "relevance_score": pytest.approx(1 / (1 + np.exp(-2)))},
    ]
    assert server.engine.reranker.calls[0][1][1] == "a title document 9"
    assert (body.model, body.usage.pairs, body.usage.tokens) == (server.settings.reranker, 4, 14)
    asked = {"query": "which", "documents": documents, "return_documents": True}
    returned = (await server.client.post(RERANK, json=asked)).json()
    assert [result["document"] for result in returned["results"]] == [
        {"title": "a title", "text": "document 9"},
        {"text": "document 2"},
        {"text": "document 2"},
        {"text": "no 1"},
    ]


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        (EMBED, {"input_type": "query"}, "inputs", "inputs is required"),
        (EMBED, {"inputs": ["a"]}, "input_type", "input_type is required"),
        (EMBED, TEXT | {"inputs": "fish"}, "inputs", "should be a valid list"),
        (EMBED, TEXT | {"inputs": []}, "inputs", "at least 1"),
        (EMBED, TEXT | {"inputs": ["a"] * 1001}, "inputs", "at most 1000"),
        (EMBED, TEXT | {"inputs": ["a", 7]}, "inputs[1]", "valid string"),
        (EMBED, TEXT | {"inputs": ["a", "\t"]}, "inputs[1]", "should not be blank"),
        (EMBED, TEXT | {"inputs": ["a" * 8193]}, "inputs[0]", "at most 8192 bytes of UTF-8, not 8193"),
        (EMBED, TEXT | {"input_type": "document"}, "input_type", "'query' or 'passage'"),
        (EMBED, TEXT | {"dimensions": 9}, "dimensions", "at most 8, which the vectors of this encoder have, not 9"),
        (EMBED, TEXT | {"dimensions": 0}, "dimensions", "greater than or equal to 1"),
        (EMBED, TEXT | {"include": ["text"]}, "include[0]", "'vector' or 'tokens'"),
        (EMBED, TEXT | {"timeout_ms": 60_001}, "timeout_ms", "less than or equal to 60000"),
        (EMBED, TEXT | {"model": "x"}, "model", "is not a known field"),
        (RERANK, {"documents": ["a"]}, "query", "query is required"),
        (RERANK, PAIR | {"query": " "}, "query", "should not be blank"),
        (RERANK, PAIR | {"documents": []}, "documents", "at least 1"),
        (RERANK, PAIR | {"documents": ["a"] * 1001}, "documents", "at most 1000"),
        (RERANK, PAIR | {"documents": ["a", None]}, "documents[1]", "should be a text, or an object with a text"),
        (RERANK, PAIR | {"documents": [["a"]]}, "documents[0]", "should be a text, or an object with a text"),
        (RERANK, PAIR | {"documents": ["a", {"id": "b"}]}, "documents[1].text", "documents[1].text is required"),
        (RERANK, PAIR | {"documents": [{"text": "a", "url": "b"}]}, "documents[0].url", "is not a known field"),
        (RERANK, PAIR | {"documents": ["a", {"text": ""}]}, "documents[1]", "should not be blank"),
        (RERANK, PAIR | {"top_n": 1001}, "top_n", "less than or equal to 1000"),
        (RERANK, PAIR | {"return_documents": 1}, "return_documents", "valid boolean"),
    ],
)
async def test_a_wrong_request_is_refused(path: str, body: Any, param: str, message: str, server: Server) -> None:
    refused = await server.client.post(path, json=body)
    assert message in check_error(refused, 400, "INVALID_ARGUMENT", param)


@pytest.mark.parametrize(("path", "body"), [(EMBED, TEXT), (RERANK, PAIR)])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Overloaded("busy"), 429, "OVERLOADED"),
        (Unavailable("none"), 503, "UNAVAILABLE"),
        (DeadlineExceeded("late"), 504, "DEADLINE_EXCEEDED"),
        (RuntimeError("secret"), 500, "INTERNAL"),
    ],
)
async def test_what_an_engine_cannot_do_has_its_status(
    path: str, body: Any, error: Exception, status: int, code: str, server: Server
) -> None:
    server.engine.error = error
    message = check_error(await server.client.post(path, json=body), status, code)
    assert "secret" not in message
