"""What text-embeddings-inference answers, on paths that others have too."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from shoal import __version__
from shoal.settings import RunSettings
from tests.support.dialects import DOCUMENTS, ENCODER, QUERY, client_of, scores_of, vectors_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCORES = scores_of(QUERY, DOCUMENTS)


def check_tei(response: httpx.Response, status: int, kind: str = "validation") -> str:
    body = response.json()
    assert (response.status_code, set(body), body["error_type"]) == (status, {"error", "error_type"}, kind)
    assert response.headers["x-request-id"]
    assert ("retry-after" in response.headers) == (status in (429, 503))
    message: str = body["error"]
    return message


async def test_texts_are_ranked(client: httpx.AsyncClient) -> None:
    body = {"query": QUERY, "texts": DOCUMENTS}
    ranks = (await client.post("/rerank", json=body)).json()
    assert [rank["score"] for rank in ranks] == pytest.approx(sorted(SCORES, reverse=True))
    assert {rank["index"]: rank["score"] for rank in ranks} == pytest.approx(dict(enumerate(SCORES)))
    assert set(ranks[0]) == {"index", "score"}
    options = {"return_text": True, "raw_scores": True, "top_n": 2, "truncate": True, "truncation_direction": "Right"}
    chosen = (await client.post("/rerank", json=body | options)).json()
    assert [(rank["index"], rank["text"]) for rank in chosen] == [(2, DOCUMENTS[2]), (3, DOCUMENTS[3])]


async def test_texts_become_vectors(client: httpx.AsyncClient) -> None:
    vectors = (await client.post("/embed", json={"inputs": DOCUMENTS, "normalize": True})).json()
    np.testing.assert_array_equal(np.array(vectors, np.float32), vectors_of(DOCUMENTS, "passage"))
    single = (await client.post("/embed", json={"inputs": QUERY, "prompt_name": "query", "dimensions": 64})).json()
    np.testing.assert_array_equal(np.array(single, np.float32), vectors_of([QUERY], "query"))
    (cut,) = (await client.post("/embed", json={"inputs": QUERY, "prompt_name": "query", "dimensions": 16})).json()
    expected = vectors_of([QUERY], "query")[0, :16]
    np.testing.assert_allclose(cut, expected / np.linalg.norm(expected), atol=1e-6)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/embed", {"inputs": []}, "inputs"),
        ("/embed", {"inputs": ["a", ""]}, "inputs[1] should not be blank"),
        ("/embed", {"inputs": "a", "normalize": False}, "normalize should be true"),
        ("/embed", {"inputs": "a", "truncation_direction": "left"}, "truncation_direction should be right"),
        ("/embed", {"inputs": "a", "dimensions": 65}, "dimensions should be at most 64"),
        ("/embed", {"inputs": "a", "prompt_name": "code"}, "prompt_name"),
        ("/embed", {"inputs": "a " * 600, "truncate": False}, "inputs[0] has 600 tokens, and the encoder reads 512"),
        ("/embed", {}, "inputs is required"),
        ("/rerank", {"query": "a", "texts": []}, "texts"),
        ("/rerank", {"query": "a", "texts": ["a", " "]}, "texts[1] should not be blank"),
        ("/rerank", {"texts": ["a"]}, "query is required"),
        ("/rerank", {"query": "a", "texts": ["a"], "truncate": False}, "truncate should be true"),
        ("/rerank", {"query": "a", "texts": ["a"], "truncation_direction": "Left"}, "truncation_direction"),
        ("/rerank", {"query": "a", "texts": ["a"], "documents": ["a"]}, "documents is not a known field"),
    ],
)
async def test_errors_have_the_body_that_its_clients_read(
    client: httpx.AsyncClient, path: str, body: Any, words: str
) -> None:
    assert words in check_tei(await client.post(path, json=body), 400)


async def test_errors_before_a_body_is_read_too(articles: Path) -> None:
    async with client_of(articles, max_body_bytes=1024) as client:
        check_tei(await client.post("/embed", json={"inputs": "a" * 2000}), 413)
        check_tei(await client.post("/embed", content=b"{}"), 415)
        check_tei(await client.get("/embed"), 405)
        check_tei(await client.post("/info"), 405)
        check_tei(await client.post("/health", json={}), 405)


async def test_it_says_what_is_served_and_whether_it_is_ready(client: httpx.AsyncClient) -> None:
    info = (await client.get("/info")).json()
    assert (info["model_id"], info["reranker_id"], info["version"]) == (ENCODER, "overlap", __version__)
    assert info["model_type"]["embedding"]["dimensions"] == 64
    assert (await client.get("/health")).json() == {"status": "ok"}


async def test_a_server_that_is_not_ready_says_so(tmp_path: Path) -> None:
    from serve.local import local_api
    from shoal.engine.engine import LocalEngine
    from shoal.settings import ServeSettings

    settings = RunSettings(index=str(tmp_path / "nothing"), local=True)
    app = local_api(LocalEngine(settings.part(ServeSettings)), settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        assert "not ready" in check_tei(await client.get("/health"), 503, "overloaded")
        check_tei(await client.get("/info"), 503, "overloaded")
