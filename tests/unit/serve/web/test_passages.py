"""Passages by their ids, and lists of ids, over HTTP."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from serve.dialects.native import models as native
from shoal.errors import Unavailable
from tests.support.api_server import PASSAGES, Server, check_error

IDS = [passage.id for passage in PASSAGES]
URL = "/v1/passages/fetch"


async def test_passages_are_fetched_with_the_parts_that_are_asked_for(server: Server) -> None:
    response = await server.client.post(URL, json={"ids": [IDS[12], "nothing", IDS[3]]})
    body = TypeAdapter(native.FetchResponse).validate_json(response.content, strict=True)
    assert [passage.id for passage in body.passages] == [IDS[12], IDS[3]]
    assert body.passages[0].text == PASSAGES[12].text
    assert body.passages[0].title == PASSAGES[12].title
    assert (body.missing, body.unknown, body.degraded) == (["nothing"], [], None)
    assert body.coverage.answered == 2
    alone = (await server.client.post(URL, json={"ids": IDS[:1], "include": []})).json()
    assert alone["passages"] == [{"id": IDS[0]}]
    vectors = (await server.client.post(URL, json={"ids": IDS[:2], "include": ["vector"]})).json()
    assert [len(passage["vector"]) for passage in vectors["passages"]] == [8, 8]


async def test_a_shard_that_does_not_answer_degrades_the_answer(server: Server) -> None:
    server.engine.shards[1].lookup_behaviour.errors = [Unavailable("gone")] * 2
    response = await server.client.post(URL, json={"ids": [IDS[0], IDS[20]]})
    assert response.status_code == 200
    body = response.json()
    assert body["unknown"] == [IDS[20]]
    assert body["degraded"] == "1 of 2 shards did not answer"
    assert body["coverage"]["missing"] == [{"shard": 1, "reason": "unreachable"}]


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "ids", "ids is required"),
        ({"ids": []}, "ids", "at least 1"),
        ({"ids": "a"}, "ids", "should be a valid list"),
        ({"ids": ["a"] * 1001}, "ids", "at most 1000 items"),
        ({"ids": ["a", ""]}, "ids[1]", "at least 1 character"),
        ({"ids": ["a", 5]}, "ids[1]", "valid string"),
        ({"ids": ["x" * 1025]}, "ids[0]", "at most 1024"),
        ({"ids": ["a"], "include": ["nonsense"]}, "include[0]", "should be"),
        ({"ids": ["a"], "tenant": "n"}, "tenant", "is not a known field"),
        ({"ids": ["a"], "namespace": "n" * 257}, "namespace", "at most 256"),
        ({"ids": ["a"], "namespace": "a\tb"}, "namespace", "printable"),
    ],
)
async def test_a_wrong_fetch_is_refused(body: Any, param: str, message: str, server: Server) -> None:
    refused = await server.client.post(URL, json=body)
    assert message in check_error(refused, 400, "INVALID_ARGUMENT", param)


async def test_ids_are_listed_a_page_at_a_time(server: Server) -> None:
    listed: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        response = await server.client.get("/v1/passages", params={"prefix": "p00", "limit": "15", **cursor})
        page = TypeAdapter(native.ListResponse).validate_json(response.content, strict=True)
        listed += page.ids
        if page.next is None:
            break
        cursor = {"cursor": page.next}
    assert listed == sorted(IDS)
    assert (await server.client.get("/v1/passages")).json()["ids"] == sorted(IDS)


@pytest.mark.parametrize(
    ("query", "param", "message"),
    [
        ("limit=0", "limit", "greater than or equal to 1"),
        ("limit=1001", "limit", "less than or equal to 1000"),
        ("limit=many", "limit", "valid integer"),
        ("cursor=!!!", "cursor", "cursor should be what `next`"),
        ("cursor=" + "x" * 3000, "cursor", "at most 2048 characters"),
        ("prefix=" + "x" * 1025, "prefix", "at most 1024 characters"),
        ("tenant=n", "tenant", "is not a known field"),
        ("namespace=%00", "namespace", "printable"),
    ],
)
async def test_a_wrong_list_is_refused(query: str, param: str, message: str, server: Server) -> None:
    assert message in check_error(await server.client.get(f"/v1/passages?{query}"), 400, "INVALID_ARGUMENT", param)


async def test_a_list_that_would_lack_ids_is_refused(server: Server) -> None:
    server.engine.shards[0].lookup_behaviour.errors = [Unavailable("gone")] * 2
    check_error(await server.client.get("/v1/passages"), 503, "UNAVAILABLE")
