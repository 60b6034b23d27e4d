"""The log of an index root: what was written while it was served, in an order that all writers and readers share.

Entries are created if absent, each at the position after the last, so the store itself orders the writers
(docs/decisions/0013-log-created-if-absent.md). `shoal.index_root.log_writer` appends.
"""

import re
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile

from shoal.errors import CorruptIndex, InvalidArgument, NotFound, Unavailable
from shoal.index_root import layout
from shoal.index_root.entry_store import CreateOutcome, EntryStore
from shoal.index_root.local_entry_store import LocalEntryStore
from shoal.index_root.log_entry import LogEntry, decode_entry
from shoal.index_root.log_segments import read_segment, segment_ranges
from shoal.index_root.storage import Storage

FLOOR_VALID_S = 60.0
"""Seconds for which it is known that no entry above the floor was removed: removal comes an hour after raising it."""
REMOVAL_DELAY_S = 3600.0
"""Seconds between raising the floor and removing what lies below it."""
KEY_LIFETIME_S = 3600.0
"""Seconds for which an entry stays above the floor at least, and with it the keys of its requests are known."""
_RETRY_AFTER_S = 5.0
"""Seconds after which a store that did not answer is worth another try."""
_FLOOR = re.compile(rf"{layout.LOG_FLOORS}(\d{{20}})")
"""Names of floors."""
_BEHIND = 32
"""Entries that a reader reads one by one before it looks whether segments hold the next ones."""


def clock() -> float:
    """Seconds that passed, those in which this machine slept included."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def open_entry_store(storage: Storage) -> EntryStore:
    """Open the store of a root's log. Raises InvalidArgument for a root whose store cannot create files if absent."""
    if storage.is_local:
        return LocalEntryStore(storage)
    from shoal.index_root.object_entry_store import ObjectEntryStore

    return ObjectEntryStore(storage)


class Log:
    """Reads entries, and says which there are. Positions begin at 1; 0 is before the first. For one thread at a time.

    Args:
        store: Where the log lies.
        clock: Tells seconds that passed, also while this process or its machine slept.
    """

    def __init__(self, store: EntryStore, clock: Callable[[], float] = clock) -> None:
        self.store = store
        self.clock = clock
        self._floor = 0
        self._floor_at = float("-inf")

    @classmethod
    def open(cls, root: Storage | str) -> "Log":
        """Open the log of an index root, which may have none yet. Raises InvalidArgument for a store that cannot."""
        return cls(open_entry_store(Storage(root) if isinstance(root, str) else root))

    def floor(self) -> int:
        """Look up to which position entries may be gone; 0 if none are."""
        looked = self.clock()
        self._floor, self._floor_at = max((position for position, _ in self._floors()), default=0), looked
        return self._floor

    def _floors(self) -> list[tuple[int, str]]:
        """Every floor that was set and was not removed since, with its name."""
        names = self.store.names(layout.LOG_FLOORS)
        return [(int(found[1]), name) for name in names if (found := _FLOOR.fullmatch(name))]

    def known_floor(self) -> int:
        """The floor as it was at most FLOOR_VALID_S ago: what lies above it was certainly not removed until now."""
        return self._floor if self.clock() - self._floor_at <= FLOOR_VALID_S else self.floor()

    def end(self, after: int = 0) -> int:
        """Look for the position of the last entry; that of the floor, or 0, where there is none above it.

        Args:
            after: A position that is known to have been reached, from which the search begins.
        """
        while True:
            low = max(after, self.known_floor())
            end = self._last_of_run(low)
            if max(after, self.known_floor()) == low:
                return end

    def _last_of_run(self, low: int) -> int:
        """The last position of the entries that follow each other from low + 1; low if there is none there."""
        step = 1
        while self.store.exists(layout.log_entry(low + step)):
            low, step = low + step, step * 2
        high = low + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.store.exists(layout.log_entry(middle)) else (low, middle)
        return low

    def look(self, position: int) -> LogEntry | None:
        """Read what lies at a position, even one that had been removed; None if nothing does. Raises CorruptIndex."""
        data = self.store.read(layout.log_entry(position))
        return None if data is None else self._decoded(data, position)

    def read(self, after: int, limit: int | None = None) -> Iterator[LogEntry]:
        """Read the entries behind a position in their order, until there are no more; at most `limit` of them.

        Raises:
            CorruptIndex: An entry is not as it was written. All before it were given out.
            NotFound: The entry that follows may have been removed: a version that is complete up to a later
                position has to be opened.
        """
        position, end = after, None if limit is None else after + limit
        segments: list[tuple[int, int]] | None = None
        while end is None or position < end:
            read = position - after
            if segments is None and read >= _BEHIND:
                segments = segment_ranges(self.store)
            files = self._files(position, read + 1 if end is None else min(read + 1, end - position), segments or [])
            if not files:
                return
            for data in files[: None if end is None else end - position]:
                position += 1
                yield self._decoded(data, position)

    def _files(self, position: int, count: int, segments: list[tuple[int, int]]) -> list[bytes]:
        """Read some of the files behind a position that are there, all at once; without a segment at most `count`."""
        for first, last in segments:
            if first <= position + 1 <= last:
                name = layout.log_segment(first, last)
                if (data := self.store.read(name)) is not None:
                    files = read_segment(data, first, last, self.store.place(name))[position + 1 - first :]
                    self.require_kept(position + 1)
                    return files
        names = [layout.log_entry(position + 1 + number) for number in range(min(count, self.store.read_ahead))]
        if len(names) > 1:
            with ThreadPoolExecutor(len(names)) as pool:
                read = list(pool.map(self.store.read, names))
        else:
            read = [self.store.read(name) for name in names]
        self.require_kept(position + 1)
        return [data for data in takewhile(lambda data: data is not None, read) if data is not None]

    def raise_floor(self, position: int) -> None:
        """Say that entries up to a position may be removed: every version that may be opened holds what they wrote.

        Entries of the last hour stay above the floor, so that the keys of their requests are known for so long.
        Raises InvalidArgument for a position behind the end of the log.
        """
        floor = self.floor()
        if position > floor and position > (end := self.end(floor)):
            raise InvalidArgument(f"the log ends at position {end}, so its floor cannot be {position}")
        if position <= floor or (raised := self.older(KEY_LIFETIME_S, floor, position)) == floor:
            return
        if self.store.create(layout.log_floor(raised), b"") is CreateOutcome.UNKNOWN:
            raise Unavailable(f"{self.store.place('log')} did not answer; try again", retry_after_s=_RETRY_AFTER_S)
        self.floor()

    def older(self, age_s: float, low: int, high: int) -> int:
        """Look for the last entry behind `low`, up to `high`, that is `age_s` seconds old or more; `low` if none is."""
        before = self._now() - age_s
        while low < high:
            middle = (low + high + 1) // 2
            written = self.store.written_at(layout.log_entry(middle))
            low, high = (middle, high) if written is not None and written <= before else (low, middle - 1)
        return low

    def prune(self) -> list[str]:
        """Remove what lies below a floor that was raised an hour ago, and return the names; nothing else is touched.

        An hour, so that who was told of the floor before it was raised, or read just above the one before, has noticed.
        """
        floors, now = self._floors(), self._now()
        ages = ((floor, self.store.written_at(name)) for floor, name in floors)
        floor = max((floor for floor, at in ages if at is not None and now - at >= REMOVAL_DELAY_S), default=0)
        entries = takewhile(lambda name: name <= layout.log_entry(floor), self.store.names(layout.LOG_ENTRIES))
        segments = [layout.log_segment(*each) for each in segment_ranges(self.store) if each[1] <= floor]
        # Floors last: without them a reader would take the end of what was removed for that of the log.
        names = [*entries, *segments, *(name for position, name in floors if position < floor)]
        for name in names:
            self.store.delete(name)
        return names

    def _now(self) -> float:
        """The time by the clock of the store, which also says when a floor was raised."""
        name = f"{layout.LOG_PROBES}{secrets.token_hex(16)}"
        try:
            outcome, now = self.store.create(name, b""), self.store.written_at(name)
        finally:
            self.store.delete(name)
        if outcome is CreateOutcome.UNKNOWN or now is None:
            raise Unavailable(f"{self.store.place('log')} did not answer; try again", retry_after_s=_RETRY_AFTER_S)
        return now

    def require_kept(self, position: int) -> None:
        """Raise NotFound unless what was just read at a position, or not found there, lies above the floor."""
        if position <= (floor := self.known_floor()):
            raise NotFound(
                f"{self.store.place('log')}: entries up to {floor} may have been removed; open the current version, "
                "which holds what they wrote"
            )

    def _decoded(self, data: bytes, position: int) -> LogEntry:
        place = self.store.place(layout.log_entry(position))
        entry = decode_entry(data, place)
        if entry.position != position:
            raise CorruptIndex(f"{place} is the entry of position {entry.position}; restore it")
        return entry
