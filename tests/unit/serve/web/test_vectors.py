"""Searches by vectors and ids over HTTP."""

import base64
from typing import Any

import numpy as np
import pytest

from shoal.testing.fakes import exact, vector_of
from tests.support.api_server import PASSAGES, Server, answer_of, check_error

VECTOR = vector_of("fish").tolist()
PACKED = base64.b64encode(vector_of("fish").tobytes()).decode()


@pytest.mark.parametrize("vector", [VECTOR, PACKED, [3 * number for number in VECTOR]])
async def test_a_vector_is_searched_by(vector: Any, server: Server) -> None:
    answer = answer_of(await server.post({"vector": vector, "top_k": 7}))
    assert [result.id for result in answer.results] == [id_ for id_, _ in exact(PASSAGES, "fish", 7)]
    assert (answer.reranked, answer.mode) == (False, "dense")
    (request,) = server.engine.requests
    assert (request.query, request.rerank, request.top_n) == ("", False, 7)
    np.testing.assert_allclose(request.vector, VECTOR, atol=1e-6)


async def test_a_list_of_vectors_is_answered_with_a_list(server: Server) -> None:
    for body in (
        {"vector": [VECTOR, PACKED]},
        {"vector": [PACKED, VECTOR], "query": ["fish", "otter"]},
        {"vector": [PACKED]},
    ):
        response = await server.post(body)
        assert len(response.json()["responses"]) == len(body["vector"])
    assert [request.query for request in server.engine.requests] == ["", "", "fish", "otter", ""]
    assert [request.rerank for request in server.engine.requests] == [False, False, True, True, False]


async def test_passages_like_one_are_searched_for(server: Server) -> None:
    answer = answer_of(await server.post({"id": PASSAGES[3].id, "top_k": 4}))
    nearest = [id_ for id_, _ in exact(PASSAGES, PASSAGES[3].text, 5)]
    assert [result.id for result in answer.results] == nearest[1:]
    response = await server.post({"id": "nothing"})
    assert "no passage 'nothing'" in check_error(response, 404, "NOT_FOUND", "id")


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "query", "query is required, or else vector or id"),
        ({"vector": []}, "vector", "at least 1"),
        ({"vector": {"values": VECTOR}}, "vector", "should be a list of numbers, base64"),
        ({"vector": 5}, "vector", "should be a list of numbers, base64"),
        ({"vector": ["1", "2"]}, "vector[0]", "is no base64"),
        ({"vector": [1, None]}, "vector[1]", "valid number"),
        ({"vector": [[1, 2], 3]}, "vector[1]", "should be a list of numbers, base64"),
        ({"vector": [[1, 2], [3, "x"]]}, "vector[1][1]", "valid number"),
        ({"vector": [[1, 2]] * 65}, "vector", "at most 64"),
        ({"vector": [1] * 65_537}, "vector", "at most 65536"),
        ({"vector": "A" * 400_000}, "vector", "at most"),
        ({"vector": VECTOR, "id": "p1"}, "id", "leave one of them out"),
        ({"id": "x" * 1025}, "id", "at most 1024"),
        ({"id": ["p1"]}, "id", "valid string"),
        ({"vector": VECTOR, "rerank": True}, "rerank", "rerank needs a text"),
        ({"vector": VECTOR, "mode": "hybrid"}, "mode", "mode hybrid needs words"),
    ],
)
async def test_what_cannot_be_searched_by_is_refused(body: Any, param: str, message: str, server: Server) -> None:
    assert message in check_error(await server.post(body), 400, "INVALID_ARGUMENT", param)
