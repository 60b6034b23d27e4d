"""The engine behind the HTTP dialects: the search pipeline, and the version that it serves."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from serve.replicas.readiness import Readiness
from serve.telemetry import SAMPLE_S, Meter, NullMeter, Telemetry
from serve.versions.activation import Activation
from serve.versions.discovery import FindServices, ServiceSet, find_no_services
from serve.web.access import charge, overloaded_error
from shoal.errors import Unavailable
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.records import SearchAnswer, SearchRequest
from shoal.search.pipeline import SearchPipeline
from shoal.settings import ServeSettings

logger = logging.getLogger("ray.serve")


class Ingress:
    """The engine behind the HTTP dialects (`serve.dialects.Engine`): the search pipeline, and the version it serves.

    Args:
        settings: of the server.
        connect_services: makes the services that belong to this ingress; None if it has none of its own.
        find_services: gives services of others for versions of another shape (`ServiceDiscovery.find_services`).
        make_meter: makes what measures.
    """

    def __init__(
        self,
        settings: ServeSettings,
        connect_services: Callable[[Meter], ServiceSet] | None,
        find_services: FindServices = find_no_services,
        make_meter: Callable[[], Meter] = NullMeter,
    ) -> None:
        meter = make_meter()
        services = connect_services(meter) if connect_services is not None else None
        self._settings = self._described = settings
        self._services = services
        self._pipeline: SearchPipeline | None = None
        self._telemetry = Telemetry(meter, settings.slow_query_ms, settings.log_queries)
        self._activation = Activation(Storage(settings.index), services, self._switch, find_services)
        self._readiness = Readiness(self._activation.missing, self._service_probes)
        self._answering = 0
        self._watch = asyncio.create_task(self._activation.watch(settings.watch_s))
        self._sampling = asyncio.create_task(self._sample())

    def _switch(self, services: ServiceSet, manifest: Manifest, absent: Sequence[int]) -> None:
        """Answer new searches from a version; those under way end with the replicas that they have begun with."""
        pipeline = self._pipeline
        if pipeline is None or services is not self._services:
            self._described = self._settings.model_copy(update=services.service_settings)
            pipeline = SearchPipeline(
                services.encoder,
                services.shards,
                services.reranker,
                self._described,
                observer=self._telemetry,
                kind=services.reranker_kind,
            )
        pipeline.switch_to(manifest, absent)
        self._services, self._pipeline = services, pipeline

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer the queries of one HTTP request, in order. Raises Overloaded at once beyond `max_requests`."""
        charge(len(requests))
        started = time.monotonic()
        try:
            if self._answering >= self._settings.max_requests:
                raise overloaded_error(self._settings)
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
        return await self._readiness.missing()

    def _service_probes(self, deadline: float) -> dict[str, Awaitable[object]]:
        services, probes = self._services, dict[str, Awaitable[object]]()
        if services is not None:
            probes["encoder"] = services.encoder.encode(["ready"], deadline)
            if services.reranker is not None and self._described.reranker_min_replicas:
                probes["reranker"] = services.reranker.score("ready", ["ready"], deadline)
        return probes
