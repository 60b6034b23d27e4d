"""The shards of one index version, asked together: one call per shard serves all queries that gathered for it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from shoal.encoders import TextVectors
from shoal.errors import Conflict, DeadlineExceeded, InvalidArgument, Overloaded, Unavailable
from shoal.records import Candidate, Coverage, FloatArray, MissingShard, Passage, RowRef
from shoal.search.hedging import Budget
from shoal.search.prompt_searches import PromptSearches
from shoal.search.served_version import ServedVersion
from shoal.search.services import NullObserver, Observer, ShardService
from shoal.search.shard_client import Behind, PendingQuery, ShardClient, ShardResult, Suspended
from shoal.search.trace import describe
from shoal.settings import ServeSettings
from shoal.shard.questions import ShardQuestion

if TYPE_CHECKING:
    from shoal.search.live_index import LiveIndex

T = TypeVar("T")


class FanOut:
    """Searches every shard of one version.

    Each shard has its own queue: a shard that hangs delays no other shard, and a slow one gets larger batches. One that
    stays silent is suspended: queries go on without it, and it is tried again beside them until it answers.

    Args:
        version: What the shards hold.
        shards: One for each of its shards.
        settings: Of the server.
        clock: Seconds, what deadlines are compared with.
        observer: Hears of batches and shards.
        absent: Shards that count as suspended from the beginning.
        live: What the log has changed of the version; None where none is followed.

    Raises:
        Conflict: The version has another number of shards.
    """

    def __init__(
        self,
        version: ServedVersion,
        shards: Sequence[ShardService],
        settings: ServeSettings,
        clock: Callable[[], float],
        observer: Observer | None = None,
        absent: Sequence[int] = (),
        live: "LiveIndex | None" = None,
    ) -> None:
        if len(version.counts) != len(shards):
            raise Conflict(
                f"version {version.name} has {len(version.counts)} shards, but this server was started with "
                f"{len(shards)}; restart it to serve this version"
            )
        self._version = version
        self.clock = clock
        """Seconds, what deadlines are compared with."""
        self.live = live
        """What the log has changed of the version."""
        budget = Budget(settings.hedge_budget, len(shards))
        observer = observer or NullObserver()
        self._clients: list[ShardClient] = []
        for number, shard in enumerate(shards):
            self._clients.append(
                ShardClient(number, shard, version.name, settings, clock, observer, budget, self._clients)
            )
        self._prompt_searches = PromptSearches(self._clients, settings.max_batch, clock)
        for number in absent:
            self._clients[number].suspend()

    @property
    def version(self) -> ServedVersion:
        """What the shards hold, as it is now."""
        return self._version if self.live is None else self.live.version

    @property
    def shards(self) -> int:
        """How many there are."""
        return len(self._clients)

    @property
    def waiting(self) -> int:
        """Queries that wait for the shard that most wait for."""
        return max((client.waiting for client in self._clients), default=0)

    async def search(self, pending: PendingQuery) -> tuple[dict[int, ShardResult], dict[int, str]]:
        """Search all shards for one query until its deadline.

        Returns results, and why shards are missing, both by shard number. Raises Overloaded when a shard has too many
        queries waiting, DeadlineExceeded when none answered in time, Unavailable when none answered.
        """
        results, errors = await self._prompt_searches.search(pending)
        await self._search_others(pending, results, errors)
        missing = {number: _reason(error) for number, error in errors.items()}
        if not results:
            overloaded = [error for error in errors.values() if isinstance(error, Overloaded)]
            if len(overloaded) == len(errors):
                raise overloaded[0]
            if set(missing.values()) == {"deadline"}:  # asking again with as little time would end in the same way
                raise DeadlineExceeded("no shard answered within the deadline; allow more time")
            if "behind" in missing.values():
                raise DeadlineExceeded(f"no shard has seen what was asked for ({describe(missing)}); allow more time")
            raise Unavailable(f"no shard answered ({describe(missing)}); try again", retry_after_s=1)
        return results, missing

    async def _search_others(
        self, pending: PendingQuery, results: dict[int, ShardResult], errors: dict[int, BaseException]
    ) -> None:
        """Search the shards that have neither a result nor an error yet, and add theirs."""
        futures: dict[int, asyncio.Future[ShardResult]] = {}
        try:
            for number, client in enumerate(self._clients):
                if number in results or number in errors:
                    continue
                if client.is_suspended:
                    errors[number] = Suspended()
                    client.probe(pending)
                else:
                    futures[number] = client.search(pending)
            if futures:
                await asyncio.wait(futures.values())
        finally:
            for future in futures.values():
                future.cancel()
        for number, future in futures.items():
            error = future.exception()
            if error is None:
                results[number] = future.result()
            else:
                errors[number] = error

    async def fetch(
        self, candidates: Iterable[Candidate], deadline: float, with_vectors: bool = False
    ) -> tuple[dict[RowRef, tuple[Passage, FloatArray | None]], dict[int, str]]:
        """Fetch the passages of candidates, and their vectors if asked for, until an absolute deadline.

        Only shards that hold candidates are asked. Returns passages and vectors by row, and why shards are missing by
        shard number. Raises InvalidArgument when the index kind has no vectors to give.
        """
        return await self.fetch_rows((candidate.ref for candidate in candidates), deadline, with_vectors)

    async def fetch_rows(
        self, refs: Iterable[RowRef], deadline: float, with_vectors: bool
    ) -> tuple[dict[RowRef, tuple[Passage, FloatArray | None]], dict[int, str]]:
        """Fetch the passages of rows; otherwise as `fetch`."""
        rows = _rows_by_shard(refs)
        fetches, missing = await _gather(
            {number: self._clients[number].fetch(part, deadline, with_vectors) for number, part in rows.items()}
        )
        passages: dict[RowRef, tuple[Passage, FloatArray | None]] = {}
        for number, fetched in fetches.items():
            vectors = [None] * len(rows[number]) if fetched.vectors is None else list(fetched.vectors)
            for row, passage, vector in zip(rows[number], fetched.passages, vectors, strict=True):
                passages[RowRef(number, row)] = passage, vector
        return passages, missing

    async def score(
        self, query: TextVectors, candidates: Iterable[Candidate], deadline: float
    ) -> tuple[dict[RowRef, float], dict[int, str]]:
        """Score candidates with the token vectors of their shards until an absolute deadline.

        Returns scores by row, and why shards are missing by shard number. Raises InvalidArgument when the index kind
        cannot give the vectors that are part of the score.
        """
        rows = _rows_by_shard(candidate.ref for candidate in candidates)
        calls, missing = await _gather(
            {number: self._clients[number].score(query, part, deadline) for number, part in rows.items()}
        )
        scores: dict[RowRef, float] = {}
        for number, part in calls.items():
            scores.update(zip((RowRef(number, row) for row in rows[number]), part.tolist(), strict=True))
        return scores, missing

    async def locate(
        self, ids: Sequence[str], deadline: float, min_position: int = 0
    ) -> tuple[dict[str, RowRef], dict[int, str]]:
        """Find the rows of ids until a deadline, in all shards, once they have seen a position of the log.

        All are asked, because the pieces of a text lay in other shards before November 2026. Returns the rows of those
        that were found, and why shards are missing by shard number.
        """
        calls, missing = await _gather(
            {number: client.locate(ids, deadline, min_position) for number, client in enumerate(self._clients)}
        )
        refs: dict[str, RowRef] = {}
        for number, rows in calls.items():
            refs |= {id_: RowRef(number, row) for id_, row in zip(ids, rows, strict=True) if row >= 0}
        return refs, missing

    async def list_ids(
        self, prefix: str, after: str | None, limit: int, deadline: float, min_position: int = 0
    ) -> tuple[list[list[str]], dict[int, str]]:
        """List the first ids of every shard that begin with a prefix and come after an id, until a deadline.

        The shards have seen a position of the log by then. Returns the list of each shard that answered, and why the
        others are missing by shard number.
        """
        calls, missing = await _gather(
            {
                number: client.list_ids(prefix, after, limit, deadline, min_position)
                for number, client in enumerate(self._clients)
            }
        )
        return list(calls.values()), missing

    async def ask(
        self, questions: Mapping[int, ShardQuestion[T]], deadline: float
    ) -> tuple[dict[int, T], dict[int, str]]:
        """Ask shards about their rows, each by its number what is meant for it, until a deadline.

        Returns their answers, and why shards are missing, both by shard number.
        """
        return await _gather(
            {number: self._clients[number].ask(asked, deadline) for number, asked in questions.items()}
        )

    async def ask_all(self, question: ShardQuestion[T], deadline: float) -> tuple[dict[int, T], dict[int, str]]:
        """Ask every shard the same; otherwise as `ask`."""
        return await self.ask(dict.fromkeys(range(self.shards), question), deadline)

    def coverage(self, missing: Mapping[int, str]) -> Coverage:
        """Name the part of the index that answered."""
        total = self.version.count_passages()
        return Coverage(
            shards=len(self._clients),
            answered=len(self._clients) - len(missing),
            fraction=1 - self.version.count_passages(missing) / total if total else 1.0,
            missing=tuple(MissingShard(number, reason) for number, reason in sorted(missing.items())),
        )


async def _gather(calls: Mapping[int, Awaitable[T]]) -> tuple[dict[int, T], dict[int, str]]:
    """Await one call to each of some shards.

    Returns results, and why shards are missing, both by shard number. Raises InvalidArgument if any does: it would
    come from all.
    """
    outcomes = await asyncio.gather(*calls.values(), return_exceptions=True)
    results: dict[int, T] = {}
    missing: dict[int, str] = {}
    for number, outcome in zip(calls, outcomes, strict=True):
        if isinstance(outcome, InvalidArgument):
            raise outcome
        if isinstance(outcome, BaseException):
            missing[number] = _reason(outcome)
        else:
            results[number] = outcome
    return results, missing


def _rows_by_shard(refs: Iterable[RowRef]) -> dict[int, list[int]]:
    """The rows by shard, each in their order."""
    rows: dict[int, list[int]] = {}
    for ref in refs:
        rows.setdefault(ref.shard, []).append(ref.row)
    return rows


def _reason(error: BaseException) -> str:
    if isinstance(error, Suspended):
        return "suspended"
    if isinstance(error, Behind):
        return "behind"
    if isinstance(error, DeadlineExceeded | TimeoutError):
        return "deadline"
    if isinstance(error, Overloaded):
        return "overloaded"
    return "unreachable" if isinstance(error, Unavailable) else "error"
