"""What answers for one index in an ingress replica: the search pipeline, and the version that it serves."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from serve.admitted_engine import AdmittedEngine, IngressLimits
from serve.replicas.noted import NotedProblem
from serve.replicas.readiness import Readiness
from serve.replicas.served_engine import ServedEngine
from serve.versions.activation import Activation
from serve.versions.discovery import Clock, EncoderServer, FindServices, ServiceSet
from shoal.engine.description import IndexDescription
from shoal.engine.writing import IndexWriting
from shoal.errors import Unavailable
from shoal.index_root.cache import ShardCache
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.index_root.version_list import ListedVersion, newest_versions
from shoal.records import ScoreScale
from shoal.search.live_index import LiveIndex
from shoal.search.pipeline import SearchPipeline
from shoal.settings import ServeSettings
from shoal.writing.served import ServedDocuments


class IndexIngress(AdmittedEngine):
    """What answers for one index, `serve.dialects.base.Engine`: a search pipeline over the version that is served.

    Args:
        settings: Of the server, with the root of the index.
        services: Those that belong to this replica's application; None if it has none of its own.
        find_services: Gives services of others for versions of another shape (`ServiceDiscovery.find_services`).
        shared: What all indexes of a replica have in common.
    """

    def __init__(
        self,
        settings: ServeSettings,
        services: ServiceSet | None,
        find_services: FindServices,
        shared: IngressLimits,
    ) -> None:
        super().__init__(shared)
        self._settings = self._described = settings
        self._services = services
        self._pipeline: SearchPipeline | None = None
        self._served: ServedEngine | None = None
        self._storage = Storage(settings.index)
        self._cache = None if self._storage.is_local else ShardCache(settings.cache_dir, settings.cache_bytes)
        self._prepared: dict[str, LiveIndex] = {}
        self._live: LiveIndex | None = None
        self._tailing: asyncio.Task[None] | None = None
        self._written: ServedDocuments | None = None
        self._writing = IndexWriting(self._storage, settings, self._documents, self._encoder)
        self._activation = Activation(
            self._storage, services, self._switch, find_services, prepare_more=self._prepare_live
        )
        self._readiness = Readiness(self._activation.missing, self._service_probes)
        self._noted = NotedProblem()
        self._watch = asyncio.create_task(self._activation.watch(settings.watch_s))

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
                reranker_kind=services.reranker_kind,
            )
        self._follow_log(manifest.version)
        pipeline.switch_to(manifest, absent, self._live)
        if self._live is not None:
            self._written = ServedDocuments(self._storage, manifest, self._live, pipeline.look_up, pipeline.select_ids)
        if pipeline is not self._pipeline:
            self._served = ServedEngine(pipeline, services, self._described, self._telemetry, self._writing)
        self._services, self._pipeline = services, pipeline

    async def _prepare_live(self, manifest: Manifest) -> None:
        """Read what was written since a version was built, before it is served."""
        self._prepared[manifest.version] = await asyncio.to_thread(self._replayed, manifest)

    def _replayed(self, manifest: Manifest) -> LiveIndex:
        live = LiveIndex(self._storage, manifest, self._cache)
        live.replay()
        return live

    def _follow_log(self, version: str) -> None:
        """Follow the log for the version that is served from now on, unless that is done already."""
        prepared = self._prepared.pop(version, None)
        self._prepared.clear()
        if prepared is None:
            return  # the same version by other services
        if self._tailing is not None:
            self._tailing.cancel()
        if self._live is not None:
            self._live.close()
        self._live, self._tailing = prepared, prepared.follow()

    def _answers_at_once(self) -> bool:
        return self._served is not None

    @asynccontextmanager
    async def _answering(self, deadline: float) -> AsyncIterator[ServedEngine]:
        """Offer what answers from the version that is served: one that replaces another is asked before it is there."""
        if self._served is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._activation.settled.wait(), max(0.0, deadline - time.monotonic()))
        if self._served is None:
            raise Unavailable("no index version is served yet; try again", retry_after_s=1)
        yield self._served

    def _documents(self) -> ServedDocuments:
        """The version that is served, for writes. Raises Unavailable before one is."""
        if self._written is None:
            raise Unavailable("no index version is served yet; try again", retry_after_s=1)
        return self._written

    def _encoder(self) -> EncoderServer:
        if self._services is None:
            raise Unavailable("no index version is served yet; try again", retry_after_s=1)
        return self._services.encoder

    async def describe(self) -> IndexDescription:
        """Describe what is served; `problem` says why CURRENT is not, if it is not."""
        services = self._services
        reranker = self._described.reranker if services and services.reranker else None
        description = self._activation.describe(reranker, self._live)
        return replace(description, problem=description.problem or self.noted_problem())

    def noted_problem(self) -> str | None:
        """A problem of the server that was noted a moment ago; None if there is none."""
        return self._noted.text

    def note_problem(self, problem: str) -> None:
        """Tell a problem of the server that runs this replica, until that has not repeated it for a while."""
        self._noted.note(problem)

    @property
    def services(self) -> ServiceSet | None:
        """Those that searches are answered from; None before there are any."""
        return self._services if self._pipeline is not None else None

    def queues(self) -> Mapping[str, int]:
        """How many queries wait, by the stage that they wait for; empty before a version is served."""
        return self._pipeline.queues() if self._pipeline is not None else {}

    def clocks(self) -> dict[str, Clock]:
        """The services in use, each by a name for people; empty before there are any."""
        return self._services.clocks() if self._services is not None else {}

    def reranker_scale(self) -> ScoreScale | None:
        """Where the scores of the reranker lie; None if that is not known."""
        return self._services.reranker_scale if self._services is not None else None

    async def text_field(self) -> str:
        """The field that holds the text of records."""
        return self._activation.text_field

    async def list_versions(self, limit: int) -> list[ListedVersion]:
        """List the newest published versions, and the current and the previous one with them."""
        return await asyncio.to_thread(newest_versions, self._storage, limit)

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
