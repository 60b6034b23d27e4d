"""The tail follows the log: what is written becomes visible, whoever waits is told, and damage stops it loudly."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from shoal.errors import CorruptIndex, DeadlineExceeded, Unavailable
from shoal.index_root.log_entry import LogEntry
from shoal.search.tail import Tail

LONG_S = 3600.0
"""Seconds between two looks that no test waits for."""


def entry(position: int) -> LogEntry:
    return LogEntry(position, "", 0.0, "", None, None, (), ())


class Writes:
    """A log in memory, read two entries at a time."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []
        self.applied: list[int] = []
        self.error: Exception | None = None

    def write(self) -> int:
        self.entries.append(entry(len(self.entries) + 1))
        return len(self.entries)

    def read(self, position: int) -> list[LogEntry]:
        if self.error is not None:
            raise self.error
        return self.entries[position : position + 2]

    def apply(self, entries: Sequence[LogEntry]) -> None:
        self.applied += [one.position for one in entries]

    def tail(self, position: int = 0) -> Tail:
        return Tail(self.read, self.apply, position, poll_s=LONG_S, idle_s=LONG_S)


def soon() -> float:
    return time.monotonic() + 60


def test_whoever_waits_for_a_position_makes_the_tail_look_and_is_told() -> None:
    async def check() -> None:
        writes = Writes()
        tail = writes.tail()
        running = asyncio.create_task(tail.run())
        assert await tail.catch_up(soon()) == 0
        for _ in range(5):
            position = writes.write()
        await asyncio.gather(*(tail.reach(each, soon()) for each in range(position + 1)))
        assert (tail.position, writes.applied) == (5, [1, 2, 3, 4, 5])
        writes.write()
        tail.advance(5)  # known already
        tail.advance(6)
        await tail.reach(6, soon())
        writes.write()
        assert await tail.catch_up(soon()) == 7
        assert writes.applied == [1, 2, 3, 4, 5, 6, 7]
        running.cancel()

    asyncio.run(check())


def test_a_position_that_is_not_reached_is_waited_for_until_the_deadline() -> None:
    async def check() -> None:
        writes = Writes()
        tail = writes.tail(3)
        running = asyncio.create_task(tail.run())
        with pytest.raises(DeadlineExceeded, match="position 4 of the log is not reached yet, only 3"):
            await tail.reach(4, time.monotonic() + 0.01)
        await tail.reach(3, time.monotonic() - 1)  # nothing to wait for
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        with pytest.raises(DeadlineExceeded, match="the end of the log is not reached yet"):
            await tail.catch_up(time.monotonic() + 0.01)

    asyncio.run(check())


def test_a_tail_ends_although_it_is_told_to_look_at_the_same_moment() -> None:
    async def check() -> None:
        tail = Writes().tail(3)
        running = asyncio.create_task(tail.run())
        await tail.catch_up(time.monotonic() + 60)
        await asyncio.sleep(0)  # it pauses now
        tail.advance(9)
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=5)
        assert done == {running}

    asyncio.run(check())


def test_who_waits_for_a_position_does_not_make_the_tail_look_without_a_pause() -> None:
    async def check() -> None:
        looks = 0

        def read(position: int) -> list[LogEntry]:
            nonlocal looks
            looks += 1
            return []

        tail = Tail(read, lambda entries: None, 3, poll_s=60, idle_s=60)
        running = asyncio.create_task(tail.run())
        await tail.catch_up(time.monotonic() + 60)
        before = looks
        with pytest.raises(DeadlineExceeded):
            await tail.reach(9, time.monotonic() + 0.1)
        assert looks <= before + 1
        running.cancel()

    asyncio.run(check())


def test_damage_stops_the_tail_loudly_and_it_goes_on_once_that_is_repaired() -> None:
    async def check() -> None:
        writes = Writes()
        writes.write()
        tail = writes.tail()
        tail.replay()
        assert (tail.position, tail.problem) == (1, None)
        writes.error = CorruptIndex("entry 2 is torn; restore it")
        tail.replay()
        assert tail.problem == "the log cannot be followed beyond position 1: entry 2 is torn; restore it"
        running = asyncio.create_task(tail.run())
        with pytest.raises(Unavailable, match="entry 2 is torn"):
            await tail.catch_up(soon())
        with pytest.raises(
            DeadlineExceeded, match=r"only 1 \(the log cannot be followed beyond position 1: entry 2 is torn"
        ):
            await tail.reach(2, time.monotonic() + 0.01)
        writes.error = None
        writes.write()
        assert await tail.catch_up(soon()) == 2
        assert tail.problem is None
        running.cancel()

    asyncio.run(check())
