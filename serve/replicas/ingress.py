"""The engine behind the HTTP dialects: the search pipeline, and the version that it serves."""

import asyncio
import contextvars
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from serve.telemetry import (
    SAMPLE_S,
    Meter,
    NoMeter,
    Telemetry,
)
from serve.versions.activation import BUSY_S, Activation, Pulse, ShardControl
from serve.web.access import charge, too_many
from shoal.errors import ShoalError, Unavailable
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.records import SearchAnswer, SearchRequest
from shoal.search.pipeline import SearchPipeline
from shoal.search.services import EncodeService, RerankService, ShardService
from shoal.serving.plan import Shape
from shoal.settings import ServeSettings

logger = logging.getLogger("ray.serve")


THEIRS = ("reranker", "encoder_replicas", "retriever_replicas", "reranker_min_replicas")
"""Settings that describe services: an ingress answers by those that they were started with, not by its own."""
PROBE_S = 2.0
"""How long a readiness probe waits for each service, in seconds."""


class ShardServer(ShardService, ShardControl, Protocol):
    """What the ingress asks of a shard: searches, and which versions it holds."""


@dataclass(frozen=True, slots=True)
class Services:
    """The replicas behind an ingress, which serve versions of one shape.

    kind: of the reranker, if its name does not tell. theirs: those settings of THEIRS in which they may differ from the
    ingress.
    """

    shape: Shape
    encoder: EncodeService
    shards: Sequence[ShardServer]
    reranker: RerankService | None
    kind: str | None = None
    theirs: Mapping[str, Any] = field(default_factory=dict)


async def nowhere(shape: Shape) -> Services | None:
    """Where an ingress looks for services beside its own if there is no such place."""
    return None


class Ingress:
    """The engine behind the HTTP dialects (`serve.dialects.Engine`): the search pipeline, and the version it serves.

    services: what serves the versions, if there is anything yet. find: gives what serves versions of another shape.
    """

    def __init__(
        self,
        settings: ServeSettings,
        services: Services | None,
        find: Callable[[Shape], Awaitable[Services | None]] = nowhere,
        meter: Callable[[], Meter] = NoMeter,
    ) -> None:
        self._settings = self._described = settings
        self._services = services
        self._pipeline: SearchPipeline | None = None
        self._telemetry = Telemetry(meter(), settings.slow_query_ms, settings.log_queries)
        self._activation = Activation(Storage(settings.index), services, self._switch, find)
        self._pulse = Pulse(time.time)
        self._answering = 0
        self._probed: tuple[float, list[str]] = (0.0, [])
        self._probing: asyncio.Task[list[str]] | None = None
        self._watch = asyncio.create_task(self._activation.watch(settings.watch_s))
        self._sampling = asyncio.create_task(self._sample())

    def _switch(self, services: Services, manifest: Manifest, absent: Sequence[int]) -> None:
        """Answer new searches from a version; those under way end with the replicas that they have begun with."""
        pipeline = self._pipeline
        if pipeline is None or services is not self._services:
            self._described = self._settings.model_copy(update=services.theirs)
            pipeline = SearchPipeline(
                services.encoder,
                services.shards,
                services.reranker,
                self._described,
                observer=self._telemetry,
                kind=services.kind,
            )
        pipeline.switch_to(manifest, absent)
        self._services, self._pipeline = services, pipeline

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer the queries of one HTTP request, in order. Raises Overloaded at once beyond `max_requests`."""
        charge(len(requests))
        started = time.monotonic()
        try:
            if self._answering >= self._settings.max_requests:
                raise too_many(self._settings)
            self._answering += 1
            try:
                pipeline = self._pipeline or await self._first(min(request.deadline for request in requests))
                answers = await pipeline.search_all(requests)
            finally:
                self._answering -= 1
        except BaseException as error:
            self._telemetry.ended(requests, error, 1000 * (time.monotonic() - started))
            raise
        self._telemetry.answered(requests, answers)
        return answers

    async def _first(self, deadline: float) -> SearchPipeline:
        """Wait until this ingress serves a version: one that replaces another is asked before it does."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._activation.settled.wait(), max(0.0, deadline - time.time()))
        if self._pipeline is None:
            raise Unavailable("no index version is served yet; try again", retry_after_s=1)
        return self._pipeline

    async def _sample(self) -> None:
        while True:
            if self._pipeline is not None:
                for stage, length in self._pipeline.queues().items():
                    self._telemetry.queue(stage, length)
            await asyncio.sleep(SAMPLE_S)

    async def index_info(self) -> dict[str, Any]:
        """Describe what is served; `problem` says why CURRENT is not, if it is not."""
        services = self._services
        return self._activation.describe(self._described.reranker if services and services.reranker else None)

    async def activate(self, version: str) -> None:
        """Load a published version in every retriever, then serve it and make it CURRENT."""
        await self._activation.activate(version)

    async def rollback(self) -> None:
        """Serve the previous version again and make it CURRENT."""
        await self._activation.rollback()

    async def ready(self) -> list[str]:
        """Name what is missing until every shard of the active version can be searched; empty means ready."""
        at, missing = self._probed
        if time.monotonic() - at <= 1.0:
            return missing
        if self._probing is None:  # one for all who ask, and no business of the request of the first
            self._probing = asyncio.create_task(self._probe(), context=contextvars.Context())
        return await asyncio.shield(self._probing)

    async def _probe(self) -> list[str]:
        try:
            missing = await self._lacking()
            self._probed = (time.monotonic(), missing)
            return missing
        finally:
            self._probing = None

    async def _lacking(self) -> list[str]:
        deadline = time.time() + PROBE_S
        services, probes = self._services, dict[str, Awaitable[Any]]()
        # Once it has been there, a reranker that does not answer costs the second stage, which answers tell themselves.
        patience_s = {"encoder": BUSY_S, "reranker": math.inf}
        if services is not None:
            probes["encoder"] = services.encoder.encode(["ready"], deadline)
            if services.reranker is not None and self._described.reranker_min_replicas:
                probes["reranker"] = services.reranker.score("ready", ["ready"], deadline)
        missing, outcomes = await asyncio.gather(
            self._activation.missing(deadline), asyncio.gather(*probes.values(), return_exceptions=True)
        )
        lacking: list[str] = missing + [
            outcome.message if isinstance(outcome, ShoalError) else f"the {name} fails; its log has the details"
            for name, outcome in zip(probes, outcomes, strict=True)
            if not self._pulse.beats(name, outcome, patience_s[name])
        ]
        return lacking
