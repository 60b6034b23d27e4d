"""Reranking in the shape of Cohere, Jina, vLLM, Xinference and Voyage."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.api_server import check_error
from tests.support.dialects import DOCUMENTS, QUERY, RERANKER, client_of, scores_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")
SCORES = scores_of(QUERY, DOCUMENTS)
ORDER = sorted(range(len(DOCUMENTS)), key=lambda place: -SCORES[place])


async def ask(client: httpx.AsyncClient, path: str = "/v1/rerank", **body: Any) -> httpx.Response:
    content = json.dumps(
        {"query": QUERY, "documents": DOCUMENTS, "model": RERANKER} | body
    )  # which lone surrogates may be in
    return await client.post(path, content=content, headers={"content-type": "application/json"})


@pytest.mark.parametrize("path", PATHS)
async def test_documents_come_back_best_first_with_what_every_vendor_reads(
    client: httpx.AsyncClient, path: str
) -> None:
    response = await ask(client, path, top_n=3, model="rerank-v3.5")
    answer = response.json()
    assert [result["index"] for result in answer["results"]] == ORDER[:3]
    for result in answer["results"]:
        assert result["relevance_score"] == result["score"] == pytest.approx(SCORES[result["index"]])
        # Jina, Cohere v1 and vLLM return documents unless told otherwise, Cohere v2 never.
        assert result.get("document") == (None if path == "/v2/rerank" else {"text": DOCUMENTS[result["index"]]})
    words = sum(len(text.split()) for text in DOCUMENTS) + len(DOCUMENTS) * len(QUERY.split())
    assert answer["id"] == response.headers["x-request-id"]
    assert (answer["model"], answer["object"]) == (RERANKER, "list")
    assert answer["meta"]["tokens"] == {"input_tokens": words, "output_tokens": 0}
    assert answer["meta"]["billed_units"] == {"search_units": 1}
    assert answer["usage"] == {"prompt_tokens": words, "total_tokens": words}
    assert "data" not in answer


@pytest.mark.parametrize(
    ("body", "returned"),
    [
        ({"model": None}, False),
        ({"model": None, "return_documents": True}, True),
        ({}, True),
        ({"return_documents": False}, False),
    ],
)
async def test_documents_come_back_if_asked_for(client: httpx.AsyncClient, body: Any, returned: bool) -> None:
    results = (await ask(client, **body)).json()["results"]
    assert [("document" in result) for result in results] == [returned] * len(DOCUMENTS)


async def test_voyage_finds_its_results_as_data(client: httpx.AsyncClient) -> None:
    answer = (await ask(client, top_k=2, truncation=True, model=RERANKER)).json()
    assert answer["data"] == answer["results"]
    assert len(answer["data"]) == 2
    check_error(await ask(client, top_k=2, top_n=2), 400, "INVALID_ARGUMENT", "top_k")
    check_error(await ask(client, truncation=False), 400, "INVALID_ARGUMENT", "truncation")


async def test_nulls_and_what_changes_nothing_are_accepted(client: httpx.AsyncClient) -> None:
    names = ("top_n", "top_k", "return_documents", "rank_fields", "max_tokens_per_doc", "max_chunks_per_doc", "model")
    assert (await ask(client, **dict.fromkeys(names))).status_code == 200
    ignored = {"max_tokens_per_doc": 4096, "priority": 0, "user": "u", "return_len": True, "kwargs": "{}"}
    assert (await ask(client, truncate_prompt_tokens=-1, **ignored)).status_code == 200
    check_error(await ask(client, kwargs='{"normalize": true}'), 400, "INVALID_ARGUMENT", "kwargs")
    check_error(await ask(client, nonsense=1), 400, "INVALID_ARGUMENT", "nonsense")


async def test_objects_are_read_by_text_and_title_or_by_their_fields(client: httpx.AsyncClient) -> None:
    objects = [
        {"text": "a fish", "id": "x1", "year": 2020},
        {"text": "sleeps", "title": "black otter"},
        {"text": "none", "body": "the black otter", "more": "otter"},
    ]
    answer = (await ask(client, documents=objects, return_documents=True)).json()["results"]
    expected = scores_of(QUERY, ["a fish", "black otter sleeps", "none"])
    assert [result["index"] for result in answer] == [1, 0, 2]
    assert {result["index"]: result["score"] for result in answer} == pytest.approx(dict(enumerate(expected)))
    assert [result["document"] for result in answer] == [objects[result["index"]] for result in answer]
    assert {result["index"]: result.get("id") for result in answer} == {0: "x1", 1: None, 2: None}
    chosen = (await ask(client, documents=objects[2:], rank_fields=["body", "more"])).json()["results"]
    assert chosen[0]["score"] == pytest.approx(scores_of(QUERY, ["the black otter\notter"])[0])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": ["a", " "]}, "documents[1]"),
        ({"documents": ["a", 5]}, "documents[1]"),
        ({"documents": [{"body": "a"}]}, "documents[0]"),
        ({"documents": [{"text": "a"}], "rank_fields": ["body"]}, "documents[0]"),
        ({"documents": [{"text": "a", "x": "\ud800"}], "return_documents": True}, "documents[0]"),
        ({"documents": [{"text": "a", "id": "\ud800"}]}, "documents[0]"),
        ({"documents": ["a"] * 1001}, "documents"),
        ({"query": ""}, "query"),
        ({"query": "x" * 8193}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"model": 5}, "model"),
    ],
)
async def test_what_is_wrong_is_named(client: httpx.AsyncClient, body: Any, param: str) -> None:
    for path in PATHS[:2] if "rank_fields" in body else PATHS:
        check_error(await ask(client, path, **body), 400, "INVALID_ARGUMENT", param)


async def test_a_model_that_is_not_served_is_refused(client: httpx.AsyncClient) -> None:
    message = check_error(await ask(client, model="rerank-2"), 404, "NOT_FOUND", "model")
    assert "the reranker is 'overlap'" in message
    assert "--model-alias rerank-2=overlap" in message


async def test_a_server_without_a_reranker_says_so(articles: Path) -> None:
    async with client_of(articles, reranker="none") as client:
        assert "--reranker" in check_error(await ask(client), 400, "INVALID_ARGUMENT")


async def test_scores_of_late_interaction_are_relevant_as_they_are(articles: Path) -> None:
    async with client_of(articles, reranker="late_interaction", model_alias=[]) as client:
        results = (await ask(client, model="late_interaction")).json()["results"]
    assert [result["relevance_score"] for result in results] == [max(0.0, result["score"]) for result in results]
    assert results[0]["index"] == 2
