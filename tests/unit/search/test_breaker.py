import pytest

from shoal.search.breaker import PROBE_S, Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def breaker(clock: Clock) -> Breaker:
    return Breaker(1.0, clock)


def test_silence_opens_it_and_an_answer_closes_it() -> None:
    clock = Clock()
    guard = breaker(clock)
    clock.now = 1.0
    assert guard.silent(since=0)
    assert guard.open
    assert not guard.silent(since=0)  # told once
    assert guard.answered()
    assert not guard.open
    assert not guard.answered()


def test_a_hurried_client_says_nothing_about_the_shard() -> None:
    clock = Clock()
    guard = breaker(clock)
    clock.now = 0.9
    assert not guard.silent(since=0)
    assert not guard.open


def test_a_shard_that_answers_others_is_not_silent() -> None:
    clock = Clock()
    guard = breaker(clock)
    clock.now = 2
    guard.answered()
    clock.now = 5
    assert not guard.silent(since=1)
    assert guard.silent(since=3)


@pytest.mark.parametrize(("silence", "patience"), [(None, None), (0.1, 1.0), (5.0, 5.0)])
def test_patience_follows_what_is_usual(silence: float | None, patience: float | None) -> None:
    assert breaker(Clock()).patience(silence) == patience


def test_it_is_tried_now_and_then() -> None:
    clock = Clock()
    guard = breaker(clock)
    tries = 0
    for tick in range(100):
        clock.now = tick / 4
        tries += guard.is_due()
    assert tries == 25 / PROBE_S
