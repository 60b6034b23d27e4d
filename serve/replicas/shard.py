"""One shard in a replica, in several index versions."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeVar

from serve.replicas.clocks import SystemClock
from serve.replicas.traced import traced
from serve.telemetry import (
    SELECTED,
    SELECTIONS_REMEMBERED,
    Calls,
    Meter,
    NullMeter,
)
from shoal.encoders import TextVectors
from shoal.errors import DeadlineExceeded, ShoalError
from shoal.index_root.cache import ShardCache
from shoal.index_root.storage import Storage
from shoal.index_root.versions import nothing_published, read_current, read_manifest
from shoal.records import FloatArray
from shoal.search.live_index import LiveIndex
from shoal.search.shard_client import Behind
from shoal.serving.plan import ServingShape
from shoal.settings import ServeSettings
from shoal.shard.live import LiveShard
from shoal.shard.messages import Fetched, ShardHits, ShardSearch
from shoal.shard.questions import ShardQuestion
from shoal.shard.reader import Shard
from shoal.system import spans
from shoal.system.threads import Paces, Threads

logger = logging.getLogger("ray.serve")
T = TypeVar("T")
SEEN_SHARE = 0.8
"""Part of the time of a call that a replica waits for what was written; the rest is for saying that it did not come."""
MOST_REPLICAS = 2**20
"""Numbers of which a replica of a shard takes one by chance."""


class Retriever(SystemClock):
    """Holds one shard of several index versions and searches the one that each call names: a `ShardServer`.

    Args:
        shape: What these versions have in common; None leaves that to those who call.
    """

    service = "retriever"

    def __init__(
        self,
        settings: ServeSettings,
        shard: int,
        meter: Callable[[], Meter] = NullMeter,
        shape: ServingShape | None = None,
    ) -> None:
        spans.start()
        self._calls = Calls(meter())
        self._number = shard
        self._shape = shape
        self._storage = Storage(settings.index)
        self._cache = None if self._storage.is_local else ShardCache(settings.cache_dir, settings.cache_bytes)
        self._faiss_threads = settings.retriever_threads
        self._filter_cache_bytes = settings.filter_cache_bytes
        self._device = settings.retriever_device
        self._threads = Threads(2, f"shard {shard}")  # a fetch of texts need not wait for another batch's search
        self._open: dict[str, LiveShard] = {}
        self._paces: dict[str, Paces] = {}
        self._live: dict[str, LiveIndex] = {}
        self._tails: dict[str, asyncio.Task[None]] = {}
        self._loading: dict[str, asyncio.Task[LiveShard]] = {}
        self._ordering: dict[str, asyncio.Task[None]] = {}
        self._load_first()

    def span_attributes(self) -> spans.Attributes:
        """Return the number of the shard."""
        return {"shoal.shard": self._number}

    def _load_first(self) -> None:
        """Load the current version or, if it is broken, the one before it, which is what is still being served then.

        Neither is loaded if it has another shape: then other replicas serve it, or these are there to wait for theirs.
        """
        current = read_current(self._storage)
        if current is None:
            raise nothing_published(self._storage)
        try:
            if self._is_ours(current.version):
                self._open[current.version] = self._load(current.version)
                return
        except ShoalError as error:
            if current.previous is None:
                raise
            logger.error("shard %d of version %s cannot be loaded: %s", self._number, current.version, error)
        if current.previous is not None and self._is_ours(current.previous):
            self._open[current.previous] = self._load(current.previous)

    def _is_ours(self, version: str) -> bool:
        return self._shape is None or self._shape.fits(ServingShape.of(read_manifest(self._storage, version)))

    def _load(self, version: str) -> LiveShard:
        """Open and warm a version, and lay over it what has been written since."""
        manifest = read_manifest(self._storage, version)
        shard = Shard.open(
            self._storage,
            manifest,
            self._number,
            cache=self._cache,
            threads=self._faiss_threads,
            filter_cache_bytes=self._filter_cache_bytes,
        ).on(self._device)
        shard.warm()
        live = LiveIndex(self._storage, manifest, self._cache)
        replica = 1 + secrets.randbelow(MOST_REPLICAS)
        opened = live.add_shard(shard, self._number, self._faiss_threads, replica)
        live.replay()
        self._live[version] = live
        return opened

    @traced
    async def search(self, batch: ShardSearch, deadline: float) -> ShardHits:
        """Search the version that a batch of queries names. Raises NotFound if there is no such version."""
        queries = batch.queries
        with self._calls.call("search", len(queries)):
            if batch.position and batch.version in self._live:
                self._live[batch.version].tail.advance(batch.position)
            hits = await self._search(batch, deadline)
        if any(query.filter for query in queries):
            lookups = [shard.filter_lookups for shard in self._open.values()]
            self._calls.total(SELECTED, sum(asked for asked, _ in lookups))
            self._calls.total(SELECTIONS_REMEMBERED, sum(hits for _, hits in lookups))
        return hits

    @traced
    async def fetch(self, version: str, rows: Sequence[int], deadline: float, with_vectors: bool = False) -> Fetched:
        """Return the passages (and, if asked for, the vectors) of rows of the named version, in the order asked."""
        with self._calls.call("fetch", 1):
            return await self._use(version, deadline, lambda shard: shard.fetch(rows, with_vectors))

    @traced
    async def score(self, version: str, query: TextVectors, rows: Sequence[int], deadline: float) -> FloatArray:
        """Return, float32 (n,), what late interaction gives rows of the named version by their stored tokens."""
        with self._calls.call("score", 1):
            return await self._use(version, deadline, lambda shard: shard.score(query, rows))

    @traced
    async def locate(self, version: str, ids: Sequence[str], deadline: float, min_position: int = 0) -> list[int]:
        """Return the row of each id in the named version, -1 for one that is not in this shard."""
        with self._calls.call("locate", 1):
            await self._order_ids(version, deadline)
            await self._see(version, min_position, deadline)
            return await self._use(version, deadline, lambda shard: shard.ids.find(ids))

    @traced
    async def list_ids(
        self, version: str, prefix: str, after: str | None, limit: int, deadline: float, min_position: int = 0
    ) -> list[str]:
        """Return the first ids of the named version that begin with a prefix and come after an id, in order."""
        with self._calls.call("list", 1):
            await self._order_ids(version, deadline)
            await self._see(version, min_position, deadline)
            return await self._use(version, deadline, lambda shard: shard.ids.list(prefix, after, limit))

    @traced
    async def ask(self, version: str, question: ShardQuestion[T], deadline: float) -> T:
        """Return what this shard answers to a question about the rows of the named version."""
        with self._calls.call("ask", 1):
            return await self._use(version, deadline, lambda shard: question.answer(shard))

    async def _see(self, version: str, position: int, deadline: float) -> None:
        """Wait until a version has seen a position of the log. Raises Behind, in time for whoever called."""
        if not position:
            return
        await self._get(version)
        patience = SEEN_SHARE * (deadline - time.monotonic())
        try:
            await self._live[version].tail.reach(position, time.monotonic() + patience)
        except DeadlineExceeded as error:
            raise Behind(f"shard {self._number}: {error}") from None

    async def _order_ids(self, version: str, deadline: float) -> None:
        """Let a version know the order of its ids, which takes seconds the first time, beside the threads of searches.

        It goes on beyond the deadline, and however many calls wait for it, it is done once.
        """
        shard = self._open.get(version) or await self._get(version)
        if shard.ids.is_ready:
            return
        if version not in self._ordering:
            task = asyncio.create_task(asyncio.to_thread(shard.ids.prepare))
            self._ordering[version] = task
            task.add_done_callback(lambda _: self._ordering.pop(version, None))
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await asyncio.shield(self._ordering[version])
        except TimeoutError:
            raise DeadlineExceeded(f"shard {self._number} is ordering its ids; try again") from None

    async def prepare(self, version: str, deadline: float) -> None:
        """Load a version, verified and warmed, without disturbing searches. Raises what makes it impossible.

        Loading goes on beyond the deadline.
        """
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._get(version)
        except TimeoutError:
            raise DeadlineExceeded(f"version {version} is not loaded yet; try again") from None

    @property
    def versions(self) -> list[str]:
        """Names of the loaded versions."""
        return sorted(self._open)

    @traced
    async def holds(self, version: str, deadline: float) -> bool:
        """Whether a version is loaded."""
        return version in self._open

    async def retire(self, keep: Sequence[str], deadline: float) -> None:
        """Forget every version but these; a search that still runs in one keeps it in memory until it ends."""
        for version in self._open.keys() - set(keep):
            if version in self._tails:
                self._tails.pop(version).cancel()
            self._live.pop(version).close()
            self._open.pop(version).close()
            self._paces.pop(version, None)

    async def _search(self, batch: ShardSearch, deadline: float) -> ShardHits:
        shard = await self._opened(batch.version)
        work = partial(shard.search, batch.queries, batch.top_k, batch.with_passages)
        if (kind := batch.pace_kind) is None:
            return await self._threads.run(deadline, work)
        paces = self._paces.setdefault(batch.version, Paces())
        return await self._threads.run_briefly(paces, kind, len(batch.queries), deadline, work)

    def prompt_size(self, version: str, kind: Hashable) -> int:
        """How many queries of a kind are searched for in a moment; 0 where it is not known."""
        paces = self._paces.get(version)
        return 0 if paces is None or version not in self._tails else paces.short_size(kind)

    def search_at_once(self, batch: ShardSearch) -> ShardHits:
        """Search for a batch of queries in this very thread, for a pipeline in this process."""
        queries, shard = batch.queries, self._open[batch.version]
        with self._calls.call("search", len(queries)):
            work = partial(shard.search, queries, batch.top_k, batch.with_passages)
            return self._paces[batch.version].in_loop(batch.pace_kind, len(queries), work)

    async def _use(self, version: str, deadline: float, work: Callable[[LiveShard], T]) -> T:
        return await self._threads.run(deadline, work, await self._opened(version))

    async def _opened(self, version: str) -> LiveShard:
        shard = self._open.get(version)
        return await self._get(version) if shard is None or version not in self._tails else shard

    async def _get(self, version: str) -> LiveShard:
        """Return a version, loading it first if need be; however many calls wait for it, it is loaded once."""
        if version in self._open:
            if version not in self._tails:  # it was loaded before the event loop was there
                self._tails[version] = self._live[version].follow()
            return self._open[version]
        if version not in self._loading:
            self._loading[version] = asyncio.create_task(self._load_in_thread(version))
        return await asyncio.shield(self._loading[version])

    async def _load_in_thread(self, version: str) -> LiveShard:
        try:
            self._open[version] = await asyncio.to_thread(self._load, version)
            return await self._get(version)
        finally:
            del self._loading[version]
