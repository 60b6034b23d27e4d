"""What answers for one index in an ingress replica: the search pipeline, and the version that it serves."""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from serve.replicas.readiness import Readiness
from serve.telemetry import Telemetry
from serve.versions.activation import Activation
from serve.versions.discovery import Clock, EncoderServer, FindServices, ServiceSet
from serve.web.access import Admission, charge
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

NOTED_S = 30.0
"""Seconds for which a problem is told that the server has noted; it repeats what lasts every five seconds."""


class IndexIngress:
    """What answers for one index, `serve.dialects.base.Engine`: a search pipeline over the version that is served.

    Args:
        settings: Of the server, with the root of the index.
        services: Those that belong to this replica's application; None if it has none of its own.
        find_services: Gives services of others for versions of another shape (`ServiceDiscovery.find_services`).
        telemetry: Hears of its queries.
        admission: Lets requests in; all indexes of a replica share it.
    """

    def __init__(
        self,
        settings: ServeSettings,
        services: ServiceSet | None,
        find_services: FindServices,
        telemetry: Telemetry,
        admission: Admission,
    ) -> None:
        self._settings = self._described = settings
        self._limits = RequestLimits(settings)
        self._services = services
        self._pipeline: SearchPipeline | None = None
        self._embed_stage: EmbedStage | None = None
        self._telemetry = telemetry
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
        self._admission = admission
        self._noted: str | None = None
        self._noted_until = 0.0
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
        return replace(description, problem=description.problem or self.noted_problem())

    def noted_problem(self) -> str | None:
        """A problem of the server that was noted in the last NOTED_S; None if there is none."""
        return self._noted if time.monotonic() < self._noted_until else None

    def note_problem(self, problem: str) -> None:
        """Tell a problem of the server that runs this replica, until that has not repeated it for NOTED_S."""
        self._noted, self._noted_until = problem, time.monotonic() + NOTED_S

    def queues(self) -> Mapping[str, int]:
        """How many queries wait, by the stage that they wait for; empty before a version is served."""
        return self._pipeline.queues() if self._pipeline is not None else {}

    def clocks(self) -> dict[str, Clock]:
        """The services in use, each by a name for people; empty before there are any."""
        return self._services.clocks() if self._services is not None else {}

    def reranker_scale(self) -> ScoreScale | None:
        """Where the scores of the reranker lie; None if that is not known."""
        return self._services.reranker_scale if self._services is not None else None

    def text_field(self) -> str:
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
