"""The engine behind the HTTP dialects: the search pipeline, and the version that it serves."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from serve.replicas.clocks import COMPARE_S, ClockComparison
from serve.replicas.readiness import Readiness
from serve.telemetry import SAMPLE_S, Meter, NullMeter, Telemetry
from serve.versions.activation import Activation
from serve.versions.discovery import EncoderServer, FindServices, ServiceSet, find_no_services
from serve.web.access import Admission, charge, shared_keys
from serve.web.exchanges import Exchanges
from shoal.engine.description import IndexDescription
from shoal.engine.limits import RequestLimits
from shoal.engine.writing import IndexWriting
from shoal.errors import InvalidArgument, Unavailable
from shoal.index_root.cache import ShardCache
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.index_root.version_list import ListedVersion, newest_versions
from shoal.namespaces import DEFAULT
from shoal.records import (
    EmbeddedTexts,
    FetchedPassages,
    InputType,
    ListedIds,
    ListedNamespaces,
    RerankedDocuments,
    ScoreScale,
    SearchAnswer,
    SearchRequest,
)
from shoal.search.embed_stage import EmbedStage
from shoal.search.live_index import LiveIndex
from shoal.search.pipeline import SearchPipeline
from shoal.search.rerank_documents import rerank_documents
from shoal.settings import ServeSettings
from shoal.writing.requests import Deleted, DeleteRequest, Updated, UpdateRequest, WriteRequest, Written
from shoal.writing.served import ServedDocuments

logger = logging.getLogger("ray.serve")

REPLY_S = 0.1
"""Seconds for the way back of what a call returns that waits until its deadline."""
NOTED_S = 30.0
"""Seconds for which a problem is told that the server has noted; it repeats what lasts every five seconds."""


class PortServer(Protocol):
    """What answers on a port of its own beside HTTP."""

    listening: bool
    """Whether clients can connect."""

    async def start_after(self, event: asyncio.Event) -> None:
        """Listen once something has happened."""
        ...

    async def stop(self, within_s: float) -> None:
        """Take nothing more, and end what is not answered within so many seconds."""
        ...


class Ingress:
    """The engine behind the HTTP dialects, `serve.dialects.base.Engine`: a search pipeline over the version it serves.

    Args:
        settings: Of the server.
        connect_services: Makes the services that belong to this ingress; None if it has none of its own.
        find_services: Gives services of others for versions of another shape (`ServiceDiscovery.find_services`).
        make_meter: Makes what measures.
        make_grpc_server: Makes what answers over gRPC too, from the ingress; None where nothing does.
    """

    def __init__(
        self,
        settings: ServeSettings,
        connect_services: Callable[[Meter], ServiceSet] | None,
        find_services: FindServices = find_no_services,
        make_meter: Callable[[], Meter] = NullMeter,
        make_grpc_server: Callable[["Ingress"], PortServer] | None = None,
    ) -> None:
        meter = make_meter()
        services = connect_services(meter) if connect_services is not None else None
        self._settings = self._described = settings
        self._limits = RequestLimits(settings)
        self._services = services
        self._pipeline: SearchPipeline | None = None
        self._embed_stage: EmbedStage | None = None
        self._telemetry = Telemetry(meter, settings.slow_query_ms, settings.log_queries)
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
        self._admission = Admission(settings)
        self._noted: str | None = None
        self._noted_until = 0.0
        self.exchanges = Exchanges()
        self._watch = asyncio.create_task(self._activation.watch(settings.watch_s))
        self._sampling = asyncio.create_task(self._sample())
        self._comparing = asyncio.create_task(self._compare_clocks())
        self._grpc_server = make_grpc_server(self) if make_grpc_server is not None else None
        if self._grpc_server is not None:  # a replica that cannot answer yet takes no connections from one that can
            self._opening_grpc = asyncio.create_task(self._grpc_server.start_after(self._activation.settled))

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
            self._embed_stage = EmbedStage(services.encoder, self._described, observer=self._telemetry)
        self._follow_log(manifest.version)
        pipeline.switch_to(manifest, absent, self._live)
        if self._live is not None:
            self._written = ServedDocuments(self._storage, manifest, self._live, pipeline.look_up, pipeline.select_ids)
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

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer the queries of one HTTP request, in order.

        Raises InvalidArgument for what is beyond the limits of the settings, and Overloaded beyond `max_requests`.
        """
        started = time.monotonic()
        try:
            self._limits.check_search(requests)
            charge(len(requests))
            with self._admission.one_more():
                pipeline = self._pipeline or await self._first(min(request.deadline for request in requests))
                answers = await pipeline.search_all(requests)
        except BaseException as error:
            self._telemetry.ended(requests, error, 1000 * (time.monotonic() - started))
            raise
        self._telemetry.answered(requests, answers)
        return answers

    async def embed(
        self, texts: Sequence[str], input_type: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        """Return the vectors that the index compares, in input order. Raises as `search`."""
        with self._telemetry.embedding(len(texts)):
            self._limits.check_embed(texts, deadline, are_queries=input_type == "query")
            charge(len(texts))
            with self._admission.one_more():
                await self._services_in_use(deadline)
                assert self._embed_stage is not None
                return await self._embed_stage.embed(texts, input_type, deadline, with_tokens)

    async def rerank(self, query: str, documents: Sequence[str], deadline: float) -> RerankedDocuments:
        """Return the scores of documents, in input order. Raises as `search`."""
        with self._telemetry.reranking(len(documents)):
            self._limits.check_rerank(query, documents, deadline)
            charge(1)
            with self._admission.one_more():
                services = await self._services_in_use(deadline)
                if services.reranker is None:
                    raise InvalidArgument("this server has no reranker; start it with one (--reranker)")
                return await rerank_documents(services.reranker, query, documents, deadline, self._described)

    async def _services_in_use(self, deadline: float) -> ServiceSet:
        if self._pipeline is None:
            await self._first(deadline)
        assert self._services is not None
        return self._services

    async def _first(self, deadline: float) -> SearchPipeline:
        """Wait until this ingress serves a version: one that replaces another is asked before it does."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._activation.settled.wait(), max(0.0, deadline - time.monotonic()))
        if self._pipeline is None:
            raise Unavailable("no index version is served yet; try again", retry_after_s=1)
        return self._pipeline

    async def _sample(self) -> None:
        keys = shared_keys(self._settings.api_keys_file, 1 / self._settings.ingress_replicas)
        while True:
            if keys is not None:
                keys.look()  # nobody may ask for a while, and the operator wants to know all the same
            self._telemetry.key_file(keys is not None and keys.problem is not None)
            self._telemetry.compaction(self._noted_problem() is not None)
            if self._pipeline is not None:
                for stage, length in self._pipeline.queues().items():
                    self._telemetry.queue(stage, length)
            await asyncio.sleep(SAMPLE_S)

    async def _compare_clocks(self) -> None:
        comparison = ClockComparison(self._telemetry.clock)
        while True:
            if (services := self._services) is not None:
                await comparison.compare(services.clocks())
            await asyncio.sleep(COMPARE_S if services is not None else SAMPLE_S)

    async def fetch(
        self,
        ids: Sequence[str],
        deadline: float,
        with_vectors: bool = False,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> FetchedPassages:
        """Return passages by their ids, in the order asked, and the ids that there are none of. Raises as `search`."""
        self._limits.check_fetch(ids, deadline, with_vectors=with_vectors)
        charge(1)
        with self._admission.one_more():
            pipeline = self._pipeline or await self._first(deadline)
            return await pipeline.fetch(ids, deadline, with_vectors, namespace, min_position)

    async def list_ids(
        self,
        prefix: str,
        limit: int,
        cursor: str | None,
        deadline: float,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> ListedIds:
        """Return a page of the ids that begin with a prefix, in order. Raises as `search`."""
        self._limits.check_list(prefix, limit, deadline)
        charge(1)
        with self._admission.one_more():
            pipeline = self._pipeline or await self._first(deadline)
            return await pipeline.list_ids(prefix, limit, cursor, deadline, namespace, min_position)

    async def list_namespaces(self, prefix: str, limit: int, cursor: str | None, deadline: float) -> ListedNamespaces:
        """Return a page of namespaces and how many passages each has. Raises as `search`."""
        self._limits.check_list(prefix, limit, deadline)
        charge(1)
        with self._admission.one_more():
            pipeline = self._pipeline or await self._first(deadline)
            return await pipeline.list_namespaces(prefix, limit, cursor, deadline)

    async def count_namespace(self, namespace: str, deadline: float) -> int:
        """Return how many passages a namespace has. Raises as `search`."""
        charge(1)
        with self._admission.one_more():
            pipeline = self._pipeline or await self._first(deadline)
            return await pipeline.count_namespace(namespace, deadline)

    async def write(self, request: WriteRequest) -> Written:
        """Write records; all of them durably, or none. See `serve.dialects.base.Engine.write`."""
        await self._admit_write(request)
        return await self._writing.write(request)

    async def delete(self, request: DeleteRequest) -> Deleted:
        """Delete records. Raises as `write`."""
        await self._admit_write(request)
        return await self._writing.delete(request)

    async def update(self, request: UpdateRequest) -> Updated:
        """Change the metadata of records. Raises as `write`."""
        await self._admit_write(request)
        return await self._writing.update(request)

    async def _admit_write(self, request: WriteRequest | DeleteRequest | UpdateRequest) -> None:
        self._limits.check_write(request)
        charge(1)
        await self._services_in_use(request.deadline)

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
        return replace(description, problem=description.problem or self._noted_problem())

    def _noted_problem(self) -> str | None:
        return self._noted if time.monotonic() < self._noted_until else None

    async def note(self, problem: str, deadline: float) -> None:
        """Tell a problem of the server that runs this ingress, until that has not repeated it for NOTED_S."""
        self._noted, self._noted_until = problem, time.monotonic() + NOTED_S

    def reranker_scale(self) -> ScoreScale | None:
        """Where the scores of the reranker lie; None if that is not known."""
        return self._services.reranker_scale if self._services is not None else None

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
        missing = await self._readiness.missing()
        if self._grpc_server is not None and not self._grpc_server.listening:
            missing = [*missing, "the port of gRPC"]
        return missing

    async def finish(self, deadline: float) -> int:
        """Refuse HTTP exchanges from now on, and wait until none is under way, or until shortly before the deadline.

        Returns how many still are.
        """
        self.exchanges.closed = True
        return await self.exchanges.finish(deadline - REPLY_S)

    async def stop_grpc(self) -> None:
        """Answer the calls over gRPC that are under way, and take no more; for a replica that is stopped."""
        if self._grpc_server is not None:
            self._opening_grpc.cancel()
            await self._grpc_server.stop(self._settings.drain_s)

    def _service_probes(self, deadline: float) -> dict[str, Awaitable[object]]:
        services, probes = self._services, dict[str, Awaitable[object]]()
        if services is not None:
            probes["encoder"] = services.encoder.encode(["ready"], deadline)
            if services.reranker is not None and self._described.reranker_min_replicas:
                probes["reranker"] = services.reranker.score("ready", ["ready"], deadline)
        return probes
