"""Embeddings and models in the shape of OpenAI."""

import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from shoal.records import InputType
from tests.support.api_server import check_error
from tests.support.dialects import ENCODER, client_of, vectors_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEXTS = ["the black otter", "größe 日本", "fish"]


async def ask(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post("/v1/embeddings", json={"input": TEXTS, "model": ENCODER} | body)


def vectors_in(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return np.array([one["embedding"] for one in response.json()["data"]], np.float32)


async def test_vectors_come_as_numbers_or_as_base64(client: httpx.AsyncClient) -> None:
    expected = vectors_of(TEXTS, "passage")
    response = await ask(client)
    np.testing.assert_array_equal(vectors_in(response), expected)
    answer = response.json()
    assert (answer["object"], answer["model"]) == ("list", ENCODER)
    assert answer["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    assert [(one["object"], one["index"]) for one in answer["data"]] == [("embedding", place) for place in range(3)]
    packed = (await ask(client, encoding_format="base64")).json()["data"]
    unpacked = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in packed]
    np.testing.assert_array_equal(unpacked, expected)


async def test_a_single_text_has_a_single_vector(client: httpx.AsyncClient) -> None:
    assert vectors_in(await ask(client, input="fish", dimensions=64, user="u")).shape == (1, 64)


async def test_vectors_are_cut_and_normalised_anew(client: httpx.AsyncClient) -> None:
    cut = vectors_of(TEXTS, "passage")[:, :16]
    expected = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors_in(await ask(client, dimensions=16)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({}, "passage"),
        ({"model": f"{ENCODER}:query"}, "query"),
        ({"model": "multilingual-e5-large:query"}, "query"),
        ({"input_type": "query"}, "query"),
        ({"input_type": "document"}, "passage"),
        ({"model": f"{ENCODER}:passage", "input_type": "passage"}, "passage"),
    ],
)
async def test_texts_are_what_the_request_says(
    articles: Path, monkeypatch: pytest.MonkeyPatch, body: Any, kind: InputType
) -> None:
    from shoal.encoders.hashing import HashingEncoder

    asked: list[str] = []
    for name in ("queries", "passages"):
        method = getattr(HashingEncoder, f"encode_{name}")

        def spy(self: Any, texts: Any, name: str = name, method: Any = method) -> Any:
            asked.append(name)
            return method(self, texts)

        monkeypatch.setattr(HashingEncoder, f"encode_{name}", spy)
    async with client_of(articles) as client:
        asked.clear()
        assert (await ask(client, **body)).json()["model"] == ENCODER
    assert asked[0] == ("queries" if kind == "query" else "passages")


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"input": [1, 2]}, "input", "check_embedding_ctx_length=False"),
        ({"input": [[1, 2], [3]]}, "input", "check_embedding_ctx_length=False"),
        ({"input": []}, "input", "at least 1"),
        ({"input": ["a", ""]}, "input[1]", "blank"),
        ({"input": ["a"] * 1001}, "input", "1,000"),
        ({"input": 5}, "input", "valid string"),
        ({"dimensions": 65}, "dimensions", "at most 64"),
        ({"encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"model": f"{ENCODER}:query", "input_type": "passage"}, "input_type", "should be query"),
        ({"colour": 1}, "colour", "not a known field"),
    ],
)
async def test_what_is_wrong_is_named(client: httpx.AsyncClient, body: Any, param: str, words: str) -> None:
    assert words in check_error(await ask(client, **body), 400, "INVALID_ARGUMENT", param)


async def test_models_are_listed_under_all_their_names(client: httpx.AsyncClient) -> None:
    models = (await client.get("/v1/models")).json()["data"]
    assert [(model["id"], model["root"], model["task"]) for model in models] == [
        (ENCODER, ENCODER, "embed"),
        ("multilingual-e5-large", ENCODER, "embed"),
        ("overlap", "overlap", "rerank"),
        ("rerank-v3.5", "overlap", "rerank"),
        ("bge-reranker-v2-m3", "overlap", "rerank"),
    ]
    assert {(model["object"], model["owned_by"], model["created"]) for model in models} == {
        ("model", "shoal", 1795390451)
    }
    for model in models:
        assert (await client.get(f"/v1/models/{model['id']}")).json() == model
    message = check_error(await client.get("/v1/models/openai/gpt-x"), 404, "NOT_FOUND", "model")
    assert ENCODER in message


async def test_a_model_that_is_not_served_is_refused(client: httpx.AsyncClient) -> None:
    message = check_error(await ask(client, model="text-embedding-3-small:query"), 404, "NOT_FOUND", "model")
    assert f"--model-alias text-embedding-3-small={ENCODER}" in message
