"""How far the clocks of a server are apart."""

import logging

import pytest

from serve.replicas.clocks import ClockComparison
from shoal.errors import Unavailable


class Machine:
    """A machine whose clock is so many seconds ahead, and which takes as many to answer."""

    def __init__(self, now: list[float], ahead_s: float, takes_s: float = 0.0) -> None:
        self.now, self.ahead_s, self.takes_s = now, ahead_s, takes_s

    async def clock(self, deadline: float) -> float:
        self.now[0] += self.takes_s / 2
        theirs = self.now[0] + self.ahead_s
        self.now[0] += self.takes_s / 2
        return theirs


class Gone:
    async def clock(self, deadline: float) -> float:
        raise Unavailable("gone")


async def test_a_difference_is_measured_and_a_large_one_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    now, measured = [1000.0], dict[str, float]()
    comparison = ClockComparison(measured.__setitem__, lambda: now[0])
    late = Machine(now, -40.0)
    services = {"encoder": Machine(now, 0.25), "shard 0": Machine(now, 8.0), "shard 1": late, "reranker": Gone()}
    with caplog.at_level(logging.WARNING, "ray.serve"):
        await comparison.compare(services)
        await comparison.compare(services)
    assert measured == {"encoder": 0.25, "shard 0": 8.0, "shard 1": -40.0}
    assert caplog.messages == [
        "the clock of a machine of shard 0 is 8.0 s ahead of that of the endpoint; set both by NTP",
        "the clock of a machine of shard 1 is 40.0 s behind that of the endpoint; set both by NTP",
    ]
    late.ahead_s = 0.0
    await comparison.compare({"shard 1": late})
    late.ahead_s = 2.0
    await comparison.compare({"shard 1": late})
    assert caplog.messages[-1].startswith("the clock of a machine of shard 1 is 2.0 s ahead")


async def test_what_a_slow_answer_leaves_open_is_no_difference(caplog: pytest.LogCaptureFixture) -> None:
    now, measured = [1000.0], dict[str, float]()
    comparison = ClockComparison(measured.__setitem__, lambda: now[0])
    await comparison.compare({"encoder": Machine(now, 1.5, takes_s=4.0)})
    assert measured == {"encoder": 1.5}
    assert caplog.messages == []
