"""Dify's external knowledge over both stages of a search."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.dialects import client_of, scores_of
from tests.support.indexes import passages

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def ask(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    setting = {"top_k": 3, "score_threshold": 0.0}
    body = {"knowledge_id": "articles", "query": "black otter n8", "retrieval_setting": setting} | body
    return await client.post("/retrieval", json=body)


def check_dify(response: httpx.Response, status: int, code: int) -> str:
    body = response.json()
    assert (response.status_code, body["error_code"]) == (status, code)
    assert body["error_msg"] == body["error"]["message"] == body["detail"]
    message: str = body["error_msg"]
    return message


async def test_passages_come_reranked_with_scores_from_0_to_1(client: httpx.AsyncClient) -> None:
    answer = (await ask(client)).json()
    best = answer["records"][0]
    text = passages(60)[8].text
    assert best == {
        "content": text,
        "score": pytest.approx(scores_of("black otter n8", [text])[0]),
        "title": "p8",
        "metadata": {"number": 8, "passage_id": "p8"},
    }
    assert len(answer["records"]) == 3
    assert (answer["degraded"], answer["warnings"]) == (None, [])
    assert (await ask(client, knowledge_id="default")).json() == answer


async def test_a_threshold_leaves_out_what_is_below(client: httpx.AsyncClient) -> None:
    every = (await ask(client, retrieval_setting={"top_k": 20, "score_threshold": 0.0})).json()["records"]
    scores = [record["score"] for record in every]
    assert 0 < min(scores) < 0.4 < max(scores)
    some = (await ask(client, retrieval_setting={"top_k": 20, "score_threshold": 0.4})).json()["records"]
    assert some == [record for record in every if record["score"] >= 0.4]


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
async def test_without_a_reranker_scores_are_those_of_stage_one(articles: Path, mode: str) -> None:
    async with client_of(articles, reranker="none", mode=mode) as client:
        records = (await ask(client)).json()["records"]
        searched = await client.post("/v1/search", json={"query": "black otter n8", "top_n": 3})
    for record, result in zip(records, searched.json()["results"], strict=True):
        score = result["score"]
        assert 0 <= record["score"] <= 1
        assert record["score"] == pytest.approx(score / (1 + score) if mode == "lexical" else min(1, max(0, score)))
        assert record["metadata"]["passage_id"] == result["id"]


@pytest.mark.parametrize(
    ("condition", "numbers"),
    [
        ({"comparison_operator": "=", "value": "8"}, {8}),
        ({"comparison_operator": "is", "value": 8}, {8}),
        ({"comparison_operator": "in", "value": "8, 18"}, {8, 18}),
        ({"comparison_operator": "in", "value": ["8", "18"]}, {8, 18}),
        ({"comparison_operator": "≥", "value": "58"}, {58, 59}),
        ({"comparison_operator": "<", "value": 2}, {0, 1}),
        ({"comparison_operator": "empty"}, set()),
        ({"comparison_operator": "not empty"}, set(range(60))),
        ({"comparison_operator": "≠", "value": 8}, set(range(60)) - {8}),
    ],
)
async def test_conditions_are_filters(client: httpx.AsyncClient, condition: Any, numbers: set[int]) -> None:
    wanted = {"conditions": [{"name": "number", **condition}]}
    setting = {"top_k": 100, "score_threshold": 0}
    answer = (await ask(client, metadata_condition=wanted, retrieval_setting=setting)).json()
    assert {record["metadata"]["number"] for record in answer["records"]} == numbers


async def test_conditions_are_joined(client: httpx.AsyncClient) -> None:
    pair = [
        {"name": ["number"], "comparison_operator": "<", "value": 2},
        {"name": "number", "comparison_operator": ">", "value": 57},
    ]
    for operator, numbers in (("or", {0, 1, 58, 59}), ("and", set())):
        wanted = {"logical_operator": operator, "conditions": pair}
        records = (await ask(client, metadata_condition=wanted, retrieval_setting={"top_k": 9})).json()["records"]
        assert {record["metadata"]["number"] for record in records} == numbers
    empty = await ask(client, metadata_condition={"logical_operator": "and", "conditions": []})
    assert len(empty.json()["records"]) == 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"query": ""}, "query"),
        ({"retrieval_setting": {"top_k": 0}}, "retrieval_setting.top_k"),
        ({"retrieval_setting": {"top_k": 5000}}, "retrieval_setting.top_k should be 1 to 1,000"),
        ({"retrieval_setting": {"top_k": 1, "score_threshold": 2}}, "score_threshold"),
        ({"metadata_condition": {"conditions": [{"name": "number", "comparison_operator": "start with"}]}}, "start wi"),
        ({"metadata_condition": {"conditions": [{"name": "none", "comparison_operator": "is", "value": "a"}]}}, "none"),
        ({"metadata_condition": {"conditions": [{"name": [], "comparison_operator": "is", "value": "a"}]}}, "name"),
        ({"metadata_condition": {"conditions": [{"name": "number", "comparison_operator": "is"}]}}, "null"),
    ],
)
async def test_what_is_wrong_is_named(client: httpx.AsyncClient, body: Any, words: str) -> None:
    assert words in check_dify(await ask(client, **body), 400, 400)


async def test_errors_have_the_codes_that_dify_knows(client: httpx.AsyncClient) -> None:
    message = check_dify(await ask(client, knowledge_id="other"), 404, 2001)
    assert "'articles' or 'default'" in message
    check_dify(await client.get("/retrieval"), 405, 405)
