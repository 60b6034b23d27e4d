"""How much was written to an index that no version holds yet: when to compact it, and when to take no more."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shoal.index_root.digests import document_digests
from shoal.index_root.log_entry import LogEntry
from shoal.index_root.manifest import Manifest
from shoal.settings import BacklogSettings, DueLimitSettings


class EntryReader(Protocol):
    """The part of the log that is counted (`shoal.index_root.log.Log`)."""

    def read(self, after: int, limit: int | None = None) -> Iterable[LogEntry]:
        """Yield entries in order, from the one behind a position on."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Counted:
    """What one entry adds. rows: int64 (shards,), passages that were written. replaced: passages that it hides."""

    position: int
    written_at: float
    rows: NDArray[np.int64]
    replaced: int
    bytes: int


class Backlog:
    """Counts what the log holds behind a version. Memory: some 200 bytes an entry; entries are read once.

    Threads may share it; what it says of an entry that is being added is that of before or after.

    Args:
        now: Seconds since 1970.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._entries: deque[_Counted] = deque()
        self._rows = np.zeros(0, np.int64)
        self._bytes = self._replaced = 0
        self._complete_to = self._position = 0
        self._passages = 0

    def begin(self, manifest: Manifest) -> None:
        """Count from a version on: entries behind it are added from now on, in their order."""
        with self._lock:
            self._go_to(manifest)

    def follow(self, manifest: Manifest, log: EntryReader) -> None:
        """Look at the version that is current now, and at what was written since the last look.

        Raises what `shoal.index_root.log.Log.read` raises; what was counted until then stays.
        """
        with self._lock:
            self._go_to(manifest)
            for entry in log.read(self._position):
                self._add(entry)

    def add(self, entry: LogEntry) -> None:
        """Count an entry, the one behind the last; one that was counted is left alone."""
        with self._lock:
            self._add(entry)

    def _go_to(self, manifest: Manifest) -> None:
        """Leave out what a version holds. What is not known of what it does not hold is read anew."""
        known = self._complete_to <= manifest.complete_to <= self._position
        if len(manifest.shards) != len(self._rows) or not known:
            self._entries.clear()
            self._rows = np.zeros(len(manifest.shards), np.int64)
            self._bytes = self._replaced = 0
            self._position = manifest.complete_to
        self._complete_to = manifest.complete_to
        self._passages = manifest.counts.passages
        while self._entries and self._entries[0].position <= manifest.complete_to:
            self._total(self._entries.popleft(), -1)

    def _add(self, entry: LogEntry) -> None:
        if entry.position <= self._position:
            return
        written = [write for write in entry.documents if write.passages]
        shards = document_digests(write.document for write in written) % np.uint64(max(1, len(self._rows)))
        passages = np.array([len(write.passages) for write in written], np.int64)
        rows = np.bincount(shards.astype(np.int64), weights=passages, minlength=len(self._rows)).astype(np.int64)
        size = sum(
            len(passage.text.encode()) + passage.vector.nbytes + (0 if passage.codes is None else passage.codes.nbytes)
            for write in written
            for passage in write.passages
        )
        replaced = sum(write.retired.passages for write in entry.documents)
        counted = _Counted(entry.position, entry.written_at, rows, replaced, size)
        self._entries.append(counted)
        self._total(counted, 1)
        self._position = entry.position

    def _total(self, entry: _Counted, sign: int) -> None:
        self._rows = self._rows + sign * entry.rows  # replaced whole, for whoever reads it meanwhile
        self._bytes += sign * entry.bytes
        self._replaced += sign * entry.replaced

    @property
    def rows(self) -> int:
        """Passages that were written to the shard that most were written to."""
        return int(self._rows.max(initial=0))

    @property
    def bytes(self) -> int:
        """Bytes of all that was written."""
        return self._bytes

    @property
    def oldest_s(self) -> float:
        """Seconds that the oldest write has waited; 0 without any."""
        with self._lock:
            return max(0.0, self._now() - self._entries[0].written_at) if self._entries else 0.0

    @property
    def replaced(self) -> int:
        """Passages that later writes have replaced or deleted."""
        return self._replaced

    def due(self, limits: DueLimitSettings) -> str | None:
        """Say why it is worth compacting now; None if it is not."""
        if not self._entries:
            return None
        if self.rows >= limits.due_rows:
            return f"{self.rows:,} passages were written to one shard"
        if self.bytes >= limits.due_mib * 2**20:
            return f"{self.bytes / 2**20:,.0f} MiB were written"
        if self.replaced >= limits.due_replaced * max(1, self._passages):
            return f"{self.replaced:,} of {self._passages:,} passages were replaced or deleted"
        if self.oldest_s >= limits.due_hours * 3600:
            return f"the oldest write has waited {self.oldest_s / 3600:.0f} hours"
        return None

    def excess(self, limits: BacklogSettings) -> str | None:
        """Say why no more should be taken until something is compacted; None if there is room."""
        if self.rows >= limits.max_backlog_rows:
            return f"{self.rows:,} passages that were written to one shard are not compacted yet (max_backlog_rows)"
        if self.bytes >= limits.max_backlog_mib * 2**20:
            return f"{self.bytes / 2**20:,.0f} MiB that were written are not compacted yet (max_backlog_mib)"
        return None
