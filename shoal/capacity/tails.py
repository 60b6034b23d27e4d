"""How long the slowest of many calls takes, out of the measured distribution of one; and how long calls wait.

A distribution is its quantiles: pairs of a probability and the value that so large a share does not exceed, both
ascending.
"""

from collections.abc import Sequence
from math import exp, log

Quantiles = Sequence[tuple[float, float]]


def waiting_ms(service_ms: float, utilisation: float, probability: float) -> float:
    """A quantile of the wait for searches of earlier queries, each of the same length (M/D/1).

    A share of queries as large as the utilisation waits at all; how long, is taken as exponential with the exact mean
    (Pollaczek & Khinchine). All shards are asked at the same moments and are busy for as long, so that they wait alike:
    the slowest wait is that of each.
    """
    return max(0.0, log(utilisation / (1 - probability))) * service_ms / (2 * (1 - utilisation))


def quantile(tail: Quantiles, probability: float) -> float:
    """A quantile out of measured ones: straight lines between them, an exponential tail beyond the last two."""
    (before, low), (last, high) = tail[-2:]
    if probability > last:
        return high + (high - low) * log((1 - last) / (1 - probability)) / log((1 - before) / (1 - last))
    left, value = tail[0]
    for right, following in tail:
        if probability <= right:
            share = (probability - left) / (right - left) if right > left else 0.0
            return value + share * (following - value)
        left, value = right, following
    return value


def quantile_of_slowest(tail: Quantiles, probability: float, calls: int, hedged_after: float | None = None) -> float:
    """A quantile of the slowest of so many independent calls, as a multiple of the median of one.

    Args:
        hedged_after: The share of calls after which a second attempt is made, whose answer counts if it comes first
            (Dean & Barroso 2013).
    """
    one = probability ** (1 / calls)
    alone = quantile(tail, one)
    if hedged_after is None:
        return alone
    started = quantile(tail, hedged_after)
    low, high = started, alone
    # A call is later than t if its first attempt is, and the second, begun at `started`, as well.
    for _ in range(60):
        middle = (low + high) / 2
        late = (1 - cumulative(tail, middle)) * (1 - cumulative(tail, middle - started))
        low, high = (middle, high) if late > 1 - one else (low, middle)
    return min(high, alone)


def cumulative(tail: Quantiles, value: float) -> float:
    """The probability of a call that takes no longer, the inverse of `quantile`."""
    (before, low), (last, high) = tail[-2:]
    if value >= high:
        if high == low:
            return 1.0
        return 1 - (1 - last) * exp(log((1 - last) / (1 - before)) * (value - high) / (high - low))
    left, start = tail[0]
    if value < start:
        return 0.0
    for right, end in tail:
        if value < end:
            return left + (right - left) * (value - start) / (end - start)
        left, start = right, end
    return last
