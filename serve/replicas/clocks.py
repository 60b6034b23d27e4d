"""How far the clocks of the machines of a server are apart. No deadline depends on it; log lines and storage do."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from serve.replicas.traced import Traced, traced
from serve.versions.discovery import Clock

logger = logging.getLogger("ray.serve")

COMPARE_S = 60.0
"""Seconds between two comparisons."""
PATIENCE_S = 5.0
"""How long a comparison waits for a service, in seconds."""
MAX_SKEW_S = 1.0
"""A difference in seconds that is worth a warning."""


class SystemClock(Traced):
    """The base of the replicas that tell the time on their machine: the `Clock` of `serve.versions.discovery`."""

    @traced
    async def clock(self, deadline: float) -> float:
        """Return the time, in seconds since the epoch."""
        return time.time()


class ClockComparison:
    """Compares the clock of this machine with those of services, measures the difference, and warns of a large one.

    A service answers at some moment between the question and the answer, which bounds how wrong the difference is.

    Args:
        measure: Hears the name of a service and by how many seconds its clock is ahead of this one.
        wall: Seconds since the epoch on this machine.
    """

    def __init__(self, measure: Callable[[str, float], None], wall: Callable[[], float] = time.time) -> None:
        self._measure = measure
        self._wall = wall
        self._warned: set[str] = set()

    async def compare(self, clocks: Mapping[str, Clock]) -> None:
        """Ask every service once. One that does not answer is left out."""
        await asyncio.gather(*(self._ask(name, clock) for name, clock in clocks.items()), return_exceptions=True)

    async def _ask(self, name: str, clock: Clock) -> None:
        asked = self._wall()
        theirs = await clock.clock(time.monotonic() + PATIENCE_S)
        answered = self._wall()
        skew, uncertainty = theirs - (asked + answered) / 2, (answered - asked) / 2
        self._measure(name, skew)
        if abs(skew) - uncertainty <= MAX_SKEW_S:
            self._warned.discard(name)
        elif name not in self._warned:
            self._warned.add(name)
            direction = "ahead of" if skew > 0 else "behind"
            message = "the clock of a machine of %s is %.1f s %s that of the endpoint; set both by NTP"
            logger.warning(message, name, abs(skew), direction)
