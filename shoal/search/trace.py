"""What happened on the way to one answer: how long each stage took, which shards are missing, what it lacks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from shoal.records import Timings
from shoal.system import spans

Stage = Literal["queue", "encode", "retrieve", "merge", "fetch", "rerank"]


def describe(missing: Mapping[int, str]) -> str:
    """Say in words which shards are missing and why."""
    return ", ".join(f"shard {shard}: {reason}" for shard, reason in sorted(missing.items()))


class SearchTrace:
    """The trace of one search.

    Attributes:
        missing: Why shards do not take part, by their numbers.
        warnings: What of the request was cut or corrected, and why nothing was found, in sentences.

    Args:
        clock: Seconds; not the event loop's, which uvloop rounds to milliseconds.
        arrived: When the request came.
    """

    def __init__(self, clock: Callable[[], float], arrived: float) -> None:
        self.missing: dict[int, str] = {}
        self._clock = clock
        self.arrived = arrived
        self._seconds: dict[Stage, float] = {}
        self._degradations: dict[str, str] = {}
        self.warnings: list[str] = []

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Count the time of a block for a stage, which may have several blocks and has a span for each."""
        started = self._clock()
        try:
            with spans.work(name):
                yield
        finally:
            self.add(name, self._clock() - started)

    def add(self, name: Stage, seconds: float) -> None:
        """Count time for a stage that was measured elsewhere."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def degrade(self, reason: str, text: str) -> None:
        """Note why the answer is less than what was asked for, in one word and in a sentence."""
        self._degradations[reason] = text

    def degradations(self, shards: int) -> dict[str, str]:
        """Sentences by reason, missing ones of so many shards first."""
        if not self.missing:
            return self._degradations
        verb = "is" if len(self.missing) == 1 else "are"
        text = f"{len(self.missing)} of {shards} shards {verb} missing ({describe(self.missing)})"
        return {"shards": text, **self._degradations}

    def timings(self) -> Timings:
        """Return milliseconds by stage, and in all until now."""
        total = 1000 * (self._clock() - self.arrived)
        return Timings(**{name: 1000 * self._seconds.get(name, 0.0) for name in _STAGES}, total=total)


_STAGES: tuple[Stage, ...] = ("queue", "encode", "retrieve", "merge", "fetch", "rerank")
"""The stages whose time is taken, in their order."""
