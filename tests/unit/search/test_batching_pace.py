"""A batcher that has learned how fast its server works: what would come too late is refused at once."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import DeadlineExceeded, Overloaded
from shoal.search.batching import Batcher
from shoal.testing.fakes import now, virtual_time
from tests.support.batchers import batcher


class Worker:
    """Takes `pace` seconds for each unit of cost, which is the item itself, and remembers what it started and when."""

    def __init__(self, pace: float = 1.0) -> None:
        self.pace = pace
        self.started: list[tuple[float, list[int]]] = []

    async def __call__(self, items: list[int]) -> Sequence[int]:
        self.started.append((now(), items))
        await asyncio.sleep(self.pace * sum(items))
        return items


async def at_a_known_pace(worker: Worker, **changes: Any) -> Batcher[int, int]:
    server = batcher(worker, cost=float, **changes)
    assert await server.submit(1, 100) == 1
    worker.started.clear()
    return server


@virtual_time
async def test_what_would_come_too_late_is_refused_at_once_and_does_not_wait() -> None:
    worker = Worker()
    server = await at_a_known_pace(worker, max_batch=1)
    first, second = server.submit(4, now() + 100), server.submit(3, now() + 100)
    await asyncio.sleep(1)  # 3 s of the first one are left, and 3 s of the second one are to come
    with pytest.raises(Overloaded, match=r"6\.0 s") as refusal:
        server.submit(2, now() + 7.9)
    assert (now(), refusal.value.retry_after_s) == (2, pytest.approx(6))
    third = server.submit(2, now() + 8.1)
    assert await asyncio.gather(first, second, third) == [4, 3, 2]
    assert worker.started == [(1, [4]), (5, [3]), (8, [2])]


@virtual_time
async def test_an_idle_server_tries_even_what_seems_hopeless_and_learns_from_it() -> None:
    worker = Worker(pace=10)
    server = await at_a_known_pace(worker)
    worker.pace = 0.1  # a moment of ill luck is over
    for _ in range(20):
        assert await server.submit(1, now() + 1) == 1
    assert server._pace == pytest.approx(0.1, rel=0.1)


@virtual_time
async def test_what_cannot_finish_any_more_is_not_started() -> None:
    worker = Worker(pace=0.1)
    server = await at_a_known_pace(worker, max_batch=1)
    first, hopeless, last = (server.submit(item, now() + seconds) for item, seconds in ((10, 9), (10, 4), (10, 9)))
    worker.pace = 0.35  # slower than was known when they were accepted
    with pytest.raises(DeadlineExceeded):
        await hopeless
    assert now() < 4
    assert await asyncio.gather(first, last) == [10, 10]
    assert [items for _, items in worker.started] == [[10], [10]]


@virtual_time
async def test_nobody_joins_a_batch_that_others_would_be_late_for() -> None:
    worker = Worker()
    server = await at_a_known_pace(worker)
    blocking = server.submit(1, now() + 100)
    await asyncio.sleep(0.5)
    futures = [server.submit(2, now() + 3), server.submit(3, now() + 100), server.submit(1, now() + 100)]
    assert await asyncio.gather(blocking, *futures) == [1, 2, 3, 1]
    assert [items for _, items in worker.started] == [[1], [2], [3, 1]]


@virtual_time
async def test_a_batch_that_never_ends_teaches_at_least_how_long_it_took() -> None:
    worker = Worker()
    server = await at_a_known_pace(worker)
    worker.pace = 1e6
    with pytest.raises(DeadlineExceeded):
        await server.submit(1, now() + 60)
    await asyncio.sleep(1)
    assert server._pace == pytest.approx(1 + 0.3 * 59)


@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 9), st.floats(0.1, 40)), max_size=30),
    st.integers(1, 4),
    st.integers(1, 10),
)
def test_at_a_steady_pace_whatever_was_accepted_is_done_in_time(
    arrivals: list[tuple[float, int, float]], max_batch: int, max_waiting: int
) -> None:
    @virtual_time
    async def run() -> None:
        worker = Worker(pace=0.5)
        server = await at_a_known_pace(worker, max_batch=max_batch, max_waiting=max_waiting)

        async def come(at: float, item: int, patience: float) -> None:
            await asyncio.sleep(at)
            idle = not server.waiting and not server._in_flight
            try:
                future = server.submit(item, now() + patience)
            except Overloaded:
                assert not idle
                return
            assert server.waiting <= max_waiting
            try:
                assert await future == item
            except DeadlineExceeded:
                assert idle, "only what came to an idle server may have been hopeless from the beginning"

        await asyncio.gather(*(come(*arrival) for arrival in arrivals))

    run()
