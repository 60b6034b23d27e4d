"""The shards of one index version, asked together: one call per shard serves all queries that gathered for it."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from shoal import filters
from shoal.encoders import TextVectors
from shoal.errors import Conflict, DeadlineExceeded, InvalidArgument, Overloaded, ShoalError, Unavailable
from shoal.index_root.manifest import VectorIndexInfo
from shoal.metadata import FieldTypes
from shoal.records import Candidate, Coverage, FloatArray, Hits, MissingShard, Mode, Passage, Queries, ShardHits
from shoal.search.batching import Batcher
from shoal.search.breaker import PROBE_S, Breaker
from shoal.search.hedging import Attempts, Budget
from shoal.search.merge import merge
from shoal.search.services import Deaf, Fetched, Observer, ShardService
from shoal.settings import ServeSettings
from shoal.system import tracing

T = TypeVar("T")
R = TypeVar("R")
ROWS_PER_CALL = 8192
"""Most rows, queries times top_k, that one call asks of a shard. It bounds the message, and keeps one query with a
large top_k from making all queries of its batch as large."""

logger = logging.getLogger(__name__)


class _Suspended(Exception):
    """A shard that has been silent too long, and that queries do not wait for until it answers again."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one shard found for one query: row `query` of the hits.

    ms: time of the call that served `batch` queries.
    """

    dense: Hits | None
    lexical: Hits | None
    query: int
    ms: float
    batch: int


@dataclass(frozen=True, slots=True)
class Probe:
    """What the shards are asked for one query. `vector`, float32 (dim,), is None for a lexical one.

    requests: ids of the HTTP request, for log lines.
    effort: search parameters in the place of the version's own; "" for those.
    """

    text: str
    vector: FloatArray | None
    mode: Mode
    top_k: int
    deadline: float
    filter: filters.Filter | None
    requests: tuple[str, ...] = ()
    effort: str = ""

    @property
    def rows(self) -> int:
        """Most rows that a shard finds."""
        return self.top_k * (2 if self.mode == "hybrid" else 1)


def merged(found: Mapping[int, Found], probe: Probe) -> tuple[list[Candidate], list[Candidate]]:
    """Merge what the shards found by vectors and what they found by words."""
    dense = [(shard, one.dense, one.query) for shard, one in found.items() if one.dense]
    lexical = [(shard, one.lexical, one.query) for shard, one in found.items() if one.lexical]
    return (
        merge(dense, probe.top_k) if probe.mode != "lexical" else [],
        merge(lexical, probe.top_k, lexical=True) if probe.mode != "dense" else [],
    )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Rows of one shard whose passages, and vectors if asked for, a query wants until its deadline."""

    rows: list[int]
    with_vectors: bool
    deadline: float
    requests: tuple[str, ...]


class FanOut:
    """Searches every shard of one version.

    Each shard has its own queue: a shard that hangs delays no other shard, and a slow one gets larger batches. One that
    stays silent is suspended: queries go on without it, and it is tried again beside them until it answers.
    counts: passages of each shard, for the coverage. fields: types of the metadata fields, for filters. lexical:
    whether the version can be searched by words. late: whether its shards hold token vectors. index: its vector index,
    for queries that ask for a recall. absent: shards that count as suspended from the beginning. Raises Conflict when
    there are not as many counts as shards.
    """

    def __init__(
        self,
        version: str,
        shards: Sequence[ShardService],
        counts: Sequence[int],
        settings: ServeSettings,
        clock: Callable[[], float],
        fields: FieldTypes | None = None,
        lexical: bool = False,
        observer: Observer | None = None,
        index: VectorIndexInfo | None = None,
        late: bool = False,
        absent: Sequence[int] = (),
    ) -> None:
        if len(counts) != len(shards):
            raise Conflict(
                f"version {version} has {len(counts)} shards, but this server was started with {len(shards)}; "
                "restart it to serve this version"
            )
        self.version = version
        self.lexical = lexical
        self.late = late
        self._shards = shards
        self._counts = counts
        self._settings = settings
        self._clock = clock
        self._fields = fields or {}
        self._observer = observer or Deaf()
        budget = Budget(settings.hedge_budget, len(shards))
        self._attempts, self._fetches, self._scores = (
            [Attempts(settings.retriever_replicas, settings.hedge_percentile, budget, clock) for _ in shards]
            for _ in ("search", "fetch", "score")  # which take different times
        )
        self._breakers = [Breaker(settings.shard_patience_ms / 1000, clock) for _ in shards]
        for shard in absent:
            self._breakers[shard].open = True
        self._probes: set[asyncio.Task[None]] = set()
        self._index = index
        self._queues = [
            self._queue(partial(self._search, number), _fits, f"queue of shard {number}", "retrieve")
            for number in range(len(shards))
        ]
        self._texts = [
            self._queue(
                partial(self._fetch, number), _fetched_together, f"queue of the texts of shard {number}", "fetch"
            )
            for number in range(len(shards))
        ]

    def _queue(
        self,
        handle: Callable[[list[T]], Awaitable[Sequence[R]]],
        fits: Callable[[list[T], T], bool],
        name: str,
        stage: str,
    ) -> Batcher[T, R]:
        return Batcher(
            handle,
            max_batch=self._settings.max_batch,
            max_waiting=self._settings.max_waiting,
            concurrency=max(1, self._settings.retriever_replicas),
            fits=fits,
            name=name,
            clock=self._clock,
            observe=partial(self._observer.batch, stage),
        )

    @property
    def waiting(self) -> int:
        """Queries that wait for the shard that most wait for."""
        return max((queue.waiting for queue in self._queues), default=0)

    def filter(self, document: Mapping[str, Any] | None) -> filters.Filter | None:
        """Check a filter against the fields of this version. Raises InvalidArgument with the path to the fault."""
        limits = self._settings.max_filter_width, self._settings.max_filter_depth
        return filters.parse(document, self._fields, *limits) if document else None

    def effort(self, recall: float | None) -> str:
        """The search parameters that give a recall. Raises InvalidArgument when this version has none."""
        return "" if recall is None or self._index is None else self._index.search_for(recall)

    async def search(self, probe: Probe) -> tuple[dict[int, Found], dict[int, str]]:
        """Search all shards for one query until its deadline.

        Returns what was found and why shards are missing, both by shard number. Raises Overloaded when a shard has too
        many queries waiting, Unavailable when no shard answered.
        """
        futures: dict[int, asyncio.Future[Found]] = {}
        found: dict[int, Found] = {}
        errors: dict[int, BaseException] = {}
        try:
            for shard, queue in enumerate(self._queues):
                if self._is_suspended(shard):
                    errors[shard] = _Suspended()
                    self._try_again(shard, probe)
                else:
                    futures[shard] = queue.submit(probe, probe.deadline)
            await asyncio.wait(futures.values())
        finally:
            for future in futures.values():
                future.cancel()
        for shard, future in futures.items():
            error = future.exception()
            if error is None:
                found[shard] = future.result()
            else:
                errors[shard] = error
        missing = {shard: _reason(error) for shard, error in errors.items()}
        if not found:
            overloaded = [error for error in errors.values() if isinstance(error, Overloaded)]
            if len(overloaded) == len(errors):
                raise overloaded[0]
            raise Unavailable(f"no shard answered ({describe(missing)}); try again", retry_after_s=1)
        return found, missing

    async def fetch(
        self, candidates: Iterable[Candidate], deadline: float, with_vectors: bool = False
    ) -> tuple[dict[tuple[int, int], tuple[Passage, FloatArray | None]], dict[int, str]]:
        """Fetch the passages of candidates, and their vectors if asked for, until an absolute deadline.

        Only shards that hold candidates are asked. Returns passages and vectors by (shard, row), and why shards are
        missing by shard number. Raises InvalidArgument when the index kind has no vectors to give.
        """
        rows = _by_shard(candidates)
        fetches = await asyncio.gather(
            *(self._ask_for(shard, wanted, deadline, with_vectors) for shard, wanted in rows.items()),
            return_exceptions=True,
        )
        fetched: dict[tuple[int, int], tuple[Passage, FloatArray | None]] = {}
        missing: dict[int, str] = {}
        for (shard, wanted), fetch in zip(rows.items(), fetches, strict=True):
            if isinstance(fetch, InvalidArgument):
                raise fetch
            if isinstance(fetch, BaseException):
                missing[shard] = _reason(fetch)
                continue
            vectors = [None] * len(wanted) if fetch.vectors is None else list(fetch.vectors)
            for row, passage, vector in zip(wanted, fetch.passages, vectors, strict=True):
                fetched[shard, row] = passage, vector
        return fetched, missing

    async def score(
        self, query: TextVectors, candidates: Iterable[Candidate], deadline: float
    ) -> tuple[dict[tuple[int, int], float], dict[int, str]]:
        """Score candidates with the token vectors of their shards until an absolute deadline.

        Returns scores by (shard, row), and why shards are missing by shard number. Raises InvalidArgument when the
        index kind cannot give the vectors that are part of the score.
        """
        rows = _by_shard(candidates)
        calls = await asyncio.gather(
            *(self._score(shard, query, wanted, deadline) for shard, wanted in rows.items()), return_exceptions=True
        )
        scores: dict[tuple[int, int], float] = {}
        missing: dict[int, str] = {}
        for (shard, wanted), call in zip(rows.items(), calls, strict=True):
            if isinstance(call, InvalidArgument):
                raise call
            if isinstance(call, BaseException):
                missing[shard] = _reason(call)
            else:
                scores.update(zip(((shard, row) for row in wanted), call.tolist(), strict=True))
        return scores, missing

    def coverage(self, missing: Mapping[int, str]) -> Coverage:
        """Name the part of the index that answered."""
        total = sum(self._counts)
        lost = sum(self._counts[shard] for shard in missing)
        return Coverage(
            shards=len(self._shards),
            answered=len(self._shards) - len(missing),
            fraction=1 - lost / total if total else 1.0,
            missing=tuple(MissingShard(shard, reason) for shard, reason in sorted(missing.items())),
        )

    def _is_suspended(self, shard: int) -> bool:
        """Whether queries go on without a shard; they do not if no other is left to go on with."""
        return self._breakers[shard].open and not all(breaker.open for breaker in self._breakers)

    def _try_again(self, shard: int, probe: Probe) -> None:
        """Ask a suspended shard for what a query would have asked it, with nobody waiting."""
        if self._breakers[shard].is_due():
            task = asyncio.ensure_future(self._alone(shard, replace(probe, deadline=self._clock() + PROBE_S)))
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)

    async def _alone(self, shard: int, probe: Probe) -> None:
        with contextlib.suppress(Exception):  # logged where it was raised
            async with asyncio.timeout(PROBE_S):
                await self._ask(shard, [probe], None)

    async def _search(self, shard: int, probes: list[Probe]) -> list[Found]:
        if self._is_suspended(shard):  # since these queries began to wait for their turn
            raise _Suspended
        return await self._ask(shard, probes, self._patience(shard, self._attempts[shard]))

    def _patience(self, shard: int, attempts: Attempts) -> float | None:
        """Seconds to wait for a call of a shard; None, which means its deadline, if no other is left to go on with."""
        alone = all(breaker.open for number, breaker in enumerate(self._breakers) if number != shard)
        return None if alone else self._breakers[shard].patience(attempts.silence())

    async def _ask(self, shard: int, probes: list[Probe], patience: float | None) -> list[Found]:
        """Search one shard for several queries. Raises _Suspended after so many seconds of silence."""
        tracing.work_for(*(probe.requests for probe in probes))
        started = self._clock()
        queries = Queries(
            _stacked([probe.vector for probe in probes]),
            [probe.text for probe in probes],
            [probe.mode for probe in probes],
            [probe.effort for probe in probes] if any(probe.effort for probe in probes) else None,
        )
        top_k = max(probe.top_k for probe in probes)
        deadline = max(probe.deadline for probe in probes)
        trees = [probe.filter for probe in probes]

        # Of the two windows of a hybrid query only top_k passages are read in the end.
        with_passages = self._settings.fetch_with_hits and "hybrid" not in queries.modes

        async def call() -> ShardHits:
            wanted = trees if any(trees) else None
            hits = await self._shards[shard].search(self.version, queries, top_k, deadline, with_passages, wanted)
            for found in (hits.dense, hits.lexical):
                if found is not None and len(found.ids) != len(probes):
                    raise RuntimeError(f"found hits for {len(found.ids)} of {len(probes)} queries")
            return hits

        async with self._watched(shard, patience):
            hits = await self._logged(shard, lambda: self._attempts[shard].run(call, deadline))
        seconds = self._clock() - started
        self._observer.shard(shard, seconds)
        return [Found(hits.dense, hits.lexical, query, 1000 * seconds, len(probes)) for query in range(len(probes))]

    async def _ask_for(self, shard: int, rows: list[int], deadline: float, with_vectors: bool) -> Fetched:
        wanted = _Wanted(rows, with_vectors, deadline, tracing.requests())
        return await self._texts[shard].submit(wanted, deadline)

    async def _fetch(self, shard: int, wishes: list[_Wanted]) -> list[Fetched]:
        tracing.work_for(*(wish.requests for wish in wishes))
        rows = [row for wish in wishes for row in wish.rows]
        deadline, with_vectors = max(wish.deadline for wish in wishes), wishes[0].with_vectors
        passages: list[Passage] = []
        vectors: list[FloatArray] = []

        async def call() -> Fetched:
            rest = rows[len(passages) :]
            fetched = await self._shards[shard].fetch(self.version, rest, deadline, with_vectors)
            if not 0 < len(fetched.passages) <= len(rest):
                raise RuntimeError(f"fetched {len(fetched.passages)} passages for {len(rest)} rows")
            return fetched

        attempts = self._fetches[shard]
        while len(passages) < len(rows):  # a message carries so much text and no more
            if self._is_suspended(shard):  # since it found what these queries wait for
                raise _Suspended
            async with self._watched(shard, self._patience(shard, attempts)):
                fetched = await self._logged(shard, lambda: attempts.run(call, deadline))
            passages += fetched.passages
            if fetched.vectors is not None:
                vectors.append(fetched.vectors)
        together = np.concatenate(vectors) if vectors else None
        answers, start = [], 0
        for wish in wishes:
            part = slice(start, start + len(wish.rows))
            answers.append(Fetched(passages[part], None if together is None else together[part]))
            start = part.stop
        return answers

    async def _score(self, shard: int, query: TextVectors, rows: list[int], deadline: float) -> FloatArray:
        async def call() -> FloatArray:
            scores = np.asarray(await self._shards[shard].score(self.version, query, rows, deadline))
            if scores.shape != (len(rows),) or not np.isfinite(scores).all():
                raise RuntimeError(f"scores of {len(rows)} rows are {scores!r}")
            return scores

        attempts = self._scores[shard]
        if self._is_suspended(shard):
            raise _Suspended
        async with (
            asyncio.timeout(deadline - self._clock()),
            self._watched(shard, self._patience(shard, attempts)),
        ):
            return await self._logged(shard, lambda: attempts.run(call, deadline))

    @contextlib.asynccontextmanager
    async def _watched(self, shard: int, patience: float | None) -> AsyncIterator[None]:
        """Tell the breaker of a shard how a call ended."""
        breaker, started = self._breakers[shard], self._clock()
        try:
            async with asyncio.timeout(patience):
                yield
        except (TimeoutError, Unavailable, DeadlineExceeded, asyncio.CancelledError) as error:
            if breaker.silent(started):
                seconds = self._clock() - started
                logger.warning("shard %d of version %s is suspended: silent for %.1f s", shard, self.version, seconds)
            if isinstance(error, TimeoutError):
                raise (_Suspended if breaker.open else DeadlineExceeded)("no answer in time") from None
            raise
        except Exception:
            breaker.answered()
            raise
        if breaker.answered():
            logger.warning("shard %d of version %s answers again", shard, self.version)

    async def _logged(self, shard: int, call: Callable[[], Awaitable[T]]) -> T:
        # Whatever a shard raises ends here: clients only learn that the shard is missing, and in which of five ways.
        try:
            return await call()
        except ShoalError as error:
            message = "shard %d of version %s: %s: %s"
            logger.warning(message, shard, self.version, error.code, error, extra=tracing.fields())
            raise
        except Exception:
            logger.exception("shard %d of version %s failed", shard, self.version, extra=tracing.fields())
            raise


def _fits(probes: list[Probe], probe: Probe) -> bool:
    return (len(probes) + 1) * max(probe.rows, *(one.rows for one in probes)) <= ROWS_PER_CALL


def _by_shard(candidates: Iterable[Candidate]) -> dict[int, list[int]]:
    """The rows of candidates by shard, each in their order."""
    rows: dict[int, list[int]] = {}
    for candidate in candidates:
        rows.setdefault(candidate.shard, []).append(candidate.row)
    return rows


def _fetched_together(wishes: list[_Wanted], wish: _Wanted) -> bool:
    rows = len(wish.rows) + sum(len(one.rows) for one in wishes)
    return wish.with_vectors == wishes[0].with_vectors and rows <= ROWS_PER_CALL


def _stacked(vectors: Sequence[FloatArray | None]) -> FloatArray:
    """Rows of float32 (b, dim), of zeros for queries without a vector; (b, 0) if none has one."""
    dim = next((len(vector) for vector in vectors if vector is not None), 0)
    return np.stack([np.zeros(dim, np.float32) if vector is None else vector for vector in vectors])


def describe(missing: Mapping[int, str]) -> str:
    """Say in words which shards are missing and why."""
    return ", ".join(f"shard {shard}: {reason}" for shard, reason in sorted(missing.items()))


def _reason(error: BaseException) -> str:
    if isinstance(error, _Suspended):
        return "suspended"
    if isinstance(error, DeadlineExceeded | TimeoutError):
        return "deadline"
    if isinstance(error, Overloaded):
        return "overloaded"
    return "unreachable" if isinstance(error, Unavailable) else "error"
