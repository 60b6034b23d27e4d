"""What runs in the replicas: plain classes without a trace of Ray, decorated and wired by `serve.app` alone.

Replicas run their methods on one event loop, so nothing here blocks it: models and indexes compute in threads, and work
whose deadline passes while it waits for a thread is dropped before it starts.
"""

import asyncio
import contextvars
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from serve.telemetry import (
    BATCHES,
    ENCODED,
    REMEMBERED,
    SAMPLE_S,
    SELECTED,
    SELECTIONS_REMEMBERED,
    WAITING,
    Calls,
    Meter,
    NoMeter,
    Telemetry,
)
from serve.versions.activation import BUSY_S, Activation, Pulse, ShardControl
from serve.web.access import charge, too_many
from shoal.encoders import TextVectors, TokenEncoder, load_encoder
from shoal.errors import DeadlineExceeded, InvalidArgument, NotFound, ShoalError, Unavailable
from shoal.filters import Filter
from shoal.fingerprint import Fingerprint
from shoal.index_root.cache import ShardCache
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.index_root.versions import read_current, read_manifest
from shoal.records import FloatArray, Queries, SearchAnswer, SearchRequest, ShardHits
from shoal.rerankers import load_reranker
from shoal.search.batching import Batcher
from shoal.search.pipeline import SearchPipeline
from shoal.search.query_cache import QueryCache
from shoal.search.services import EncodeService, Fetched, RerankService, ShardService
from shoal.serving.plan import Shape, check_encoder
from shoal.settings import EncoderSettings, RerankerSettings, ServeSettings
from shoal.shard.reader import Shard

logger = logging.getLogger("ray.serve")
T = TypeVar("T")

RERANK_QUERIES = 8
"""Queries scored together: enough pairs to fill a GPU, few enough that on a CPU the first does not wait for long."""
WARM_UP = "what a first request would otherwise wait for: " * 8
"""A text of some eighty words; the first pass through a model takes a second longer than the next ones."""
THEIRS = ("reranker", "encoder_replicas", "retriever_replicas", "reranker_min_replicas")
"""Settings that describe services: an ingress answers by those that they were started with, not by its own."""
PROBE_S = 2.0
"""How long a readiness probe waits for each service, in seconds."""


class Threads:
    """Runs blocking work off the event loop."""

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._name = name

    async def run(self, deadline: float, work: Callable[..., T], *args: Any) -> T:
        """Run `work(*args)` in a thread. Raises DeadlineExceeded at the deadline; what waits by then is never begun."""
        late = DeadlineExceeded(f"the deadline passed before the {self._name} had answered; allow more time")

        def guarded() -> T:
            if time.time() >= deadline:
                raise late
            return work(*args)

        try:
            async with asyncio.timeout(deadline - time.time()):
                return await asyncio.get_running_loop().run_in_executor(self._pool, guarded)
        except TimeoutError:
            raise late from None

    def wait(self, work: Callable[..., Any], *args: Any) -> None:
        """Run `work(*args)` in a thread and wait: to warm up, because what torch prepares is kept for each thread."""
        self._pool.submit(work, *args).result()


class QueryEncoder:
    """Encodes queries. Refuses to start with another encoder than the index was built with (EncoderMismatch).

    remembered: queries whose vectors are kept. meter: makes what measures.
    """

    def __init__(
        self,
        settings: EncoderSettings,
        expected: Fingerprint,
        remembered: int,
        meter: Callable[[], Meter] = NoMeter,
    ) -> None:
        self._calls = Calls(meter())
        encoder = load_encoder(settings)
        check_encoder(encoder.fingerprint(), expected)
        self._thread = Threads(1, "encoder")  # one: encoders are not re-entrant
        self._thread.wait(encoder.encode_queries, [WARM_UP])
        self._encoder = encoder
        self._with_tokens = 0
        self._cache = QueryCache(encoder.encode_queries, remembered)

    async def encode(self, queries: Sequence[str], deadline: float) -> FloatArray:
        """Return float32 (n, dim), L2-normalised, in input order."""
        try:
            with self._calls.call("encode", len(queries)):
                return await self._thread.run(deadline, self._cache.encode_queries, queries)
        finally:
            self._count()

    async def encode_tokens(self, queries: Sequence[str], deadline: float) -> list[TextVectors]:
        """Return the vectors and those of the tokens, in input order; they are not remembered."""
        if not isinstance(self._encoder, TokenEncoder):
            raise InvalidArgument(
                "the encoder of this index has no token vectors; leave rerank late out", param="rerank"
            )
        self._with_tokens += len(queries)
        try:
            with self._calls.call("encode", len(queries)):
                return await self._thread.run(deadline, self._encoder.encode_query_tokens, queries)
        finally:
            self._count()

    def _count(self) -> None:
        self._calls.total(ENCODED, self._cache.asked + self._with_tokens)
        self._calls.total(REMEMBERED, self._cache.hits)


class Retriever:
    """Holds one shard of several index versions and searches the one that each call names: a `ShardServer`.

    shape: what these versions have in common; None leaves that to those who call.
    """

    def __init__(
        self, settings: ServeSettings, shard: int, meter: Callable[[], Meter] = NoMeter, shape: Shape | None = None
    ) -> None:
        self._calls = Calls(meter())
        self._number = shard
        self._shape = shape
        self._storage = Storage(settings.index)
        self._cache = None if self._storage.is_local else ShardCache(settings.cache_dir, settings.cache_bytes)
        self._faiss_threads = settings.retriever_threads
        self._filter_cache_bytes = settings.filter_cache_bytes
        self._threads = Threads(2, f"shard {shard}")  # a fetch of texts need not wait for another batch's search
        self._open: dict[str, Shard] = {}
        self._loading: dict[str, asyncio.Task[Shard]] = {}
        self._load_first()

    def _load_first(self) -> None:
        """Load the current version or, if it is broken, the one before it, which is what is still being served then.

        Neither is loaded if it has another shape: then other replicas serve it, or these are there to wait for theirs.
        """
        current = read_current(self._storage)
        if current is None:
            raise NotFound(f"{self._storage.place()} has no published index version; build one with `shoal build`")
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
        return self._shape is None or self._shape.fits(Shape.of(read_manifest(self._storage, version)))

    def _load(self, version: str) -> Shard:
        manifest = read_manifest(self._storage, version)
        shard = Shard.open(
            self._storage,
            manifest,
            self._number,
            cache=self._cache,
            threads=self._faiss_threads,
            filter_cache_bytes=self._filter_cache_bytes,
        )
        shard.warm()
        return shard

    async def search(
        self,
        version: str,
        queries: Queries,
        top_k: int,
        deadline: float,
        with_passages: bool,
        filters: Sequence[Filter | None] | None = None,
    ) -> ShardHits:
        """Search the named version for several queries. Raises NotFound if there is no such version."""
        with self._calls.call("search", len(queries.texts)):
            hits = await self._use(
                version, deadline, lambda shard: shard.search(queries, top_k, with_passages, filters)
            )
        if filters:
            lookups = [shard.filter_lookups for shard in self._open.values()]
            self._calls.total(SELECTED, sum(asked for asked, _ in lookups))
            self._calls.total(SELECTIONS_REMEMBERED, sum(hits for _, hits in lookups))
        return hits

    async def fetch(self, version: str, rows: Sequence[int], deadline: float, with_vectors: bool = False) -> Fetched:
        """Return the passages (and, if asked for, the vectors) of rows of the named version, in the order asked."""
        with self._calls.call("fetch", 1):
            return await self._use(version, deadline, lambda shard: shard.fetch(rows, with_vectors))

    async def score(self, version: str, query: TextVectors, rows: Sequence[int], deadline: float) -> FloatArray:
        """Return, float32 (n,), what late interaction gives rows of the named version by their stored tokens."""
        with self._calls.call("score", 1):
            return await self._use(version, deadline, lambda shard: shard.score(query, rows))

    async def prepare(self, version: str, deadline: float) -> None:
        """Load a version, verified and warmed, without disturbing searches. Raises what makes it impossible.

        Loading goes on beyond the deadline.
        """
        try:
            async with asyncio.timeout(deadline - time.time()):
                await self._get(version)
        except TimeoutError:
            raise DeadlineExceeded(f"version {version} is not loaded yet; try again") from None

    @property
    def versions(self) -> list[str]:
        """Names of the loaded versions."""
        return sorted(self._open)

    async def holds(self, version: str, deadline: float) -> bool:
        """Whether a version is loaded."""
        return version in self._open

    async def retire(self, keep: Sequence[str], deadline: float) -> None:
        """Forget every version but these; a search that still runs in one keeps it in memory until it ends."""
        for version in self._open.keys() - set(keep):
            self._open.pop(version).close()

    async def _use(self, version: str, deadline: float, work: Callable[[Shard], T]) -> T:
        shard = self._open.get(version) or await self._get(version)
        return await self._threads.run(deadline, work, shard)

    async def _get(self, version: str) -> Shard:
        """Return a version, loading it first if need be; however many calls wait for it, it is loaded once."""
        if version in self._open:
            return self._open[version]
        if version not in self._loading:
            self._loading[version] = asyncio.create_task(self._load_in_thread(version))
        return await asyncio.shield(self._loading[version])

    async def _load_in_thread(self, version: str) -> Shard:
        try:
            self._open[version] = await asyncio.to_thread(self._load, version)
            return self._open[version]
        finally:
            del self._loading[version]


class Reranker:
    """Scores passages, those of several waiting queries together."""

    def __init__(self, settings: RerankerSettings, max_waiting: int, meter: Callable[[], Meter] = NoMeter) -> None:
        self._calls = Calls(meter())
        self._reranker = load_reranker(settings)
        self._thread = Threads(1, "reranker")  # one: rerankers are not re-entrant
        self._thread.wait(self._reranker.score_pairs, [(WARM_UP, WARM_UP)] * RERANK_QUERIES)
        self._batcher: Batcher[_Pairs, FloatArray] = Batcher(
            self._score,
            max_batch=RERANK_QUERIES,
            max_waiting=max_waiting,
            cost=lambda item: len(item.pairs),
            name="reranker",
            observe=self._batch,
        )

    async def score(self, query: str, passages: list[str], deadline: float) -> FloatArray:
        """Return float32 (n,), higher is better, in input order."""
        pairs = _Pairs([(query, passage) for passage in passages], deadline)
        with self._calls.call("score", 1):
            return await self._batcher.submit(pairs, deadline)

    def _batch(self, size: int) -> None:
        self._calls.meter.observe(BATCHES, size, stage="rerank")
        self._calls.meter.set(WAITING, self._batcher.waiting, stage="rerank")

    async def _score(self, batch: list["_Pairs"]) -> list[FloatArray]:
        pairs = [pair for item in batch for pair in item.pairs]
        latest = max(item.deadline for item in batch)
        scores = await self._thread.run(latest, self._reranker.score_pairs, pairs)
        answers, start = [], 0
        for item in batch:
            answers.append(scores[start : start + len(item.pairs)])
            start += len(item.pairs)
        return answers


@dataclass(frozen=True, slots=True)
class _Pairs:
    pairs: list[tuple[str, str]]
    deadline: float


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
