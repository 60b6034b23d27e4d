"""One shard of one index version, as the fan-out calls it: queues, second attempts, and the breaker.

Long because every way to call a shard stands beside what watches it.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from shoal.encoders import TextVectors
from shoal.errors import Conflict, DeadlineExceeded, ShoalError, Unavailable
from shoal.modes import RETRIEVERS_OF
from shoal.records import FloatArray, Passage
from shoal.search.batching import Batcher
from shoal.search.breaker import PROBE_S, Breaker
from shoal.search.hedging import Attempts, Budget, retried
from shoal.search.services import Observer, PromptShard, ShardService
from shoal.settings import ServeSettings
from shoal.shard.messages import Fetched, ShardHits, ShardQuery, ShardSearch, replica_of
from shoal.shard.questions import ShardQuestion
from shoal.system import spans, tracing

T = TypeVar("T")
R = TypeVar("R")
ROWS_PER_CALL = 8192
"""Most rows, queries times the rows of each, that one call asks of a shard. It bounds the message, and keeps one query
with a large top_k from making all queries of its batch as large."""

ASKED_REPLICAS = 16
"""How often replicas are asked about rows that only one of them knows."""
BEHIND_S = 0.025
"""Seconds until a shard is asked once more that had not seen what a query asks for."""

logger = logging.getLogger(__name__)


class Suspended(Exception):
    """A shard that has been silent too long, and that queries do not wait for until it answers again."""


class Behind(DeadlineExceeded):
    """A shard that had not seen the writes that a query asks for by its deadline."""


@dataclass(frozen=True, slots=True)
class PendingQuery:
    """A query that waits to be sent to shards.

    top_k: rows that each retriever finds at most.
    deadline: by the monotonic clock of this process, in seconds.
    requests: ids of the HTTP request, for log lines.
    with_passages: whether most of the rows will be read.
    position: of the log, up to which the shards have to have seen all.
    spans: under which it is searched for.
    """

    query: ShardQuery
    top_k: int
    deadline: float
    requests: tuple[str, ...] = ()
    with_passages: bool = True
    position: int = 0
    spans: tuple[Any, ...] = ()

    @property
    def rows(self) -> int:
        """Most rows that a shard finds."""
        return self.top_k * (
            len(RETRIEVERS_OF[self.query.mode]) + (self.query.mode == "hybrid" and self.query.terms is not None)
        )


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What one shard found for one query.

    hits: those of all queries of the call.
    position: of the query among them.
    ms: milliseconds that the call took.
    batch: queries of the call.
    """

    hits: ShardHits
    position: int
    ms: float
    batch: int


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """Rows of a shard whose passages, and vectors if asked for, a query wants until its deadline."""

    rows: Sequence[int]
    with_vectors: bool
    deadline: float
    requests: tuple[str, ...]
    spans: tuple[Any, ...]


class ShardClient:
    """Calls one shard: queries that wait together share a call, and a shard that stays silent is suspended.

    Args:
        number: Of the shard.
        service: What to call.
        version: Name of the index version.
        settings: Of the server.
        clock: Seconds, what deadlines are compared with.
        observer: Hears of batches and of how long calls take.
        budget: For second attempts, shared by all shards.
        clients: Those of all shards of the version, this one among them in the end. None is suspended when no other
            is left to go on with.
    """

    def __init__(  # noqa: PLR0913 - made in one place, `FanOut`
        self,
        number: int,
        service: ShardService,
        version: str,
        settings: ServeSettings,
        clock: Callable[[], float],
        observer: Observer,
        budget: Budget,
        clients: "Sequence[ShardClient]",
    ) -> None:
        self.number = number
        self._service = service
        self._prompt = service if isinstance(service, PromptShard) else None
        self._version = version
        self._settings = settings
        self._clock = clock
        self._observer = observer
        self._clients = clients
        self._breaker = Breaker(settings.shard_patience_ms / 1000, clock)
        self._search_attempts, self._fetch_attempts, self._score_attempts = (
            Attempts(settings.retriever_replicas, settings.hedge_percentile, budget, clock)
            for _ in ("search", "fetch", "score")  # which take different times
        )
        self._probes: set[asyncio.Task[None]] = set()
        self._searches = self._queue(self._search_batch, fits, f"queue of shard {number}", "retrieve")
        self._fetches = self._queue(self._fetch_batch, _fits_fetch, f"queue of the texts of shard {number}", "fetch")

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
        """Queries that wait to be searched for."""
        return self._searches.waiting

    @property
    def is_suspended(self) -> bool:
        """Whether queries go on without this shard; they do not if no other is left to go on with."""
        return self._breaker.open and not self._is_last

    @property
    def _is_last(self) -> bool:
        return all(client._breaker.open for client in self._clients if client is not self)

    def suspend(self) -> None:
        """Go on without this shard until it answers."""
        self._breaker.open = True

    def prompt_size(self, kind: Hashable) -> int:
        """How many queries of a kind are searched for in this very thread, which takes a moment; 0 for none."""
        if self._prompt is None or self._searches.waiting:
            return 0
        return self._prompt.prompt_size(self._version, kind)

    def search_at_once(self, batch: list[PendingQuery]) -> list[ShardResult]:
        """Search for as many queries as `prompt_size` says in this very thread. Raises what became of that."""
        assert self._prompt is not None
        self._observer.batch("retrieve", len(batch))
        started, call = self._clock(), self.call_for(batch)
        with self._span("search", len(batch)), self._logged():
            hits = _checked(self._prompt.search_at_once(call), call)
        self._answered()
        return self._results(hits, started, len(batch))

    def search(self, pending: PendingQuery) -> "asyncio.Future[ShardResult]":
        """Queue a query. Raises Overloaded when too many wait; the result raises what became of the call."""
        first = self._searches.submit(pending, pending.deadline)
        return first if not pending.position else asyncio.ensure_future(self._search_until_seen(first, pending))

    async def _search_until_seen(self, first: "asyncio.Future[ShardResult]", pending: PendingQuery) -> ShardResult:
        """Search once more until the shard has seen what it should. Raises Behind when the time for that is over."""
        result = await first
        while result.hits.position < pending.position:
            if pending.deadline - self._clock() <= BEHIND_S:
                raise Behind(f"shard {self.number} has seen position {result.hits.position} of the log")
            await asyncio.sleep(BEHIND_S)
            try:
                result = await self._searches.submit(pending, pending.deadline)
            except DeadlineExceeded:
                raise Behind(f"shard {self.number} has seen position {result.hits.position} of the log") from None
        return result

    def probe(self, pending: PendingQuery) -> None:
        """Ask a suspended shard, now and then, for what a query would have asked it, with nobody waiting."""
        if self._breaker.is_due():
            alone = replace(pending, deadline=self._clock() + PROBE_S, spans=())
            task = asyncio.ensure_future(self._probe(alone))
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)

    async def _probe(self, pending: PendingQuery) -> None:
        with contextlib.suppress(Exception):  # logged where it was raised
            async with asyncio.timeout(PROBE_S):
                await self._call_search([pending], None)

    async def _search_batch(self, batch: list[PendingQuery]) -> list[ShardResult]:
        if self.is_suspended:  # since these queries began to wait for their turn
            raise Suspended
        return await self._call_search(batch, self._patience(self._search_attempts))

    def _patience(self, attempts: Attempts) -> float | None:
        """Seconds to wait for a call; None, which means its deadline, if no other shard is left to go on with."""
        return None if self._is_last else self._breaker.patience(attempts.silence())

    async def _call_search(self, batch: list[PendingQuery], patience: float | None) -> list[ShardResult]:
        """Search for several queries. Raises Suspended after so many seconds of silence."""
        tracing.work_for(*(pending.requests for pending in batch))
        spans.work_under(*(pending.spans for pending in batch))
        started = self._clock()
        call = self.call_for(batch)
        deadline = max(pending.deadline for pending in batch)

        async def attempt() -> ShardHits:
            return _checked(await self._service.search(call, deadline), call)

        hits = await self._run("search", attempt, self._search_attempts, deadline, patience, len(batch))
        return self._results(hits, started, len(batch))

    def _results(self, hits: ShardHits, started: float, queries: int) -> list[ShardResult]:
        seconds = self._clock() - started
        self._observer.shard(self.number, seconds)
        return [ShardResult(hits, position, 1000 * seconds, queries) for position in range(queries)]

    def call_for(self, batch: list[PendingQuery]) -> ShardSearch:
        """Make the call that searches for several queries."""
        # Of the windows of several retrievers only top_k passages are read in the end.
        several = any(len(RETRIEVERS_OF[pending.query.mode]) > 1 or not pending.with_passages for pending in batch)
        return ShardSearch(
            self._version,
            [pending.query for pending in batch],
            max(pending.top_k for pending in batch),
            with_passages=self._settings.fetch_with_hits and not several,
            position=max(pending.position for pending in batch),
        )

    async def fetch(self, rows: Sequence[int], deadline: float, with_vectors: bool) -> Fetched:
        """Fetch the passages of rows, and their vectors if asked for, until an absolute deadline."""
        request = FetchRequest(rows, with_vectors, deadline, tracing.requests(), spans.current())
        return await self._fetches.submit(request, deadline)

    async def _fetch_batch(self, requests: list[FetchRequest]) -> list[Fetched]:
        tracing.work_for(*(request.requests for request in requests))
        spans.work_under(*(request.spans for request in requests))
        rows = [row for request in requests for row in request.rows]
        deadline = max(request.deadline for request in requests)
        passages: list[Passage] = []
        vectors: list[FloatArray] = []
        while len(passages) < len(rows):  # a message carries so much text and no more
            fetched = await self._call_fetch(rows[len(passages) :], requests[0].with_vectors, deadline)
            passages += fetched.passages
            if fetched.vectors is not None:
                vectors.append(fetched.vectors)
        joined = np.concatenate(vectors) if vectors else None
        answers, start = [], 0
        for request in requests:
            part = slice(start, start + len(request.rows))
            answers.append(Fetched(passages[part], None if joined is None else joined[part]))
            start = part.stop
        return answers

    async def _call_fetch(self, rows: list[int], with_vectors: bool, deadline: float) -> Fetched:
        """Fetch the first of these rows, at least one."""
        if self.is_suspended:  # since it found what these queries wait for
            raise Suspended

        async def attempt() -> Fetched:
            fetched = await _at_replica(lambda: self._service.fetch(self._version, rows, deadline, with_vectors))
            if not 0 < len(fetched.passages) <= len(rows):
                raise RuntimeError(f"fetched {len(fetched.passages)} passages for {len(rows)} rows")
            return fetched

        patience = self._patience(self._fetch_attempts)
        return await self._run("fetch", attempt, self._fetch_attempts, deadline, patience)

    async def score(self, query: TextVectors, rows: Sequence[int], deadline: float) -> FloatArray:
        """Score rows by their token vectors until an absolute deadline; returns float32 (n,)."""
        if self.is_suspended:
            raise Suspended

        async def attempt() -> FloatArray:
            call = _at_replica(lambda: self._service.score(self._version, query, rows, deadline))
            scores = np.asarray(await call)
            if scores.shape != (len(rows),) or not np.isfinite(scores).all():
                raise RuntimeError(f"scores of {len(rows)} rows are {scores!r}")
            return scores

        async with asyncio.timeout(deadline - self._clock()):
            patience = self._patience(self._score_attempts)
            return await self._run("score", attempt, self._score_attempts, deadline, patience)

    async def locate(self, ids: Sequence[str], deadline: float, min_position: int = 0) -> list[int]:
        """Return the row of each id, -1 for one that is not in this shard, until a deadline."""
        call = partial(self._service.locate, self._version, ids, deadline, min_position)
        rows = await self._look_up("locate", call, deadline)
        if len(rows) != len(ids):
            raise RuntimeError(f"located {len(rows)} of {len(ids)} ids")
        return rows

    async def list_ids(
        self, prefix: str, after: str | None, limit: int, deadline: float, min_position: int = 0
    ) -> list[str]:
        """Return the first ids that begin with a prefix and come after an id, until a deadline."""
        call = partial(self._service.list_ids, self._version, prefix, after, limit, deadline, min_position)
        return await self._look_up("list", call, deadline)

    async def ask(self, question: ShardQuestion[T], deadline: float) -> T:
        """Return what the shard answers to a question about its rows, until a deadline."""
        call = partial(_at_replica, lambda: self._service.ask(self._version, question, deadline))
        return await self._look_up("ask", call, deadline)

    async def _look_up(self, name: str, call: Callable[[], Awaitable[T]], deadline: float) -> T:
        """Make a call that says nothing of how long searches take: the first one makes the shard order its ids."""
        if self.is_suspended:
            raise Suspended
        with self._span(name), self._logged():
            async with asyncio.timeout(deadline - self._clock()):
                return await retried(call)

    async def _run(
        self,
        name: str,
        attempt: Callable[[], Awaitable[T]],
        attempts: Attempts,
        deadline: float,
        patience: float | None,
        queries: int = 1,
    ) -> T:
        """Make a call, a second time where that helps, and log how it failed.

        Whatever a shard raises is logged here: clients only learn that the shard is missing, and in which of five ways.
        """
        async with self._watched(patience):
            with self._span(name, queries), self._logged():
                return await attempts.run(attempt, deadline)

    def _span(self, name: str, queries: int = 1) -> spans.Work:
        """Make the work of a call to this shard, for so many queries."""
        return spans.work(f"shard {name}", {"shoal.shard": self.number, "shoal.batch": queries})

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        """Log how a call failed."""
        try:
            yield
        except ShoalError as error:
            message = "shard %d of version %s: %s: %s"
            logger.warning(message, self.number, self._version, error.code, error, extra=tracing.fields())
            raise
        except Exception:
            logger.exception("shard %d of version %s failed", self.number, self._version, extra=tracing.fields())
            raise

    @contextlib.asynccontextmanager
    async def _watched(self, patience: float | None) -> AsyncIterator[None]:
        """Tell the breaker how a call ended."""
        breaker, started = self._breaker, self._clock()
        try:
            async with asyncio.timeout(patience):
                yield
        except (TimeoutError, Unavailable, DeadlineExceeded, asyncio.CancelledError) as error:
            if breaker.silent(started):
                seconds = self._clock() - started
                message = "shard %d of version %s is suspended: silent for %.1f s"
                logger.warning(message, self.number, self._version, seconds)
            if isinstance(error, TimeoutError):
                raise (Suspended if breaker.open else DeadlineExceeded)("no answer in time") from None
            raise
        except Exception:
            breaker.answered()
            raise
        self._answered()

    def _answered(self) -> None:
        if self._breaker.answered():
            logger.warning("shard %d of version %s answers again", self.number, self._version)


def _checked(hits: ShardHits, call: ShardSearch) -> ShardHits:
    """Return hits. Raises RuntimeError where they are not those of the queries of a call."""
    for part in hits.by_retriever.values():
        if len(part.ids) != len(call.queries):
            raise RuntimeError(f"found hits for {len(part.ids)} of {len(call.queries)} queries")
    return hits


def fits(batch: list[PendingQuery], pending: PendingQuery) -> bool:
    """Whether a call that searches for queries has room for one more."""
    return (len(batch) + 1) * max(pending.rows, *(other.rows for other in batch)) <= ROWS_PER_CALL


def _fits_fetch(batch: list[FetchRequest], request: FetchRequest) -> bool:
    rows = len(request.rows) + sum(len(other.rows) for other in batch)
    if request.with_vectors != batch[0].with_vectors or rows > ROWS_PER_CALL:
        return False
    replicas = {replica_of(max(other.rows, default=0)) for other in (*batch, request)}
    return len(replicas - {0}) <= 1


async def _at_replica(call: Callable[[], Awaitable[R]]) -> R:
    """Ask about rows until the replica answers that has found them: the others refuse, and any may be asked."""
    for _ in range(ASKED_REPLICAS):
        with contextlib.suppress(Conflict):
            return await call()
    return await call()
