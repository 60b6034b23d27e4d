"""What is said of a query that is longer than the encoder reads, through the pipeline over fakes: a token is a word."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from shoal.errors import Unavailable
from shoal.search.pipeline import SearchPipeline
from shoal.search.served_version import ServedVersion
from shoal.testing.fakes import (
    FakeEncoder,
    FakeShard,
    corpus,
    fingerprint,
    now,
    serve_settings,
    served_version,
    virtual_time,
)
from tests.support.search_system import request

LONG = "passage " * 21
CUT = "the query has 21 tokens, and the encoder reads 20 of them; the rest was not searched for by vectors"


def reading(max_tokens: int | None) -> ServedVersion:
    """A version whose encoder reads so many tokens; None if that is not known."""
    version = served_version("v1", [9], lexical=True, late=True)
    return replace(version, encoder=None if max_tokens is None else fingerprint(max_tokens))


class System:
    def __init__(self, max_tokens: int | None = 20, **settings: Any) -> None:
        self.encoder = FakeEncoder()
        shards = [FakeShard(corpus(9))]
        self.pipeline = SearchPipeline(self.encoder, shards, None, serve_settings(**settings), clock=now)
        self.pipeline.switch(reading(max_tokens))

    async def warnings(self, query: str, **changes: Any) -> tuple[str, ...]:
        answer = await self.pipeline.search(request(query, **changes))
        assert answer.degraded is None
        assert answer.results
        return answer.warnings


@virtual_time
async def test_a_query_beyond_what_the_encoder_reads_is_told_so() -> None:
    system = System()
    assert await system.warnings(LONG) == (CUT,)
    assert await system.warnings(LONG, mode="hybrid") == (CUT,)
    assert await system.warnings(LONG, rerank="late") == (CUT,)
    assert await system.warnings("passage " * 20) == ()


@virtual_time
async def test_tokens_are_counted_only_of_queries_that_may_be_too_long_and_that_are_encoded() -> None:
    system = System()
    assert await system.warnings("passage") == ()
    assert await system.warnings(LONG, mode="lexical") == ()
    assert await System(max_tokens=None).warnings(LONG) == ()
    assert system.encoder.counted == []


@virtual_time
async def test_queries_of_a_list_are_told_each_for_itself_and_counted_together() -> None:
    system = System()
    asked = [request(query) for query in ("passage", LONG, "passage " * 30, LONG)]
    answers = await system.pipeline.search_all(asked)
    assert [answer.warnings for answer in answers] == [(), (CUT,), (CUT.replace("21", "30"),), (CUT,)]
    assert sorted(query for queries in system.encoder.counted for query in set(queries)) == sorted(
        query for queries in system.encoder.counted for query in queries
    )


@virtual_time
async def test_a_count_that_fails_costs_no_answer_but_is_told() -> None:
    system = System()
    system.encoder.count_behaviour.errors = [Unavailable("gone"), RuntimeError("broken")]
    expected = "the query may have more than the 20 tokens that the encoder reads; it could not be counted"
    assert await system.warnings(LONG) == (expected,)
    assert await system.warnings(LONG) == (expected,)


@virtual_time
async def test_an_encoder_that_fails_leaves_no_count_behind() -> None:
    system = System()
    system.encoder.behaviour.errors = [Unavailable("gone"), Unavailable("gone")]
    system.encoder.count_behaviour.delay = 1.0
    with pytest.raises(Unavailable):
        await system.warnings(LONG)
    await asyncio.sleep(0)
    assert [task for task in asyncio.all_tasks() if "_lengths" in repr(task)] == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("a" * 56, False),
        ("a" * 57, True),
        ("é" * 4, False),
        ("é" * 5, True),
        ("日本語" * 20, True),
        ("\ufdfa" * 3, False),
        ("\ufdfa" * 4, True),
    ],
)
def test_what_may_be_too_long_is_told_by_its_characters(query: str, expected: bool) -> None:
    assert reading(64).may_cut(query) is expected


def test_a_version_knows_what_its_encoder_reads() -> None:
    version = reading(64)
    assert version.cut_warning(64) is None
    assert version.cut_warning(1_000) == (
        "the query has 1,000 tokens, and the encoder reads 64 of them; the rest was not searched for by vectors"
    )
    assert reading(None).cut_warning(1_000) is None
