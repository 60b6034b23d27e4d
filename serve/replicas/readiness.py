"""Whether a server can answer: what is missing, found out by asking every service, at most once a second."""

import asyncio
import contextvars
import math
import time
from collections.abc import Awaitable, Callable, Mapping

from serve.versions.liveness import BUSY_S, LivenessTracker
from shoal.errors import ShoalError

PROBE_S = 2.0
"""How long a probe waits for each service, in seconds."""
FRESH_S = 1.0
"""Seconds for which an answer is given again without a new probe."""
PATIENCE_S = {"encoder": BUSY_S, "reranker": math.inf}
"""Seconds for which a service that has answered may be busy before it counts as gone. A reranker that does not answer
costs the second stage, which answers tell themselves."""


class Readiness:
    """Finds out what a server lacks. However many ask, they share one probe, and its answer for a second.

    Args:
        missing_shards: Names what keeps the version that is served from being searched completely, by a deadline of
            the clock.
        service_probes: Begins a request to each service beside the shards, by its name and the same deadline.
        clock: Seconds, what deadlines are compared with.
    """

    def __init__(
        self,
        missing_shards: Callable[[float], Awaitable[list[str]]],
        service_probes: Callable[[float], Mapping[str, Awaitable[object]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._missing_shards = missing_shards
        self._service_probes = service_probes
        self._clock = clock
        self._liveness = LivenessTracker(clock)
        self._missing: list[str] = []
        self._found_at = -math.inf
        self._probing: asyncio.Task[list[str]] | None = None

    async def missing(self) -> list[str]:
        """Name what is missing until every shard of the version that is served can be searched; empty means ready."""
        if self._clock() - self._found_at <= FRESH_S:
            return self._missing
        if self._probing is None:  # one for all who ask, and no business of the request of the first
            self._probing = asyncio.create_task(self._probe(), context=contextvars.Context())
        return await asyncio.shield(self._probing)

    async def _probe(self) -> list[str]:
        try:
            self._missing = await self._find_missing()
            self._found_at = self._clock()
            return self._missing
        finally:
            self._probing = None

    async def _find_missing(self) -> list[str]:
        deadline = self._clock() + PROBE_S
        probes = self._service_probes(deadline)
        missing, outcomes = await asyncio.gather(
            self._missing_shards(deadline), asyncio.gather(*probes.values(), return_exceptions=True)
        )
        return missing + [
            outcome.message if isinstance(outcome, ShoalError) else f"the {name} fails; its log has the details"
            for name, outcome in zip(probes, outcomes, strict=True)
            if not self._liveness.is_alive(name, outcome, PATIENCE_S[name])
        ]
