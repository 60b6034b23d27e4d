"""Where work is done: in another thread, or at once where it is known to be short."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from shoal.errors import DeadlineExceeded
from shoal.system import threads
from shoal.system.threads import BLOCKED_S, SEEN_SHORT, SHORT_S, Paces, Threads


@pytest.fixture
def pool() -> Iterator[Threads]:
    made = Threads(1, "workers")
    yield made
    made.close()
    made.join()


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What a core has computed, and what has passed, in seconds; work moves them on."""
    passed = {"thread_time": 0.0, "perf_counter": 0.0}

    def reads(name: str) -> Callable[[], float]:
        return lambda: passed[name]

    for name in passed:
        monkeypatch.setattr(threads.time, name, reads(name))
    return passed


async def where(pool: Threads, paces: Paces, work: Callable[[], None], kind: str = "kind", size: int = 1) -> str:
    """Do work, and tell in which thread it was done."""

    def named() -> str:
        work()
        return threading.current_thread().name

    name = await pool.run_briefly(paces, kind, size, time.monotonic() + 60, named)
    return "loop" if name == threading.current_thread().name else "other"


def computes(clocks: dict[str, float], seconds: float, waits: float = 0.0) -> Callable[[], None]:
    def work() -> None:
        clocks["thread_time"] += seconds
        clocks["perf_counter"] += seconds + waits

    return work


async def test_what_was_short_often_is_done_by_the_loop(pool: Threads, clocks: dict[str, float]) -> None:
    paces, short = Paces(), computes(clocks, SHORT_S / 2)
    assert [await where(pool, paces, short) for _ in range(SEEN_SHORT + 2)] == ["other"] * SEEN_SHORT + ["loop"] * 2
    assert await where(pool, paces, short, kind="another") == "other"


async def test_a_call_of_many_queries_is_done_by_the_loop_only_if_all_of_it_is_short(
    pool: Threads, clocks: dict[str, float]
) -> None:
    paces, short = Paces(), computes(clocks, SHORT_S / 4)
    for _ in range(SEEN_SHORT):
        await where(pool, paces, short)
    assert await where(pool, paces, computes(clocks, SHORT_S), size=4) == "loop"
    assert await where(pool, paces, computes(clocks, SHORT_S), size=5) == "other"


async def test_what_becomes_long_goes_to_other_threads_and_what_was_long_once_does_not(
    pool: Threads, clocks: dict[str, float]
) -> None:
    paces, short, long = Paces(), computes(clocks, SHORT_S / 2), computes(clocks, 2 * SHORT_S)
    for _ in range(SEEN_SHORT):
        await where(pool, paces, short)
    assert [await where(pool, paces, work) for work in (long, short)] == ["loop"] * 2
    places = [await where(pool, paces, long) for _ in range(2 * SEEN_SHORT)]
    assert (places[0], places[-1]) == ("loop", "other")
    assert places == sorted(places)
    for _ in range(SEEN_SHORT):
        await where(pool, paces, short)
    assert await where(pool, paces, short) == "loop"


@pytest.mark.parametrize(("reads", "then"), [(0, "loop"), (1, "other")])
async def test_what_kept_the_loop_waiting_for_a_disk_goes_to_other_threads(
    pool: Threads, clocks: dict[str, float], monkeypatch: pytest.MonkeyPatch, reads: int, then: str
) -> None:
    paces, short = Paces(), computes(clocks, SHORT_S / 2)
    for _ in range(SEEN_SHORT):
        await where(pool, paces, short)
    before = paces._disk_reads
    monkeypatch.setattr(threads, "_disk_reads", lambda: before + reads)
    assert await where(pool, paces, computes(clocks, SHORT_S / 2, waits=2 * BLOCKED_S)) == "loop"
    assert await where(pool, paces, short) == then


def test_as_much_is_short_as_takes_no_longer_than_that(clocks: dict[str, float]) -> None:
    paces = Paces()
    assert paces.short_size("kind") == 0
    for _ in range(SEEN_SHORT):
        paces.timed("kind", 2, computes(clocks, SHORT_S / 2))
        paces.timed("nothing", 1, lambda: None)
    assert paces.short_size("kind") == 4
    assert paces.short_size("nothing") > 10**6
    paces.timed("kind", 1, computes(clocks, 1000 * SHORT_S))
    assert paces.short_size("kind") == 0


async def test_a_call_that_waits_in_another_thread_is_short_all_the_same(
    pool: Threads, clocks: dict[str, float]
) -> None:
    paces, waiting = Paces(), computes(clocks, SHORT_S / 2, waits=2 * BLOCKED_S)
    for _ in range(SEEN_SHORT):
        await where(pool, paces, waiting)
    assert await where(pool, paces, computes(clocks, SHORT_S / 2)) == "loop"


async def test_nothing_is_done_after_its_deadline(pool: Threads, clocks: dict[str, float]) -> None:
    paces, done = Paces(), []
    for _ in range(SEEN_SHORT):
        await where(pool, paces, computes(clocks, SHORT_S / 2))
    with pytest.raises(DeadlineExceeded):
        await pool.run_briefly(paces, "kind", 1, time.monotonic() - 1, lambda: done.append(1))
    assert not done


async def test_what_work_raises_comes_out_of_the_loop_too(pool: Threads, clocks: dict[str, float]) -> None:
    paces = Paces()
    for _ in range(SEEN_SHORT):
        await where(pool, paces, computes(clocks, SHORT_S / 2))
    with pytest.raises(ZeroDivisionError):
        await pool.run_briefly(paces, "kind", 1, time.monotonic() + 60, lambda: 1 / 0)
