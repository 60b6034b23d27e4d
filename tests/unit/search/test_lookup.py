"""Passages by their ids, and lists of ids, over fake shards."""

import asyncio
import time

import numpy as np
import pytest

from shoal.errors import DeadlineExceeded, InvalidArgument, ShoalError, Unavailable
from shoal.search.lookup import make_cursor, read_cursor
from shoal.search.pipeline import SearchPipeline
from shoal.testing.fakes import FakeEncoder, FakeShard, corpus, serve_settings, served_version, vector_of

PASSAGES = corpus(40, title=True)
IDS = [passage.id for passage in PASSAGES]


def soon() -> float:
    return time.monotonic() + 30


class System:
    """A pipeline over so many shards, among which the passages are dealt out."""

    def __init__(self, count: int) -> None:
        self.shards = [FakeShard(PASSAGES[number::count]) for number in range(count)]
        self.pipeline = SearchPipeline(FakeEncoder(), self.shards, None, serve_settings())
        self.pipeline.switch(served_version("v1", [len(shard.passages) for shard in self.shards]))


@pytest.fixture(params=[1, 3])
def system(request: pytest.FixtureRequest) -> System:
    return System(request.param)


async def test_passages_come_in_the_order_asked_each_once(system: System) -> None:
    fetched = await system.pipeline.fetch([IDS[7], "nothing", IDS[0], IDS[7], ""], soon())
    assert [passage for passage, _ in fetched.passages] == [PASSAGES[7], PASSAGES[0]]
    assert [vector for _, vector in fetched.passages] == [None, None]
    assert (fetched.missing, fetched.unknown) == (["nothing", ""], [])
    assert fetched.coverage.fraction == 1.0
    assert fetched.index_version == "v1"


async def test_vectors_come_if_they_are_asked_for(system: System) -> None:
    fetched = await system.pipeline.fetch(IDS[3:6], soon(), with_vectors=True)
    for (passage, vector), expected in zip(fetched.passages, PASSAGES[3:6], strict=True):
        assert passage == expected
        assert vector is not None
        np.testing.assert_array_equal(vector, vector_of(expected.text))


async def test_more_than_a_message_holds_is_fetched_in_several(system: System) -> None:
    for shard in system.shards:
        shard.message_rows = 2
    fetched = await system.pipeline.fetch(IDS, soon())
    assert [passage.id for passage, _ in fetched.passages] == IDS


@pytest.mark.parametrize("fault", ["locate", "fetch"])
async def test_what_a_silent_shard_may_hold_is_not_said_to_be_missing(fault: str) -> None:
    system = System(3)
    behaviour = system.shards[1].lookup_behaviour if fault == "locate" else system.shards[1].fetch_behaviour
    behaviour.errors = [Unavailable("gone")] * 2
    fetched = await system.pipeline.fetch([*IDS[:3], "nothing"], soon())
    assert [passage.id for passage, _ in fetched.passages] == [IDS[0], IDS[2]]
    assert fetched.unknown == ([IDS[1], "nothing"] if fault == "locate" else [IDS[1]])
    assert fetched.missing == ([] if fault == "locate" else ["nothing"])
    assert [missing.shard for missing in fetched.coverage.missing] == [1]


async def test_a_shard_that_hangs_leaves_time_for_the_others() -> None:
    system = System(3)
    system.shards[1].lookup_behaviour.hook = asyncio.Event().wait  # type: ignore[assignment]
    fetched = await system.pipeline.fetch(IDS[:3], time.monotonic() + 1)
    assert [passage.id for passage, _ in fetched.passages] == [IDS[0], IDS[2]]
    assert fetched.unknown == [IDS[1]]


async def test_without_any_shard_there_is_an_error(system: System) -> None:
    for shard in system.shards:
        shard.lookup_behaviour.errors = [Unavailable("gone")] * 4
    with pytest.raises(Unavailable, match="no shard answered"):
        await system.pipeline.fetch(IDS[:1], soon())
    for shard in system.shards:
        shard.lookup_behaviour.errors = []
        shard.lookup_behaviour.hook = asyncio.Event().wait  # type: ignore[assignment]
    with pytest.raises(DeadlineExceeded, match="no shard answered in time"):
        await system.pipeline.fetch(IDS[:1], time.monotonic() + 0.05)
    with pytest.raises(DeadlineExceeded, match="a list would lack ids in time"):
        await system.pipeline.list_ids("", 10, None, time.monotonic() + 0.05)


@pytest.mark.parametrize(("prefix", "limit"), [("", 7), ("", 40), ("", 41), ("p000", 3), ("p003", 100), ("q", 5)])
async def test_pages_hold_every_id_once_whatever_the_number_of_shards(prefix: str, limit: int, system: System) -> None:
    listed: list[str] = []
    cursor = None
    while True:
        page = await system.pipeline.list_ids(prefix, limit, cursor, soon())
        assert len(page.ids) <= limit
        listed += page.ids
        cursor = page.next
        if cursor is None:
            break
        assert len(page.ids) == limit
    assert listed == sorted(id_ for id_ in IDS if id_.startswith(prefix))


async def test_a_cursor_outlives_its_version_and_the_number_of_shards() -> None:
    first = await System(3).pipeline.list_ids("", 25, None, soon())
    rest = await System(1).pipeline.list_ids("", 25, first.next, soon())
    assert first.ids + rest.ids == sorted(IDS)
    assert rest.next is None


async def test_a_list_without_a_shard_is_refused(system: System) -> None:
    system.shards[-1].lookup_behaviour.errors = [Unavailable("gone")] * 2
    with pytest.raises(Unavailable, match="a list would lack ids"):
        await system.pipeline.list_ids("", 10, None, soon())


@pytest.mark.parametrize("id_", ["a", "doc-1", "Ä 魚 😀", "x" * 500, "?&=/+"])
def test_a_cursor_can_be_read_again(id_: str) -> None:
    cursor = make_cursor(id_)
    assert cursor.isascii()
    assert not set(cursor) & set("+/=&?")
    assert read_cursor(cursor) == id_


@pytest.mark.parametrize("cursor", ["!", "a", "ä", "____", "abc=d"])
async def test_what_is_no_cursor_is_a_wrong_request(cursor: str, system: System) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await system.pipeline.list_ids("", 10, cursor, soon())
    assert refused.value.param == "cursor"


async def test_a_shard_that_answers_nonsense_is_missing() -> None:
    system = System(3)

    async def nonsense(version: str, ids: list[str], deadline: float) -> list[int]:
        return [0]

    system.shards[0].locate = nonsense  # type: ignore[assignment,method-assign]
    fetched = await system.pipeline.fetch(IDS[:3], soon())
    assert fetched.unknown == [IDS[0]]
    assert fetched.coverage.missing[0].reason == "error"


async def test_before_a_version_is_served_there_is_nothing_to_fetch() -> None:
    pipeline = SearchPipeline(FakeEncoder(), [], None, serve_settings())
    for call in (pipeline.fetch(["a"], soon()), pipeline.list_ids("", 1, None, soon())):
        with pytest.raises(ShoalError, match="no index version is served yet"):
            await call
