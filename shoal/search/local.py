"""An index version searched in this process: the pipeline over models and shards that lie here, without Ray.

Models and shards compute in threads, so that the event loop goes on meanwhile; short searches are done at once.
Long because all services of the pipeline stand together.
"""

import asyncio
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from shoal.encoders import (
    Encoder,
    TextVectors,
)
from shoal.filters import Filter
from shoal.index_root.cache import ShardCache
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.namespaces import DEFAULT
from shoal.records import (
    FetchedPassages,
    FloatArray,
    ListedIds,
    ListedNamespaces,
    Passage,
    ScoreScale,
    SearchAnswer,
    SearchRequest,
    Span,
)
from shoal.rerankers import DeadlineReranker, PairTokenCounter, Reranker, SentenceScorer
from shoal.search.batching import Batcher
from shoal.search.live_index import LiveIndex
from shoal.search.local_encoder import LocalEncoder
from shoal.search.pipeline import SearchPipeline
from shoal.search.served_version import ServedVersion
from shoal.search.services import SearchModels
from shoal.settings import ServeSettings
from shoal.shard.live import LiveShard
from shoal.shard.messages import Fetched, ShardHits, ShardSearch
from shoal.shard.questions import ShardQuestion
from shoal.shard.reader import Shard
from shoal.shard.stored_documents import StoredDocument
from shoal.system.machine import usable_cores
from shoal.system.threads import Paces, Threads

T = TypeVar("T")
RERANK_QUERIES = 8
"""Queries that the reranker scores together at most."""
SLICE_PAIRS = 32
"""Pairs that a reranker scores in one go where queries wait for its thread to be encoded; the default `top_k` fits."""
OPENING_THREADS = 4
"""Shards that are opened side by side: their files are read and hashed."""


class LocalReranker:
    """A reranker in a thread, which scores the passages of several waiting queries together: a `RerankService`.

    Args:
        reranker: What scores.
        thread: In which it does.
        max_waiting: Queries that may wait for it.
        slice_pairs: Pairs of one call; None for all that wait. Between two calls others get the thread, and what has
            missed its deadline by then is given up.
    """

    def __init__(self, reranker: Reranker, thread: Threads, max_waiting: int, slice_pairs: int | None = None) -> None:
        self._reranker = reranker
        self._thread = thread
        self._slice_pairs = slice_pairs
        self._batcher: Batcher[_Pairs, FloatArray] = Batcher(
            self._score_batch,
            max_batch=RERANK_QUERIES,
            max_waiting=max_waiting,
            cost=lambda item: len(item.pairs),
            name="reranker",
        )

    async def score(self, query: str, passages: Sequence[str], deadline: float) -> FloatArray:
        """Return float32 (n,), higher is better, in input order."""
        if isinstance(self._reranker, DeadlineReranker):
            return await self._reranker.score_until(query, passages, deadline)
        return await self._batcher.submit(_Pairs([(query, passage) for passage in passages], deadline), deadline)

    async def score_sentences(
        self, query: str, passages: Sequence[str], sentences: Sequence[Sequence[Span]], deadline: float
    ) -> list[FloatArray | None]:
        """Return how well each sentence of some passages matches a query; see `shoal.rerankers.SentenceScorer`."""
        if not isinstance(self._reranker, SentenceScorer):
            return [None] * len(passages)
        return await self._thread.run(deadline, self._reranker.score_sentences, query, passages, sentences)

    async def count_tokens(self, query: str, passages: Sequence[str], deadline: float) -> int:
        """Count the tokens that scoring these passages reads; 0 where that is not known."""
        if not isinstance(self._reranker, PairTokenCounter):
            return 0
        return await self._thread.run(deadline, self._reranker.count_tokens, [(query, text) for text in passages])

    async def _score_batch(self, batch: list["_Pairs"]) -> list[FloatArray]:
        pairs = [pair for item in batch for pair in item.pairs]
        latest = max(item.deadline for item in batch)
        size = self._slice_pairs or max(1, len(pairs))
        slices = [pairs[start : start + size] for start in range(0, max(1, len(pairs)), size)]
        scores = np.concatenate([await self._thread.run(latest, self._reranker.score_pairs, part) for part in slices])
        return np.split(scores, np.cumsum([len(item.pairs) for item in batch[:-1]]))


@dataclass(frozen=True, slots=True)
class _Pairs:
    """(query, passage) pairs of one query, and its deadline by `time.monotonic`."""

    pairs: list[tuple[str, str]]
    deadline: float


class LocalShard:
    """An opened shard, searched in threads: a `ShardService`, a prompt one, of the one version that it belongs to."""

    def __init__(self, shard: LiveShard, threads: Threads) -> None:
        self._shard = shard
        self._threads = threads
        self._paces = Paces()

    async def search(self, batch: ShardSearch, deadline: float) -> ShardHits:
        """Search for a batch of queries."""
        work = partial(self._shard.search, batch.queries, batch.top_k, batch.with_passages)
        if (kind := batch.pace_kind) is None:
            return await self._threads.run(deadline, work)
        return await self._threads.run_briefly(self._paces, kind, len(batch.queries), deadline, work)

    def prompt_size(self, version: str, kind: Hashable) -> int:
        """How many queries of a kind are searched for in a moment; 0 where it is not known."""
        return self._paces.short_size(kind)

    def search_at_once(self, batch: ShardSearch) -> ShardHits:
        """Search for a batch of queries in this very thread."""
        work = partial(self._shard.search, batch.queries, batch.top_k, batch.with_passages)
        return self._paces.in_loop(batch.pace_kind, len(batch.queries), work)

    async def fetch(self, version: str, rows: Sequence[int], deadline: float, with_vectors: bool = False) -> Fetched:
        """Return the passages (and, if asked for, the vectors) of rows, in the order asked."""
        return await self._threads.run(deadline, self._shard.fetch, rows, with_vectors)

    async def score(self, version: str, query: TextVectors, rows: Sequence[int], deadline: float) -> FloatArray:
        """Return, float32 (n,), what late interaction gives rows by their stored token vectors."""
        return await self._threads.run(deadline, self._shard.score, query, rows)

    async def locate(self, version: str, ids: Sequence[str], deadline: float, min_position: int = 0) -> list[int]:
        """Return the row of each id, -1 for one that is not in this shard, which the tail of its index has kept up."""
        return await self._threads.run(deadline, self._shard.ids.find, ids)

    async def list_ids(
        self, version: str, prefix: str, after: str | None, limit: int, deadline: float, min_position: int = 0
    ) -> list[str]:
        """Return the first ids that begin with a prefix and come after an id, in order."""
        return await self._threads.run(deadline, self._shard.ids.list, prefix, after, limit)

    async def ask(self, version: str, question: ShardQuestion[T], deadline: float) -> T:
        """Return what this shard answers to a question about its rows."""
        return await self._threads.run(deadline, question.answer, self._shard)


class LocalModels:
    """The models of a search in this process, each in a thread of its own.

    Args:
        encoder: Of queries, and of passages for who asks for their vectors.
        reranker: The second stage; None for none, and a `LocalReranker` for one whose thread is another's.
        settings: Of the search.
        reranker_kind: What the reranker is (`shoal.rerankers.kind_of`); None without one.
        shared: The reranker computes with this very encoder, so that both need one thread.
        reranker_scale: Where its scores lie (`shoal.rerankers.scale_of`).
    """

    def __init__(
        self,
        encoder: Encoder,
        reranker: Reranker | LocalReranker | None,
        settings: ServeSettings,
        reranker_kind: str | None = None,
        shared: bool = False,
        reranker_scale: ScoreScale | None = None,
    ) -> None:
        # One thread each: models are not safe for concurrent calls.
        self._threads = [Threads(1, "encoder")]
        self.fingerprint = encoder.fingerprint()
        self.encoder = LocalEncoder(encoder, self._threads[0], settings.query_cache)
        self.reranker = reranker if isinstance(reranker, LocalReranker) else None
        if reranker is not None and not isinstance(reranker, LocalReranker):
            if not shared:
                self._threads.append(Threads(1, "reranker"))
            slice_pairs = SLICE_PAIRS if shared else None
            self.reranker = LocalReranker(reranker, self._threads[-1], settings.max_waiting, slice_pairs)
        self.reranker_kind = reranker_kind
        self.reranker_scale = reranker_scale

    def close(self) -> None:
        """End the threads, once what they compute is done."""
        for threads in self._threads:
            threads.close()


class LocalVersion:
    """An index version, opened in this process. Its searches belong to one event loop.

    Args:
        storage: The index root.
        manifest: Of the version.
        models: For its searches; whoever made them closes them.
        settings: Of the search.
        cache: Where shards of a remote root are kept on this machine; None for a local root.

    Raises:
        InvalidArgument: The root is remote, and there is no cache.
        CorruptIndex: A file does not match the manifest.
    """

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        models: SearchModels,
        settings: ServeSettings,
        cache: ShardCache | None = None,
    ) -> None:
        self.manifest = manifest
        self._searches = 0
        self._closed = False
        self.live = LiveIndex(storage, manifest, cache)
        """What was written since the version was built."""
        self.shards = [
            self.live.add_shard(shard, number, settings.retriever_threads)
            for number, shard in enumerate(open_shards(storage, manifest, settings, cache))
        ]
        self._tailing: asyncio.Task[None] | None = None
        # As many as can compute at once, and one more that fetches texts meanwhile.
        self._threads = Threads(min(len(self.shards), usable_cores()) + 1, "shards")
        self._pipeline = SearchPipeline(
            models.encoder,
            [LocalShard(shard, self._threads) for shard in self.shards],
            models.reranker,
            settings,
            reranker_kind=models.reranker_kind,
        )
        self._pipeline.switch_to(manifest, live=self.live)
        self.live.replay()

    def follow(self) -> None:
        """Follow the log from now on, in this event loop; until then what was written when it was opened is seen."""
        if self._tailing is None:
            self._tailing = self.live.follow()

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer several queries at once, in order; see `SearchPipeline.search_all`."""
        with self._use():
            return await self._pipeline.search_all(requests)

    async def fetch(
        self, ids: Sequence[str], deadline: float, with_vectors: bool, namespace: str = DEFAULT, min_position: int = 0
    ) -> FetchedPassages:
        """Fetch passages by their ids; see `shoal.search.lookup.fetch_passages`."""
        with self._use():
            return await self._pipeline.fetch(ids, deadline, with_vectors, namespace, min_position)

    async def list_ids(
        self,
        prefix: str,
        limit: int,
        cursor: str | None,
        deadline: float,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> ListedIds:
        """List ids, a page at a time; see `shoal.search.lookup.list_ids`."""
        with self._use():
            return await self._pipeline.list_ids(prefix, limit, cursor, deadline, namespace, min_position)

    async def list_namespaces(self, prefix: str, limit: int, cursor: str | None, deadline: float) -> ListedNamespaces:
        """List namespaces, a page at a time; see `shoal.search.namespaces.list_namespaces`."""
        with self._use():
            return await self._pipeline.list_namespaces(prefix, limit, cursor, deadline)

    async def count_namespace(self, namespace: str, deadline: float) -> int:
        """Count the passages of a namespace."""
        with self._use():
            return await self._pipeline.count_namespace(namespace, deadline)

    @property
    def served(self) -> ServedVersion:
        """The version as it is now: with the fields that the log has brought."""
        return self.live.version

    async def look_up(self, documents: Sequence[str], min_position: int, deadline: float) -> dict[str, StoredDocument]:
        """Return documents as they are at a position of the log or later; see `shoal.search.documents.look_up`."""
        with self._use():
            await self.live.tail.reach(min_position, deadline)
            return await self._pipeline.look_up(documents, min_position, deadline)

    async def select(self, tree: Filter | None, limit: int, min_position: int, deadline: float) -> list[str]:
        """Return ids of passages that fulfil a filter; see `shoal.search.documents.select_ids`."""
        with self._use():
            await self.live.tail.reach(min_position, deadline)
            return await self._pipeline.select_ids(tree, limit, min_position, deadline)

    @contextmanager
    def _use(self) -> Iterator[None]:
        """Count a call, so that nothing is released before it has ended."""
        self._searches += 1
        try:
            yield
        finally:
            self._searches -= 1
            self._release_unused()

    def passage(self, shard: int, row: int) -> Passage:
        """Return the passage in a row of a shard."""
        return self.shards[shard].fetch([row]).passages[0]

    def close(self) -> None:
        """End the threads and let the cache evict the files, once the searches under way have ended.

        Files stay mapped until the last reference to this object is gone.
        """
        self._closed = True
        self._release_unused()

    def _release_unused(self) -> None:
        if self._closed and not self._searches:
            if self._tailing is not None:
                self._tailing.cancel()
            self._threads.close()
            self.live.close()
            for shard in self.shards:
                shard.close()


def open_shards(storage: Storage, manifest: Manifest, settings: ServeSettings, cache: ShardCache | None) -> list[Shard]:
    """Open and verify every shard of a version, in order. Raises what opening raises; then none stays open."""

    def open_shard(number: int) -> Shard:
        return Shard.open(
            storage,
            manifest,
            number,
            cache=cache,
            threads=settings.retriever_threads,
            filter_cache_bytes=settings.filter_cache_bytes,
        ).on(settings.retriever_device)

    with ThreadPoolExecutor(OPENING_THREADS) as pool:
        opening = [pool.submit(open_shard, entry.shard) for entry in manifest.shards]
    try:
        return [future.result() for future in opening]
    except BaseException:
        for future in opening:
            if not future.exception():
                future.result().close()
        raise
