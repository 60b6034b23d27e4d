"""Writes documents to an index that is served: prepares requests side by side, and appends those that wait together.

A request is prepared against a position of the log: its records are checked, what the shards hold of them is looked
up, and what has changed is encoded. Then it is decided against the last position, in the order of the log: keys,
conditions, what is unchanged. Nothing is acknowledged before it is durable.
"""

import logging
import math
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol, TypeVar

from shoal.errors import DeadlineExceeded, InvalidArgument, Overloaded, ShoalError
from shoal.filters import Filter
from shoal.index_root.log import clock
from shoal.index_root.log_entry import LogEntry, LoggedRequest
from shoal.metadata import FieldTypes
from shoal.search.batching import Batcher
from shoal.search.services import EmbedService
from shoal.shard import live_fields
from shoal.system.threads import Threads
from shoal.writing.draft import EntryDraft, Outcome, PreparedRequest, repeated
from shoal.writing.encoding import PassageEncoder
from shoal.writing.prepare import Preparation
from shoal.writing.requests import (
    Attempt,
    Deleted,
    DeleteRequest,
    Updated,
    UpdateRequest,
    WriteRequest,
    Written,
)
from shoal.writing.states import RECENT_BYTES, RecentWrites, WritableVersion

GROUP_BYTES = 16 * 2**20
"""Bytes of the requests of one entry, unless one alone has more."""
GROUP_DOCUMENTS = 2_000
"""Documents of the requests of one entry, unless one alone has more."""
MOST_REPEATS = 20
"""How often a request is prepared, because others have written what it was made from, before it is refused."""
COMPACT_S = 10.0
"""Seconds after which a request may be repeated that was refused because too much is not compacted."""

logger = logging.getLogger(__name__)

A = TypeVar("A", Written, Deleted, Updated)


class EntryAppender(Protocol):
    """The log, as far as a writer needs it (`shoal.index_root.log_writer`)."""

    @property
    def position(self) -> int:
        """The last position that was applied."""
        ...

    def append(self, make_entry: Callable[[int], LogEntry], apply: Callable[[LogEntry], None]) -> LogEntry:
        """Make an entry for the position behind all that was applied, and apply it once it is durable.

        It is made anew, once they were applied, where others were faster. What `make_entry` raises is raised, and
        nothing written. Raises Unavailable where the log cannot be reached, and DeadlineExceeded where it is not known
        whether it has the entry.
        """
        ...

    def catch_up(self, apply: Callable[[LogEntry], None]) -> None:
        """Apply every entry of the log that is not yet."""
        ...

    def write_segments(self, is_wanted: Callable[[], bool]) -> object:
        """Copy the entries that make full segments by now, unless that was done; end soon once it is not wanted."""
        ...

    def answered(self, key: str) -> tuple[int, LoggedRequest] | None:
        """Return the position and the request that a key was used for, as far as entries were applied."""
        ...


class _NothingToWriteError(Exception):
    """No request of a group changes anything."""


class Writer:
    """Writes to one index root. Its coroutines belong to one event loop.

    Args:
        log: Where entries are appended, for this writer alone. What it has applied, this writer need not know.
        encoder: Of passages; shared with queries.
        version: Gives the version that is served now.
        max_requests: Requests that may be under way; more are refused.
        recent_bytes: Bytes of the latest writes that it keeps.
        on_entry: Hears of every entry, in the thread that appends.
        excess: Says why no more should be taken until something is compacted; None if there is room.
    """

    def __init__(
        self,
        log: EntryAppender,
        encoder: EmbedService,
        version: Callable[[], WritableVersion],
        *,
        max_requests: int,
        recent_bytes: int = RECENT_BYTES,
        on_entry: Callable[[LogEntry], None] = lambda entry: None,
        excess: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._log = log
        self._recent = RecentWrites(log.position, recent_bytes)
        self._version = version
        self._on_entry = on_entry
        self._excess = excess
        self._max_requests = max_requests
        self._under_way = 0
        self._fields: FieldTypes = {}
        self._encoder = PassageEncoder(encoder)
        self._current: Preparation | None = None
        self._switching = threading.Lock()
        self._preparing = Threads(1, "writer")
        self._appending = Threads(1, "log")  # one: positions are tried in their order
        self._copying = Threads(1, "segments")
        self._copies: Future[None] | None = None
        self._closing = threading.Event()
        self._groups: Batcher[PreparedRequest, Outcome] = Batcher(
            self._append_group,
            max_batch=max_requests,
            max_waiting=max_requests,
            fits=_fits,
            name="log",
        )
        self._preparation()  # entries may come before the first request

    @property
    def position(self) -> int:
        """The last position that this writer knows."""
        return self._recent.position

    def catch_up(self) -> None:
        """Apply what others have written, in this thread; for once, before the first request."""
        self._log.catch_up(self._apply)

    async def write(self, request: WriteRequest) -> Written:
        """Write records, each in the place of the one with its id; all of them, or none.

        Raises InvalidArgument that names every record at fault, Conflict for a condition that does not hold, KeyReused,
        Overloaded, Unavailable, and DeadlineExceeded, after which the same request may be repeated with its key.
        """
        return await self._run(request, Written, lambda made, position: made.write(request, position))

    async def delete(self, request: DeleteRequest, tree: Filter | None = None) -> Deleted:
        """Delete records by their ids, or those that fulfil a filter. Raises as `write`."""
        return await self._run(request, Deleted, lambda made, position: self._deletion(made, request, tree, position))

    async def update(self, request: UpdateRequest) -> Updated:
        """Change metadata or vectors of records, which stay as they are otherwise. Raises as `write`."""
        return await self._run(request, Updated, lambda made, position: made.update(request, position))

    def close(self) -> Sequence[Threads]:
        """End the threads, once what they append is there; returns them, for whoever waits until they have ended."""
        self._closing.set()
        ending = (self._preparing, self._appending, self._copying)
        for threads in ending:
            threads.close()
        return ending

    async def _deletion(
        self, preparation: Preparation, request: DeleteRequest, tree: Filter | None, position: int
    ) -> PreparedRequest:
        if request.ids is not None:
            return await preparation.delete(request, position)
        # By the end of the log, not by what this writer has seen of it.
        await self._appending.run(request.deadline, self._log.catch_up, self._apply)
        return await preparation.delete_selected(request, tree, self._recent.position)

    async def _run(
        self, attempt: Attempt, kind: type[A], prepare: Callable[[Preparation, int], Awaitable[PreparedRequest]]
    ) -> A:
        if self._under_way >= self._max_requests:
            raise Overloaded(
                f"{self._under_way} writes are under way, which is the limit of this server; try again later",
                retry_after_s=1,
            )
        self._under_way += 1
        try:
            for _ in range(MOST_REPEATS):
                outcome = await self._attempt(attempt, kind, prepare)
                if isinstance(outcome, kind):
                    return outcome
                if isinstance(outcome, ShoalError):
                    raise outcome
        finally:
            self._under_way -= 1
        raise Overloaded("others keep writing the same documents; try again later", retry_after_s=1)

    async def _attempt(
        self, attempt: Attempt, kind: type[A], prepare: Callable[[Preparation, int], Awaitable[PreparedRequest]]
    ) -> Outcome:
        if (key := attempt.log_key) is not None:
            known = await self._appending.run(attempt.deadline, self._answered, key)
            if known is not None:
                return repeated(known, attempt.body_digest, kind)
        if (excess := self._excess()) is not None:  # after the keys: what was written is answered
            raise Overloaded(
                f"{excess}; run `shoal compact` on the index root of this server, and try again",
                retry_after_s=COMPACT_S,
            )
        preparation = self._preparation()
        with self._recent.hold() as position:
            prepared = await prepare(preparation, position)
            try:
                return await self._groups.submit(prepared, attempt.deadline)
            except DeadlineExceeded:
                raise DeadlineExceeded(
                    "the deadline passed before it was known whether this was written; repeat it with the same "
                    "Idempotency-Key, which writes nothing twice"
                ) from None

    def _answered(self, key: str) -> LoggedRequest | None:
        answered = self._log.answered(key)
        return None if answered is None else answered[1]

    def _preparation(self) -> Preparation:
        """What prepares requests for the version that is served now."""
        version = self._version()
        with self._switching:
            if self._current is None or self._current.version is not version:
                self._fields = {**self._fields, **version.manifest.fields}
                self._recent.begin_behind(version.manifest.complete_to)
                self._current = Preparation(version, self._encoder, self._recent, self._preparing, lambda: self._fields)
            return self._current

    async def _append_group(self, group: list[PreparedRequest]) -> Sequence[Outcome]:
        outcomes = await self._appending.run(math.inf, self._append, group)
        if self._copies is None or self._copies.done():
            self._copies = self._copying.begin(self._write_segments)  # which may read a thousand entries
        return outcomes

    def _append(self, group: Sequence[PreparedRequest]) -> Sequence[Outcome]:
        """Append an entry for those of a group that change anything, and return what became of each."""
        outcomes: list[Outcome] = []

        def make_entry(position: int) -> LogEntry:
            basis = self._preparation().basis
            draft = EntryDraft(position, self._recent, self._answered, self._fields, basis, clock())
            outcomes[:] = [draft.add(request) for request in group]
            if draft.is_empty:
                raise _NothingToWriteError
            return draft.entry()

        while True:
            try:
                self._log.append(make_entry, self._apply)
            except _NothingToWriteError:
                # Others may have written what nothing of this group has seen, and no lost race tells of it.
                decided_at = self.position
                self._log.catch_up(self._apply)
                if self.position > decided_at:
                    continue
            return outcomes

    def _write_segments(self) -> None:
        """Copy entries that belong together, for whoever replays the log. Nothing depends on it."""
        try:
            self._log.write_segments(lambda: not self._closing.is_set())
        except ShoalError as error:
            logger.warning("segments of the log were not written, which is tried again: %s", error)

    def _apply(self, entry: LogEntry) -> None:
        """Take an entry into account, whoever has appended it."""
        with suppress(InvalidArgument):  # of a version that knew a field by another type
            self._fields = live_fields.after(self._fields, [entry])
        self._recent.add(entry)
        self._on_entry(entry)


def _fits(group: list[PreparedRequest], request: PreparedRequest) -> bool:
    documents = sum(len(each.changes) for each in group) + len(request.changes)
    return documents <= GROUP_DOCUMENTS and sum(each.nbytes for each in group) + request.nbytes <= GROUP_BYTES
