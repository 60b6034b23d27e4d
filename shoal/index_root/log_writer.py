"""Appends entries to the log. docs/decisions/0013-log-created-if-absent.md tells why it is done in these steps."""

import time
from collections.abc import Callable

from shoal.errors import DeadlineExceeded, Unavailable
from shoal.index_root import layout
from shoal.index_root.entry_store import CreateOutcome, check_conditional_create
from shoal.index_root.log import KEY_LIFETIME_S, Log
from shoal.index_root.log_entry import LogEntry, LoggedRequest, encode_entry
from shoal.index_root.log_segments import SEGMENT_ENTRIES, segment_ranges, write_thousand
from shoal.index_root.storage import Storage

PATIENCE_S = 30.0
"""Seconds after which a writer gives up to find out whether an entry was written."""
_FIRST_WAIT_S = 0.05
"""Seconds before a writer asks a store again that did not answer; doubled each time."""
_LONGEST_WAIT_S = 2.0
"""Seconds between two such attempts, at most."""

Apply = Callable[[LogEntry], None]


class LogWriter:
    """Appends entries behind those that it has read. For one thread at a time; any number of them write one log.

    Args:
        log: The log, of this writer alone.
        position: Up to which the caller knows what was written: that of the version it serves, or 0.
        sleep: Waits so many seconds.
    """

    def __init__(self, log: Log, position: int, sleep: Callable[[float], None] = time.sleep) -> None:
        self.log = log
        self.position = position
        self._sleep = sleep
        self._requests: dict[str, tuple[float, int, LoggedRequest]] = {}
        self._thousands: int | None = None

    @classmethod
    def open(cls, root: Storage | str, position: int) -> "LogWriter":
        """Open the log of an index root to write to it: the keys of the last hour are known, leftovers are removed.

        Raises InvalidArgument for a store that does not create files only if absent, NotFound where more than the
        position may have been removed, and Unavailable.
        """
        log = Log.open(root)
        check_conditional_create(log.store)
        log.store.clean()
        writer = cls(log, position)
        writer.learn_keys()
        return writer

    def catch_up(self, apply: Apply) -> None:
        """Apply every entry behind the last that was applied, in their order. Raises as `Log.read`."""
        for entry in self.log.read(self.position):
            self._take(entry, apply)

    def append(self, make_entry: Callable[[int], LogEntry], apply: Apply, patience_s: float = PATIENCE_S) -> LogEntry:
        """Write an entry behind all others, durably, and apply it after these.

        Args:
            make_entry: Makes the entry for a position, with a nonce of its own, from what was applied up to there. It
                is asked again for the next position whenever another writer was faster. What it raises is raised, and
                nothing is written.
            apply: Is given every entry once, this one last, in the order of their positions.
            patience_s: Seconds for which a store is asked again that does not answer.

        Raises:
            Unavailable: The store cannot be reached, and nothing was written.
            DeadlineExceeded: Nobody knows whether the entry was or will be written. A request with a key may be
                repeated: `answered` knows it if it was.
            CorruptIndex, NotFound: As `Log.read`.

        A request that came in an hour before, while this process was paused, must not be in the entry: its key may be
        forgotten by now.
        """
        self._forget()
        while True:
            position = self.position + 1
            self.log.require_kept(position)
            entry = make_entry(position)
            if entry.position != position:
                raise ValueError(f"an entry for position {position} was asked for, and one for {entry.position} made")
            written = self._settle(entry, patience_s)
            if written.nonce == entry.nonce:
                self._require_kept(position)
                self._take(entry, apply)
                return entry
            self._take(written, apply)
            self.catch_up(apply)

    def answered(self, key: str) -> tuple[int, LoggedRequest] | None:
        """Look for a request with this key in what was applied, and in what `learn_keys` read.

        Returns its position and itself, durable by now; None if there is none, or it is older than an hour.
        """
        found = self._requests.get(key)
        if found is None:
            return None
        self.log.store.confirm()
        return found[1], found[2]

    def learn_keys(self) -> None:
        """Read the keys of what was written within the last hour and lies in the version that the caller serves."""
        floor = self.log.floor()
        self.log.require_kept(self.position + 1)
        if self.position > floor:
            first = self.log.older(KEY_LIFETIME_S, floor, self.position)
            for entry in self.log.read(first, self.position - first):
                self._learn(entry)

    def write_segments(self, is_wanted: Callable[[], bool] = lambda: True) -> list[tuple[int, int]]:
        """Copy the thousands of entries that are full by now, unless that was done; return their positions.

        Reads as many entries, so call it where nobody waits: any one thread may, beside the one that appends. It ends
        before the next entry, with the rest left to whoever calls it next, once `is_wanted` says so.
        """
        full = self.position // SEGMENT_ENTRIES
        if self._thousands is None:
            self._thousands = max((last for _, last in segment_ranges(self.log.store)), default=0) // SEGMENT_ENTRIES
        if full <= self._thousands:
            return []
        first = max(self._thousands, Log(self.log.store, self.log.clock).floor() // SEGMENT_ENTRIES)
        written = [each for number in range(first, full) for each in write_thousand(self.log.store, number, is_wanted)]
        if is_wanted():
            self._thousands = max(full, self._thousands)
        return written

    def _settle(self, entry: LogEntry, patience_s: float) -> LogEntry:
        """Write an entry at its position, and return what lies there durably in the end: it, or that of another writer.

        Whatever the store says but "created" is doubtful: its answer may be lost, its own client may have repeated what
        had succeeded, and an attempt without an answer may succeed later. What can be read at the position decides.
        """
        name, data = layout.log_entry(entry.position), encode_entry(entry)
        began, wait, doubtful = self.log.clock(), _FIRST_WAIT_S, False
        while True:
            try:
                outcome, there, reason = self._attempt(name, data, entry.position)
            except Unavailable as error:
                if not doubtful:
                    raise
                outcome, there, reason = CreateOutcome.UNKNOWN, None, error
            if outcome is CreateOutcome.CREATED:
                return entry
            doubtful = doubtful or outcome is CreateOutcome.UNKNOWN
            if there is not None and there.nonce != entry.nonce:
                self.log.require_kept(entry.position)
                return there
            if there is not None and outcome is CreateOutcome.EXISTS:
                return there
            if self.log.clock() - began > patience_s:
                raise self._unresolved(entry.position) from reason
            self._sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)

    def _attempt(
        self, name: str, data: bytes, position: int
    ) -> tuple[CreateOutcome, LogEntry | None, Unavailable | None]:
        """Create an entry, and where that did not certainly succeed read what lies there, or say why it cannot be read.

        Raises Unavailable where certainly nothing was written.
        """
        outcome = self.log.store.create(name, data)
        if outcome is CreateOutcome.CREATED:
            return outcome, None, None
        try:
            return outcome, self.log.look(position), None
        except Unavailable as error:
            return CreateOutcome.UNKNOWN, None, error

    def _require_kept(self, position: int) -> None:
        """Raise DeadlineExceeded where a position that was created may be one that had been removed.

        Only a writer that was paused for hours after it had looked at the floor meets that. Nobody reads what lies
        below the floor.
        """
        try:
            kept = position > self.log.known_floor()
        except Unavailable as error:
            raise self._unresolved(position) from error
        if not kept:
            raise self._unresolved(position)

    def _unresolved(self, position: int) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self.log.store.place(layout.log_entry(position))}: nobody knows yet whether this was written; repeat "
            "the request with the same Idempotency-Key"
        )

    def _take(self, entry: LogEntry, apply: Apply) -> None:
        apply(entry)
        self.position = entry.position
        self._learn(entry)

    def _learn(self, entry: LogEntry) -> None:
        now = self.log.clock()
        for request in entry.requests:
            if request.key is not None:
                self._requests.setdefault(request.key, (now, entry.position, request))

    def _forget(self) -> None:
        """Forget keys that were read more than an hour ago; never during an attempt, which may take as long."""
        now = self.log.clock()
        while self._requests and now - (first := next(iter(self._requests.items())))[1][0] > KEY_LIFETIME_S:
            del self._requests[first[0]]
