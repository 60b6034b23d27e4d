"""Quantiles of slowest calls and of waits, against closed forms and simulations."""

from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.capacity.tails import cumulative, quantile, quantile_of_slowest, waiting_ms

TAIL = [(0, 0.7), (0.5, 1), (0.9, 1.4), (0.98, 2.0), (0.99, 2.3), (0.997, 3)]


def exponential(calls: int = 10_000) -> list[tuple[float, float]]:
    """An exponential distribution whose median is 1, as finely as it is asked for."""
    return [(p, -log(1 - p) / log(2)) for p in np.linspace(0, 1, calls, endpoint=False).tolist()]


@pytest.mark.parametrize("calls", [1, 2, 10, 100])
def test_the_slowest_of_many_calls_has_the_quantile_of_the_closed_form(calls: int) -> None:
    wanted = -log(1 - 0.99 ** (1 / calls)) / log(2)
    assert quantile_of_slowest(exponential(), 0.99, calls) == pytest.approx(wanted, rel=1e-3)


def test_a_tail_goes_on_as_an_exponential_does() -> None:
    tail = exponential(100)
    assert quantile(tail, 0.99999) == pytest.approx(-log(1e-5) / log(2), rel=0.01)


@pytest.mark.parametrize("calls", [1, 10, 100])
def test_second_attempts_help_as_in_a_simulation(calls: int) -> None:
    chance = np.random.default_rng(1)
    grid = np.array([quantile(TAIL, p) for p in np.linspace(0, 0.999999, 20_001)])
    first, second = (grid[chance.integers(len(grid), size=(20_000, calls))] for _ in range(2))
    started = quantile(TAIL, 0.98)
    slowest = np.where(first > started, np.minimum(first, started + second), first).max(axis=1)
    assert quantile_of_slowest(TAIL, 0.99, calls, 0.98) == pytest.approx(np.percentile(slowest, 99), rel=0.05)


@given(st.floats(0, 0.9999))
def test_cumulative_is_the_inverse_of_quantile(probability: float) -> None:
    assert cumulative(TAIL, quantile(TAIL, probability)) == pytest.approx(probability, abs=1e-6)


def slowest_waits(shards: int, replicas: int, utilisation: float, queries: int = 10_000) -> Any:
    """Simulate it: of each query, the longest wait of its searches, which take 1 each in every shard.

    Of two replicas chosen by chance the less busy one is asked, as Ray Serve does.
    """
    chance = np.random.default_rng(1)
    free, every = np.zeros((shards, replicas)), np.arange(shards)
    waits = np.empty(queries)
    for number, now in enumerate(np.cumsum(chance.exponential(1 / (replicas * utilisation), queries))):
        one, other = chance.integers(replicas, size=(2, shards))
        taken = np.where(np.maximum(free[every, one], now) <= np.maximum(free[every, other], now), one, other)
        begun = np.maximum(free[every, taken], now)
        waits[number] = begun.max() - now
        free[every, taken] = begun + 1
    return waits


@pytest.mark.parametrize("utilisation", [0.3, 0.6])
def test_the_slowest_wait_of_many_shards_is_that_of_a_simulation(utilisation: float) -> None:
    waits = slowest_waits(16, 1, utilisation)
    assert waiting_ms(2.0, utilisation, 0.99) == pytest.approx(2 * np.percentile(waits, 99), rel=0.25)
    assert waiting_ms(2.0, 0.009, 0.99) == 0


@pytest.mark.parametrize("shards", [1, 16])
def test_more_replicas_wait_no_longer_than_planned(shards: int) -> None:
    assert np.percentile(slowest_waits(shards, 2, 0.6), 99) < waiting_ms(1.0, 0.6, 0.99)
