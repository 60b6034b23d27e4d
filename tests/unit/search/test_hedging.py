import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import Unavailable
from shoal.search.hedging import (
    GIVE_UP_FACTOR,
    HANG_FACTOR,
    MAX_SAVED_ATTEMPTS,
    MIN_LATENCIES,
    RESERVED_ATTEMPTS,
    WINDOW,
    Attempts,
    Budget,
    Latencies,
    retried,
)
from shoal.testing.fakes import now, virtual_time


class Replicas:
    """A service whose calls take, in order, so many seconds; a negative number raises Unavailable after as many."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = list(seconds)
        self.calls = 0
        self.cancelled = 0

    async def __call__(self) -> int:
        number = self.calls
        self.calls += 1
        seconds = self.seconds[number] if number < len(self.seconds) else 0.1
        try:
            await asyncio.sleep(abs(seconds))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if seconds < 0:
            raise Unavailable(f"replica of call {number} died")
        return number


async def attempts(replicas: int = 2, budget: Budget | None = None, known: float = 0.1) -> Attempts:
    """Attempts that know that calls take 0.1 s, with a second attempt saved up."""
    budget = budget or Budget(1)
    for _ in range(20):
        budget.earn()
    made = Attempts(replicas, 95, budget, now)
    for _ in range(MIN_LATENCIES):
        made.latencies.add(known)
    return made


@virtual_time
async def test_a_slow_call_is_made_again_and_the_first_answer_counts() -> None:
    service = Replicas(100, 0.1)
    assert await (await attempts()).run(service, deadline=1000) == 1
    assert now() == pytest.approx(0.2)
    await asyncio.sleep(99)
    assert service.cancelled == 0


@virtual_time
async def test_the_first_attempt_may_still_be_the_first_to_answer() -> None:
    service = Replicas(0.15, 100)
    assert await (await attempts()).run(service, deadline=1000) == 0
    assert (now(), service.calls) == (pytest.approx(0.15), 2)


@virtual_time
async def test_the_loser_runs_until_the_deadline_and_no_longer() -> None:
    service = Replicas(100, 0.1)
    await (await attempts()).run(service, deadline=7)
    await asyncio.sleep(6.7)
    assert service.cancelled == 0
    await asyncio.sleep(0.2)
    assert service.cancelled == 1
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize(
    ("replicas", "share", "known"),
    [(1, 1.0, MIN_LATENCIES), (2, 0.0, MIN_LATENCIES), (2, 1.0, MIN_LATENCIES - 1)],
    ids=["one replica", "no budget", "too little known"],
)
@virtual_time
async def test_no_second_attempt_where_it_cannot_help_or_must_not_be(replicas: int, share: float, known: int) -> None:
    made = Attempts(replicas, 95, Budget(share), now)
    for _ in range(known):
        made.latencies.add(0.1)
    service = Replicas(5, 0.1)
    assert await made.run(service, deadline=1000) == 0
    assert (now(), service.calls) == (5, 1)


@virtual_time
async def test_a_lost_connection_is_tried_again_at_once_and_once() -> None:
    service = Replicas(-0.01, 0.05)
    assert await (await attempts(replicas=1)).run(service, deadline=10) == 1
    assert service.calls == 2
    with pytest.raises(Unavailable, match="call 1 died"):
        await retried(Replicas(-0.01, -0.01))


@virtual_time
async def test_an_attempt_that_fails_leaves_the_answer_to_the_other() -> None:
    class Fails(Replicas):
        async def __call__(self) -> int:
            if (number := await super().__call__()) == self.failing:
                raise ValueError(number)
            return number

        failing = 0

    service = Fails(0.3, 0.5)
    assert await (await attempts()).run(service, deadline=10) == 1
    service = Fails(0.5, 0.1)
    service.failing = 1
    assert await (await attempts()).run(service, deadline=10) == 0

    async def both() -> None:
        await asyncio.sleep(0.3)
        raise ValueError("both")

    with pytest.raises(ValueError, match="both"):
        await (await attempts()).run(both, deadline=10)


@virtual_time
async def test_whoever_stops_waiting_stops_both() -> None:
    service = Replicas(100, 100)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await (await attempts()).run(service, deadline=1000)
    await asyncio.sleep(0)
    assert (service.calls, service.cancelled) == (2, 2)


@virtual_time
async def test_only_what_answered_is_remembered_as_a_latency() -> None:
    made = await attempts(known=1)
    added: list[float] = []
    made.latencies.add = added.append  # type: ignore[method-assign]
    await made.run(Replicas(3, 1), deadline=10)
    await asyncio.sleep(5)
    assert added == [pytest.approx(1), pytest.approx(3)]
    with pytest.raises(Unavailable):
        await made.run(Replicas(-0.2, -0.2), deadline=10)
    assert len(added) == 2


@given(st.lists(st.floats(0, 100), min_size=0, max_size=3 * WINDOW), st.floats(0, 100))
def test_percentiles_are_those_of_the_latest_latencies(seconds: list[float], percent: float) -> None:
    latencies = Latencies()
    for one in seconds:
        latencies.add(one)
    seen = seconds[: len(seconds) // MIN_LATENCIES * MIN_LATENCIES][-WINDOW:]
    if not seen:
        assert latencies.percentile(percent) is None
    else:
        assert latencies.percentile(percent) == pytest.approx(np.percentile(seen, percent))


@virtual_time
async def test_what_a_budget_keeps_is_for_calls_that_do_not_return() -> None:
    made = Attempts(2, 95, Budget(0.001), now)
    for _ in range(MIN_LATENCIES):
        made.latencies.add(0.1)
    slow, hangs = Replicas(0.5), Replicas(100, 0.1)
    assert await made.run(slow, deadline=1000) == 0
    assert slow.calls == 1
    started = now()
    assert await made.run(hangs, deadline=1000) == 1
    assert now() - started == pytest.approx(HANG_FACTOR * 0.1 + 0.1)


@virtual_time
async def test_a_second_attempt_may_meet_the_replica_that_hangs_as_well() -> None:
    made = await attempts()
    service = Replicas(100, 100, 0.1)
    assert await made.run(service, deadline=1000) == 2
    assert now() == pytest.approx(HANG_FACTOR * 0.1 + 0.1)
    assert service.calls == 3
    silence = made.silence()
    assert silence is not None
    assert now() < silence == pytest.approx(GIVE_UP_FACTOR * HANG_FACTOR * 0.1)


@virtual_time
async def test_a_call_that_does_not_return_is_made_no_oftener_than_the_budget_allows() -> None:
    service = Replicas(*[100.0] * 50)
    made = Attempts(2, 95, Budget(0.001), now)
    for _ in range(MIN_LATENCIES):
        made.latencies.add(0.1)
    assert await made.run(service, deadline=1000) == 0
    assert service.calls == 1 + RESERVED_ATTEMPTS


@virtual_time
async def test_an_attempt_that_fails_while_the_other_hangs_is_followed_by_a_third() -> None:
    service = Replicas(100, -0.01, -0.01, 0.1)  # the second attempt has lost its connection twice
    assert await (await attempts()).run(service, deadline=1000) == 3


@virtual_time
async def test_how_long_a_service_may_be_silent_depends_on_who_is_left_to_ask() -> None:
    assert (await attempts(replicas=1)).silence() == pytest.approx(HANG_FACTOR * 0.1)
    assert (await attempts(replicas=2)).silence() == pytest.approx(GIVE_UP_FACTOR * HANG_FACTOR * 0.1)
    assert Attempts(2, 95, Budget(1), now).silence() is None


def test_what_a_fault_took_is_not_the_usual_latency_of_a_shard() -> None:
    made = Attempts(1, 95, Budget(1), now)
    for seconds in [1.4, 1.2, 1.1, *[0.05] * 37]:
        made.latencies.add(seconds)
    assert made.silence() == pytest.approx(HANG_FACTOR * 0.05)


@given(st.floats(0, 1), st.lists(st.booleans(), max_size=300))
def test_a_budget_is_never_exceeded(share: float, moves: list[bool]) -> None:
    budget, first, second = Budget(share), 0, 0
    for earns in moves:
        if earns:
            budget.earn()
            first += 1
        elif budget.spend():
            second += 1
        assert second <= RESERVED_ATTEMPTS + share * first + 1e-9
    for _ in range(1000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) <= MAX_SAVED_ATTEMPTS


def test_what_a_wide_fan_out_has_earned_is_there_for_all_that_are_late_at_once() -> None:
    budget = Budget(0.05, together=1000)
    for _ in range(10_000):
        budget.earn()
    assert sum(budget.spend(RESERVED_ATTEMPTS) for _ in range(1000)) == 50


@virtual_time
async def test_of_two_replicas_the_one_that_hangs_is_hardly_asked() -> None:
    """A router that prefers the less busy replica sees what a hanging one has not answered."""
    running: dict[str, int] = {"hangs": 0, "works": 0}
    asked: list[str] = []

    async def call() -> None:
        name = min(running, key=lambda name: (running[name], name))  # a tie goes to the one that hangs
        running[name] += 1
        asked.append(name)
        try:
            await asyncio.sleep(1e6 if name == "hangs" else 0.01)
        finally:
            running[name] -= 1

    budget = Budget(0.05)
    for _ in range(200):
        budget.earn()
    made = await attempts(budget=budget, known=0.01)
    for _ in range(300):
        await made.run(call, deadline=now() + 7)
    assert asked.count("hangs") <= 2
    assert now() < 4
