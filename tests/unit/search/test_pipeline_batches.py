"""Queries that are under way together share calls, and keep what is their own."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from shoal import filters
from shoal.errors import (
    InvalidArgument,
)
from shoal.filters import Compare, Filter, Not
from shoal.testing.fakes import (
    exact,
    now,
    served_version,
    virtual_time,
)
from tests.support.search_system import PASSAGES, SIZES, System, request


@virtual_time
async def test_one_encode_call_and_one_call_per_shard_serve_all_queries_that_gathered() -> None:
    system = System()
    system.encoder.behaviour.delay = 1
    first = asyncio.ensure_future(system.pipeline.search(request("first")))
    await asyncio.sleep(0.1)
    requests = [request(f"query {n}", top_k=n + 1, top_n=n + 1, deadline=now() + 5 + n) for n in range(4)]
    answers = await system.pipeline.search_all(requests)
    await first

    assert system.encoder.calls == [["first"], [f"query {n}" for n in range(4)]]
    assert system.encoder.deadlines[1] == 0.1 + 5 + 3
    for shard in system.shards:
        assert [(call.queries, call.top_k) for call in shard.calls] == [(1, 5), (4, 4)]
    for n, answer in enumerate(answers):
        assert [result.id for result in answer.results] == [id_ for id_, _ in exact(PASSAGES, f"query {n}", n + 1)]


@virtual_time
async def test_queries_that_gather_keep_their_filters() -> None:
    system = System()
    system.pipeline.switch(served_version("v1", SIZES, {"number": "integer"}))
    asked = [None, {"number": {"$lt": 3}}, {}, {"number": {"$not": {"$gte": 3}}}]
    await system.pipeline.search_all([request(f"query {n}", filter=document) for n, document in enumerate(asked)])
    few = Compare("number", "lte", 2)
    for shard in system.shards:
        assert [call.filters for call in shard.calls] == [[None, few, None, Not(Compare("number", "gte", 3))]]
    await system.pipeline.search(request())
    assert [shard.calls[1].filters for shard in system.shards] == [None] * 3


@virtual_time
async def test_a_filter_is_parsed_once_for_all_queries_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[object] = []

    def parse(document: object, *args: Any) -> Filter | None:
        parsed.append(document)
        return filters.parse(document, *args)

    monkeypatch.setattr("shoal.search.request_plan.filters", SimpleNamespace(parse=parse))
    system = System()
    system.pipeline.switch(served_version("v1", SIZES, {"number": "integer"}))
    document = {"number": {"$lt": 3}}
    requests = [request(f"query {n}", filter=document) for n in range(20)]
    await system.pipeline.search_all(requests)
    assert parsed == [document]
    for shard in system.shards:
        ((first, *others),) = [call.filters or [] for call in shard.calls]
        assert len(others) == 19
        assert all(tree is first for tree in others), "they would be pickled one by one"
    system.pipeline.switch(served_version("v1", SIZES, {"other": "string"}))
    with pytest.raises(InvalidArgument):
        await system.pipeline.search_all(requests)
    assert len(parsed) == 2


@virtual_time
async def test_a_filter_that_does_not_fit_the_version_is_refused_before_anything_is_computed() -> None:
    system = System(max_filter_width=2)
    system.pipeline.switch(served_version("v1", SIZES, {"number": "integer"}))
    for wrong in ({"nmber": 1}, {"number": "x"}, {"number": {"$in": [1, 2, 3]}}):
        with pytest.raises(InvalidArgument, match=r"^filter\.n"):
            await system.pipeline.search(request(filter=wrong))
    assert system.encoder.calls == []
    system.encoder.behaviour.delay = 1
    late = asyncio.ensure_future(system.pipeline.search(request(filter={"number": 1})))
    await asyncio.sleep(0.5)
    system.pipeline.switch(served_version("v2", SIZES, {"other": "string"}))
    with pytest.raises(InvalidArgument, match=r"its fields are other \(string\)"):
        await late


@virtual_time
async def test_a_query_with_a_large_top_k_does_not_make_its_whole_batch_large() -> None:
    system = System()
    requests = [request(f"query {n}", top_k=1000 if n == 20 else 25, rerank=True) for n in range(30)]
    await system.pipeline.search_all(requests)
    assert [(call.queries, call.top_k) for call in system.shards[0].calls] == [(20, 25), (8, 1000), (2, 25)]


@virtual_time
async def test_a_busy_shard_gathers_queries_by_itself() -> None:
    system = System()
    system.shards[1].behaviour.delay = 1

    async def later(number: int) -> None:
        await asyncio.sleep(number * 0.1)
        await system.pipeline.search(request(f"query {number}"))

    await asyncio.gather(*(later(number) for number in range(5)))
    assert [call.queries for call in system.shards[0].calls] == [1] * 5
    assert [call.queries for call in system.shards[1].calls] == [1, 4]
