"""Tells a service that is too busy to answer from one that is gone."""

import math
from collections.abc import Callable, Hashable

from shoal.errors import DeadlineExceeded, Overloaded

BUSY_S = 60.0
"""Seconds for which a service that has answered may be too busy for a probe before it counts as gone."""


class LivenessTracker:
    """Remembers when each service answered last, so that one that is only busy does not count as gone.

    Load must not make a server unready, or a balancer would send what it has to do to the others, one after another.

    Args:
        clock: The time in seconds, from any start.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._answered_at: dict[Hashable, float] = {}

    def is_alive(self, service: Hashable, outcome: object, patience_s: float = BUSY_S) -> bool:
        """Whether a service is there, by what a probe of it returned or raised.

        Args:
            service: The name of the service.
            outcome: What the probe returned, or the exception that it raised.
            patience_s: Seconds since its last answer for which a service that does not answer in time, or refuses
                because it is full, is taken for a busy one.
        """
        if isinstance(outcome, DeadlineExceeded | Overloaded):
            return self._clock() - self._answered_at.get(service, -math.inf) < patience_s
        if isinstance(outcome, BaseException):
            return False
        self._answered_at[service] = self._clock()
        return True
