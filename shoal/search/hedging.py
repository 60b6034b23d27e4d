"""Second attempts: a call that its replica did not survive, and one that takes longer than nearly all before it.

After J. Dean and L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013: the second attempt starts after a high
percentile of recent latencies, the first answer counts. Here a budget bounds what that adds, because a service that is
slow altogether would otherwise be asked twice as much.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from shoal.errors import Unavailable

T = TypeVar("T")
WINDOW = 128
"""Latest latencies that are remembered of one service, in calls."""
MIN_LATENCIES = 20
"""Latencies, in calls, that must be known before anything is concluded from them."""
MAX_SAVED_ATTEMPTS = 10.0
"""Second attempts that a budget may always save up: a replica that hangs needs a few at once."""
RESERVED_ATTEMPTS = 2.0
"""Second attempts that a budget starts with, and keeps for calls that do not return at all."""
HANG_FACTOR = 10.0
"""A call is taken for one that does not return after so many times the usual wait, and is made again each time as long
has passed. A factor, without a unit."""
USUAL_PERCENTILE = 75.0
"""Percentile, of 100, of the latencies of a single replica that counts as its usual one. A high one would be what
waiting for the replica took when it last failed: a few such among the first latencies that an ingress knows make the
95th a second or more."""
MIN_PATIENCE_S = 0.001
"""Seconds that a second attempt waits at least, whatever the latencies are."""
GIVE_UP_FACTOR = 3.0
"""A service of several replicas is given up after so many times the time after which one call is taken for hung: the
call has been made a third time by then. A factor, without a unit."""


async def retried(call: Callable[[], Awaitable[T]]) -> T:
    """Await a call that changes nothing, once more if the connection was lost."""
    try:
        return await call()
    except Unavailable:
        return await call()


class Latencies:
    """The latest latencies of a service, in seconds."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self._sorted: list[float] = []
        self._added = 0

    def add(self, seconds: float) -> None:
        """Remember one, and forget the oldest of more than WINDOW."""
        self._seconds.append(seconds)
        self._added += 1
        if self._added % MIN_LATENCIES == 0:  # sorted now and then: percentiles move slowly
            self._sorted = sorted(self._seconds)

    def percentile(self, percent: float) -> float | None:
        """The percentile of a recent moment; None as long as fewer than MIN_LATENCIES are known."""
        if not self._sorted:
            return None
        # numpy.percentile takes 40 microseconds of a core, and this is asked twice for every call.
        position = percent / 100 * (len(self._sorted) - 1)
        low = int(position)
        high = min(low + 1, len(self._sorted) - 1)
        return self._sorted[low] + (position - low) * (self._sorted[high] - self._sorted[low])


class Budget:
    """Bounds second attempts, beside RESERVED_ATTEMPTS to start with, to a share of the first ones at any moment.

    Args:
        together: First attempts that start at once, as those of a fan-out. What they have earned may be saved, because
            they are late at once too.
    """

    def __init__(self, share: float, together: int = 1) -> None:
        self._share = share
        self._most = max(MAX_SAVED_ATTEMPTS, RESERVED_ATTEMPTS + share * together)
        self._saved = RESERVED_ATTEMPTS if share else 0.0

    def earn(self) -> None:
        """Count a first attempt."""
        self._saved = min(self._most, self._saved + self._share)

    def spend(self, keep: float = 0.0) -> bool:
        """Whether a second attempt may be made that leaves so many; if so, it is counted."""
        if self._saved < 1 + keep:
            return False
        self._saved -= 1
        return True


class Attempts:
    """Calls one service of several replicas, a second time where that helps.

    The attempts that lose are not cancelled. What computes in a thread would not notice, and as long as it counts
    as running, a router that prefers the less busy of two replicas keeps further calls away from one that hangs.

    Args:
        replicas: With one, a second attempt would only wait behind the first, and none is made.
        percentile: Of the latest latencies, after which the second attempt starts; further ones are for calls that do
            not return.
        budget: May be shared by several services.
        clock: What deadlines are compared with, in seconds.
    """

    def __init__(self, replicas: int, percentile: float, budget: Budget, clock: Callable[[], float]) -> None:
        self.latencies = Latencies()
        self._hedges = replicas > 1
        self._percentile = percentile
        self._budget = budget
        self._clock = clock
        self._losers: set[asyncio.Task[Any]] = set()

    async def run(self, call: Callable[[], Awaitable[T]], deadline: float) -> T:
        """Await `call`, which changes nothing, and return the first result; `deadline` ends what is left of it.

        Raises what the first attempt raises, unless a later one has a result.
        """
        self._budget.earn()
        patience = self.latencies.percentile(self._percentile) if self._hedges else None
        if patience is None:
            return await self._timed(call)
        patience = max(patience, MIN_PATIENCE_S)
        attempts = [asyncio.ensure_future(self._timed(call))]
        pending = set(attempts)
        seconds, keep = patience, RESERVED_ATTEMPTS
        try:
            while pending:
                done, pending = await asyncio.wait(pending, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                for attempt in done:
                    if not attempt.cancelled() and attempt.exception() is None:
                        return attempt.result()
                if done:
                    continue
                if self._budget.spend(keep):
                    attempts.append(asyncio.ensure_future(self._timed(call)))
                    pending.add(attempts[-1])
                # From now on this is a call that does not return at all, and the replica that hangs may have got the
                # second attempt as well: the router counts what each has not answered, and the other is busy too.
                seconds, keep = (HANG_FACTOR - 1 if keep else HANG_FACTOR) * patience, 0.0
            return attempts[0].result()
        except asyncio.CancelledError:
            for attempt in attempts:
                attempt.cancel()
            raise
        finally:
            for attempt in attempts:
                self._leave(attempt, deadline)

    def silence(self) -> float | None:
        """Seconds after which a call will not return; None as long as too little is known.

        That is HANG_FACTOR times what is usual, and with several replicas GIVE_UP_FACTOR times as long.
        """
        if not self._hedges:
            usual = self.latencies.percentile(USUAL_PERCENTILE)
            return None if usual is None else HANG_FACTOR * usual
        usual = self.latencies.percentile(self._percentile)
        return None if usual is None else GIVE_UP_FACTOR * HANG_FACTOR * usual

    async def _timed(self, call: Callable[[], Awaitable[T]]) -> T:
        started = self._clock()
        result = await retried(call)
        self.latencies.add(self._clock() - started)
        return result

    def _leave(self, attempt: asyncio.Task[Any], deadline: float) -> None:
        if attempt.done():
            if not attempt.cancelled():
                attempt.exception()  # noticed, so that asyncio does not complain that nobody looked
            return
        timer = asyncio.get_running_loop().call_later(deadline - self._clock(), attempt.cancel)
        self._losers.add(attempt)
        attempt.add_done_callback(partial(self._ended, timer))

    def _ended(self, timer: asyncio.TimerHandle, attempt: asyncio.Task[Any]) -> None:
        timer.cancel()
        self._losers.discard(attempt)
        if not attempt.cancelled():
            attempt.exception()
