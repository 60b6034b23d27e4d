"""The engine of an index root in this process: it searches the current version, and follows CURRENT."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from shoal.engine.description import IndexDescription
from shoal.engine.models import ModelSource, OwnModels
from shoal.engine.writing import IndexWriting
from shoal.errors import Conflict, DeadlineExceeded, EncoderMismatch, InvalidArgument, NotFound, ShoalError, Unavailable
from shoal.index_root import versions
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
from shoal.search.local import LocalVersion
from shoal.search.rerank_documents import rerank_documents
from shoal.search.services import SearchModels
from shoal.settings import ServeSettings
from shoal.writing.requests import Deleted, DeleteRequest, Updated, UpdateRequest, WriteRequest, Written
from shoal.writing.served import ServedDocuments

logger = logging.getLogger(__name__)

REFUSED_S = 60.0
"""Seconds before a version that was found broken is tried again: finding that out reads all of it."""


class LocalEngine:
    """Searches an index root in this process. All of its coroutines belong to one event loop.

    It searches and follows versions as a server does, with the same settings and the same errors. A version with
    another number of shards is served too; one of another encoder is not, until the engine is opened again.

    Args:
        settings: Of the search, and which index root.
        clock: Seconds from any start, for when a broken version is tried again.
        models: Where its models come from; None loads them for this engine alone.
    """

    def __init__(
        self,
        settings: ServeSettings,
        clock: Callable[[], float] = time.monotonic,
        models: ModelSource | None = None,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._model_source = models or OwnModels()
        self._storage = Storage(settings.index)
        self._cache = None if self._storage.is_local else ShardCache(settings.cache_dir, settings.cache_bytes)
        self._lock = asyncio.Lock()
        self._models: SearchModels | None = None
        self._embed_stage: EmbedStage | None = None
        self._version: LocalVersion | None = None
        self._written: tuple[LocalVersion, ServedDocuments] | None = None
        self._writing = IndexWriting(self._storage, settings, self._documents, lambda: self._loaded().encoder)
        self._previous: str | None = None
        self._problem: str | None = None
        self._refused: tuple[str | None, float] = (None, 0.0)
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Load the models and the current version or, if that is broken, the one before; then follow CURRENT.

        Raises NotFound if there is nothing to serve, CorruptIndex, EncoderMismatch, ModelUnavailable, InvalidArgument.
        """
        async with self._lock:
            current = await asyncio.to_thread(versions.read_current, self._storage)
            if current is None:
                raise versions.nothing_published(self._storage)
            try:
                await self._go_to(current.version, current.previous)
            except (Conflict, NotFound) as error:
                if current.previous is None:
                    raise
                await self._fall_back(current, error)
        self._watching = asyncio.create_task(self._watch())

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer several queries at once, in order; see `shoal.search.pipeline.SearchPipeline.search_all`."""
        return await self._opened().search(requests)

    async def embed(
        self, texts: Sequence[str], input_type: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        """Return the vectors that the index compares; see `shoal.search.embed_stage.EmbedStage.embed`."""
        models = self._loaded()
        if self._embed_stage is None:
            self._embed_stage = EmbedStage(models.encoder, self.settings)
        return await self._embed_stage.embed(texts, input_type, deadline, with_tokens)

    async def rerank(self, query: str, documents: Sequence[str], deadline: float) -> RerankedDocuments:
        """Return the scores of documents, in input order. Raises InvalidArgument without a reranker."""
        reranker = self._loaded().reranker
        if reranker is None:
            raise InvalidArgument("there is no reranker here; open the index, or start the server, with one (reranker)")
        return await rerank_documents(reranker, query, documents, deadline, self.settings)

    async def fetch(
        self,
        ids: Sequence[str],
        deadline: float,
        with_vectors: bool = False,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> FetchedPassages:
        """Return passages by their ids; see `shoal.search.lookup.fetch_passages`."""
        return await self._opened().fetch(ids, deadline, with_vectors, namespace, min_position)

    async def list_ids(
        self,
        prefix: str,
        limit: int,
        cursor: str | None,
        deadline: float,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> ListedIds:
        """Return a page of ids; see `shoal.search.lookup.list_ids`."""
        return await self._opened().list_ids(prefix, limit, cursor, deadline, namespace, min_position)

    async def list_namespaces(self, prefix: str, limit: int, cursor: str | None, deadline: float) -> ListedNamespaces:
        """Return a page of namespaces; see `shoal.search.namespaces.list_namespaces`."""
        return await self._opened().list_namespaces(prefix, limit, cursor, deadline)

    async def count_namespace(self, namespace: str, deadline: float) -> int:
        """Return how many passages a namespace has."""
        return await self._opened().count_namespace(namespace, deadline)

    async def write(self, request: WriteRequest) -> Written:
        """Write records; see `shoal.writing.writer.Writer.write`."""
        return await self._writing.write(request)

    async def delete(self, request: DeleteRequest) -> Deleted:
        """Delete records; see `shoal.writing.writer.Writer.delete`."""
        return await self._writing.delete(request)

    async def update(self, request: UpdateRequest) -> Updated:
        """Change the metadata of records; see `shoal.writing.writer.Writer.update`."""
        return await self._writing.update(request)

    async def see(self, position: int, deadline: float) -> None:
        """Wait until searches see what was written up to a position of the log, or until the deadline."""
        with suppress(DeadlineExceeded):
            await self._opened().live.tail.reach(position, deadline)

    def _documents(self) -> ServedDocuments:
        """The version that is served, for writes: the same object for the same version."""
        version = self._opened()
        if self._written is None or self._written[0] is not version:
            documents = ServedDocuments(self._storage, version.manifest, version.live, version.look_up, version.select)
            self._written = version, documents
        return self._written[1]

    @property
    def version(self) -> str:
        """The version that is served. Raises Unavailable before there is one."""
        return self._opened().manifest.version

    def memory_bytes(self) -> int:
        """Count about how much memory the version takes: its files, and what was written since."""
        version = self._opened()
        written = 0 if version.live.position is None else version.live.describe().bytes
        return written + sum(file.bytes for file in version.manifest.all_files())

    async def describe(self) -> IndexDescription:
        """Describe what is served; `problem` says why CURRENT is not, if it is not."""
        reranker = self.settings.reranker if self._loaded().reranker else None
        version = self._opened()
        return IndexDescription.of(version.manifest, self._previous, reranker, self._problem, version.live)

    def reranker_scale(self) -> ScoreScale | None:
        """Where the scores of the reranker lie; None if that is not known."""
        return self._loaded().reranker_scale

    async def text_field(self) -> str:
        """The field that holds the text of records, for those who keep it among their metadata."""
        return self._opened().manifest.text_field

    async def list_versions(self, limit: int) -> list[ListedVersion]:
        """List the newest published versions, and the current and the previous one with them."""
        return await asyncio.to_thread(newest_versions, self._storage, limit)

    async def activate(self, version: str) -> None:
        """Serve a published version and make it CURRENT. Raises NotFound, Conflict, EncoderMismatch, CorruptIndex."""
        async with self._lock:
            opened = await self._open_version(version)
            try:
                current = await asyncio.to_thread(versions.activate, self._storage, version)
            except BaseException:
                opened.close()
                raise
            self._serve(opened, current.previous)

    async def rollback(self) -> None:
        """Serve the previous version again and make it CURRENT. Raises Conflict when there is none."""
        current = await asyncio.to_thread(versions.read_current, self._storage)
        if current is None or current.previous is None:
            place = self._storage.place()
            raise Conflict(f"{place} has no previous version to roll back to; activate one by name")
        await self.activate(current.previous)

    async def ready(self) -> list[str]:
        """Name what is missing until the active version can be searched; empty means ready."""
        return [] if self._version is not None else [f"{self._storage.place()} is being opened"]

    async def refresh(self) -> None:
        """Look at CURRENT now, and serve what it names; `describe` says why if that cannot be served."""
        self._refused = (None, 0.0)
        await self._follow()

    def close(self) -> None:
        """End the threads, and let go of all files. No search may be under way. Waits for nothing; `join` does."""
        if self._watching is not None:
            self._watching.cancel()
        self._writing.close()
        if self._version is not None:
            self._version.close()
        if self._models is not None:
            self._model_source.give_back(self._models)
        self._watching = self._version = self._models = self._embed_stage = self._written = None

    def join(self) -> None:
        """Wait, in any thread, until nothing more is written to the index root; after `close`."""
        self._writing.join()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.settings.watch_s)
            await self._follow()

    async def _follow(self) -> None:
        """Look at CURRENT once. Never raises: what cannot be served is a problem that `describe` and the log tell."""
        async with self._lock:
            try:
                current = await asyncio.to_thread(versions.read_current, self._storage)
                if current is None:
                    raise NotFound(f"{self._storage.place()} has no current version; build or activate one")
                if current.version == self._opened().manifest.version:
                    self._previous, self._problem = current.previous, None
                elif not self._refuses(current.version):
                    await self._try(current)
            except Exception as error:
                self._set_problem(f"CURRENT cannot be served: {error}")

    async def _try(self, current: versions.Current) -> None:
        try:
            await self._go_to(current.version, current.previous)
        except Exception as error:
            if isinstance(error, Conflict | NotFound) and error.retry_after_s is None:
                self._refused = (current.version, self._clock() + REFUSED_S)
            self._set_problem(f"{current.version} cannot be served: {error}")

    def _refuses(self, version: str) -> bool:
        refused, until = self._refused
        return version == refused and self._clock() < until

    async def _fall_back(self, current: versions.Current, error: ShoalError) -> None:
        """Serve the version before one that is broken. Raises why that one is, if neither can be served."""
        assert current.previous is not None
        try:
            await self._go_to(current.previous, None)
        except Exception:
            raise error from None
        self._refused = (current.version, self._clock() + REFUSED_S)
        self._set_problem(f"{current.version} cannot be served: {error}")

    async def _go_to(self, version: str, previous: str | None) -> None:
        self._serve(await self._open_version(version), previous)

    async def _open_version(self, version: str) -> LocalVersion:
        """Open and verify a version, and load the models if none are loaded yet."""
        if self._models is None:
            self._models = await asyncio.to_thread(self._model_source.take, self.settings, version)
        manifest = await asyncio.to_thread(versions.read_manifest, self._storage, version)
        self._check_encoder(manifest, self._models)
        return await asyncio.to_thread(LocalVersion, self._storage, manifest, self._models, self.settings, self._cache)

    @staticmethod
    def _check_encoder(manifest: Manifest, models: SearchModels) -> None:
        if not models.fingerprint.matches(manifest.encoder):
            raise EncoderMismatch(
                f"version {manifest.version} was built with {manifest.encoder}, and queries are encoded here with "
                f"{models.fingerprint}; close the index and open it again, or start the server again"
            )

    def _serve(self, version: LocalVersion, previous: str | None) -> None:
        """Answer new searches from a version; those under way end with the one that they have begun with."""
        before, self._version = self._version, version
        version.follow()
        self._previous, self._problem = previous, None
        if before is not None:
            before.close()
        logger.info("serving index version %s", version.manifest.version)

    def _set_problem(self, problem: str) -> None:
        if problem != self._problem:
            logger.error("%s", problem)
        self._problem = problem

    def _opened(self) -> LocalVersion:
        if self._version is None:
            raise Unavailable("this index is not open; open it")
        return self._version

    @property
    def models(self) -> SearchModels:
        """The models that it computes with. Raises Unavailable before there are any."""
        return self._loaded()

    def _loaded(self) -> SearchModels:
        if self._models is None:
            raise Unavailable("this index is not open; open it")
        return self._models
