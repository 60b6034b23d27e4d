"""What gathers for a batch, who waits, and who is refused."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import DeadlineExceeded, Overloaded, Unavailable
from shoal.search.batching import Batcher
from shoal.testing.fakes import now, virtual_time
from tests.support.batchers import batcher


class Handler:
    """Doubles numbers, one second a batch, and remembers (start, items)."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.batches: list[tuple[float, list[int]]] = []
        self.cancelled = 0

    async def __call__(self, items: list[int]) -> Sequence[int]:
        self.batches.append((now(), items))
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [2 * item for item in items]


@virtual_time
async def test_an_idle_server_starts_at_once() -> None:
    handler = Handler()
    assert await batcher(handler).submit(21, 10) == 42
    assert handler.batches == [(0, [21])]


@virtual_time
async def test_items_of_one_moment_share_a_batch_and_keep_their_order() -> None:
    handler = Handler()
    server = batcher(handler)
    assert await asyncio.gather(*(server.submit(item, 10) for item in range(4))) == [0, 2, 4, 6]
    assert handler.batches == [(0, [0, 1, 2, 3])]


@virtual_time
async def test_what_arrives_while_a_batch_is_in_flight_gathers_for_the_next() -> None:
    handler = Handler()
    server = batcher(handler)
    futures = [server.submit(0, 10)]
    await asyncio.sleep(0.1)
    futures += [server.submit(item, 10) for item in range(1, 7)]
    assert await asyncio.gather(*futures) == [2 * item for item in range(7)]
    assert handler.batches == [(0, [0]), (1, [1, 2, 3, 4]), (2, [5, 6])]


@virtual_time
async def test_what_does_not_fit_waits_for_the_next_batch_in_order() -> None:
    handler = Handler()
    server = batcher(handler, fits=lambda batch, item: sum(batch) + item <= 10)
    await asyncio.gather(*(server.submit(item, 100) for item in (6, 4, 1, 99, 2, 3)))
    assert [items for _, items in handler.batches] == [[6, 4], [1], [99], [2, 3]]


@virtual_time
async def test_as_many_batches_as_asked_for_are_in_flight() -> None:
    handler = Handler()
    server = batcher(handler, max_batch=1, concurrency=2)
    await asyncio.gather(*(server.submit(item, 10) for item in range(3)))
    assert handler.batches == [(0, [0]), (0, [1]), (1, [2])]


@virtual_time
async def test_beyond_the_limit_callers_are_refused_at_once() -> None:
    handler = Handler()
    server = batcher(handler, max_batch=2, max_waiting=3)
    done = [server.submit(item, 100) for item in range(2)]
    await asyncio.sleep(0.5)  # those two are in flight, where they take no place
    done += [server.submit(item, 100) for item in range(3)]
    with pytest.raises(Overloaded, match="3 queries waiting"):
        server.submit(9, 100)
    assert now() == 0.5
    await asyncio.gather(*done)
    done = [server.submit(item, 100) for item in range(3)]
    with pytest.raises(Overloaded) as refusal:
        server.submit(9, 100)
    assert refusal.value.retry_after_s == 2  # two batches of the second that the last one took
    await asyncio.gather(*done)


@virtual_time
async def test_a_waiter_whose_deadline_passes_is_dropped_before_work_starts() -> None:
    handler = Handler()
    server = batcher(handler, max_batch=1)
    first, late, patient = server.submit(0, 10), server.submit(1, 0.5), server.submit(2, 10)
    with pytest.raises(DeadlineExceeded):
        await late
    assert now() == 0.5
    assert len(server._waiting) == 1
    assert await asyncio.gather(first, patient) == [0, 4]
    assert handler.batches == [(0, [0]), (1, [2])]


@virtual_time
async def test_no_time_left_is_refused_without_queueing() -> None:
    server = batcher(Handler())
    with pytest.raises(DeadlineExceeded):
        server.submit(1, 0)
    assert len(server._waiting) == 0


@virtual_time
async def test_a_waiter_that_expired_while_the_loop_was_busy_is_not_served() -> None:
    handler = Handler()
    clock = [0.0]
    server = Batcher(handler, max_batch=4, max_waiting=8, clock=lambda: clock[0])
    expired, served = server.submit(1, 5), server.submit(2, 100)
    clock[0] = 6  # wall-clock time that no timer of the loop has noticed
    with pytest.raises(DeadlineExceeded):
        await expired
    assert await served == 4
    assert handler.batches == [(0, [2])]


@virtual_time
async def test_nobody_waits_for_a_handler_that_hangs() -> None:
    handler = Handler(seconds=1000)
    server = batcher(handler)
    impatient, patient = server.submit(1, 2), server.submit(2, 3)
    with pytest.raises(DeadlineExceeded):
        await impatient
    assert (now(), handler.cancelled) == (2, 0)
    with pytest.raises(DeadlineExceeded):
        await patient
    await asyncio.sleep(0.01)
    assert (now(), handler.cancelled) == (3.01, 1)
    handler.seconds = 1
    assert await server.submit(3, 10) == 6


@virtual_time
async def test_a_caller_that_leaves_frees_its_place() -> None:
    handler = Handler()
    server = batcher(handler, max_batch=1, max_waiting=1)
    first = server.submit(0, 10)
    await asyncio.sleep(0.1)
    gone = server.submit(1, 10)
    gone.cancel()
    await asyncio.sleep(0)
    assert len(server._waiting) == 0
    assert await asyncio.gather(first, server.submit(2, 10)) == [0, 4]
    assert handler.batches == [(0, [0]), (1, [2])]


@virtual_time
async def test_callers_that_leave_in_flight_do_not_disturb_the_others() -> None:
    server = batcher(Handler())
    leaving, staying = server.submit(1, 10), server.submit(2, 10)
    await asyncio.sleep(0.5)
    leaving.cancel()
    assert await staying == 4


@virtual_time
async def test_an_exception_reaches_exactly_its_batch() -> None:
    async def handler(items: list[int]) -> list[int]:
        await asyncio.sleep(1)
        if 13 in items:
            raise ValueError("unlucky")
        return items

    server = batcher(handler, max_batch=2)
    outcomes = await asyncio.gather(*(server.submit(item, 10) for item in (1, 2, 13, 4, 5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [int, int, ValueError, ValueError, int]


@virtual_time
async def test_a_handler_that_loses_results_fails_its_batch() -> None:
    async def handler(items: list[int]) -> list[int]:
        return items[1:]

    with pytest.raises(RuntimeError, match="0 results for 1 items"):
        await batcher(handler).submit(1, 10)


@virtual_time
async def test_a_handler_that_is_cancelled_from_within_fails_its_batch_and_serves_the_next() -> None:
    async def handler(items: list[int]) -> list[int]:
        if items == [1]:
            raise asyncio.CancelledError
        return items

    server = batcher(handler, max_batch=1)
    lost, served = server.submit(1, 10), server.submit(2, 10)
    with pytest.raises(Unavailable):
        await lost
    assert await served == 2


@virtual_time
async def test_a_cancelled_worker_leaves_nobody_waiting() -> None:
    server = batcher(Handler(), max_batch=1)
    in_flight, waiting = server.submit(1, 10), server.submit(2, 10)
    await asyncio.sleep(0.5)
    (worker,) = server._workers
    worker.cancel()
    with pytest.raises(Unavailable):
        await in_flight
    with pytest.raises(DeadlineExceeded):
        await waiting
    assert await server.submit(3, 20) == 6


@dataclass
class Caller:
    arrives: float
    patience: float
    leaves: float | None
    fails: bool


moments = st.integers(0, 40).map(lambda tenths: tenths / 10)
callers = st.builds(
    Caller, arrives=moments, patience=moments.map(lambda s: s + 0.05), leaves=st.none() | moments, fails=st.booleans()
)


@given(
    st.lists(callers, max_size=25),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from([0, 0.3, 1, 99]),
)
@virtual_time
async def test_whatever_callers_and_handlers_do(
    crowd: list[Caller], max_batch: int, max_waiting: int, concurrency: int, seconds: float
) -> None:
    running = 0
    seen: list[int] = []
    ends: set[float] = set()

    async def handler(items: list[int]) -> list[int]:
        nonlocal running
        running += 1
        try:
            assert running <= concurrency
            assert 1 <= len(items) <= max_batch
            seen.extend(items)
            for item in items:
                caller = crowd[item]
                assert now() <= caller.arrives + caller.patience + 1e-6, "work started after its deadline"
                assert caller.leaves is None or now() <= caller.arrives + caller.leaves + 1e-6, "nobody waits for it"
                assert round(now(), 6) in {caller.arrives, *ends}, "it waited although a place was free"
            await asyncio.sleep(seconds)
            if any(crowd[item].fails for item in items):
                raise ValueError(set(items))
            return [2 * item for item in items]
        finally:
            running -= 1
            ends.add(round(now(), 6))

    server = Batcher(handler, max_batch=max_batch, max_waiting=max_waiting, concurrency=concurrency, clock=now)

    async def call(number: int, caller: Caller) -> None:
        await asyncio.sleep(caller.arrives)
        deadline = now() + caller.patience
        waiting = len(server._waiting)
        failed: set[int] = set()
        try:
            async with asyncio.timeout(caller.leaves):
                assert await server.submit(number, deadline) == 2 * number
        except Overloaded:
            assert waiting == max_waiting
        except DeadlineExceeded:
            assert now() == pytest.approx(deadline)
        except TimeoutError:
            assert caller.leaves is not None
        except ValueError as error:
            failed = error.args[0]
        assert not failed or (number in failed and any(crowd[item].fails for item in failed))
        assert now() <= deadline + 1e-6

    await asyncio.gather(*(call(number, caller) for number, caller in enumerate(crowd)))
    await asyncio.sleep(200)
    assert len(server._waiting) == running == 0
    assert not server._workers
    assert len(seen) == len(set(seen))
