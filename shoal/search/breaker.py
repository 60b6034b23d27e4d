"""Tells when a shard is not worth waiting for. Knows times, and nothing of calls."""

from collections.abc import Callable
from math import inf

PROBE_S = 5.0
"""How long a shard that is left out is given to answer the call that tries it again, in seconds."""


class Breaker:
    """Opens when a shard has been silent for too long, and closes as soon as it answers.

    Args:
        patience_s: The least time that counts as too long.
        clock: Seconds.
    """

    def __init__(self, patience_s: float, clock: Callable[[], float]) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._answered_at = -inf
        self._tried_at = -inf
        self.open = False

    def patience(self, silence: float | None) -> float | None:
        """Seconds to wait for one call; None, which means its deadline, as long as little is known of such calls.

        Args:
            silence: Seconds after which a call will not return, by those before it; None if that is unknown.
        """
        return None if silence is None else max(self._patience_s, silence)

    def answered(self) -> bool:
        """Note that the shard lives. Returns whether it had been left out."""
        was_open, self.open = self.open, False
        self._answered_at = self._clock()
        return was_open

    def silent(self, since: float) -> bool:
        """Note that nobody waits any more for a call that began at `since`. Returns whether that opened the breaker.

        It does not when the call had less time than the patience, as the call of a hurried client has, or when another
        replica has answered meanwhile.
        """
        if self.open or self._answered_at > since or self._clock() - since < self._patience_s:
            return False
        self.open = True
        return True

    def is_due(self) -> bool:
        """Whether a shard that is left out should be tried again; if so, it counts as being tried."""
        if self._clock() - self._tried_at < PROBE_S:
            return False
        self._tried_at = self._clock()
        return True
