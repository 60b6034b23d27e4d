"""How much was written to an index that no version holds yet: when to compact it, and when to take no more."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.index_root.digests import document_digests
from shoal.index_root.log_entry import LogEntry
from shoal.index_root.manifest import Manifest
from shoal.indexing.last_writes import EntryReader
from shoal.settings import DueSettings

MOST_ROWS = 100_000
"""Passages that were written to one shard, from which on no more should be taken until it is compacted."""
MOST_BYTES = 2 * 2**30
"""Bytes, from which on no more should be taken."""


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

    Args:
        now: Seconds since 1970.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._entries: deque[_Counted] = deque()
        self._shards = 0
        self._position = 0
        self._passages = 0

    def follow(self, manifest: Manifest, log: EntryReader) -> None:
        """Look at the version that is current now, and at what was written since the last look.

        Raises what `shoal.index_root.log.Log.read` raises; what was counted until then stays.
        """
        shards = len(manifest.shards)
        if shards != self._shards or manifest.complete_to > self._position:
            self._entries.clear()
            self._shards, self._position = shards, manifest.complete_to
        self._passages = manifest.counts.passages
        for entry in log.read(self._position):
            self.add(entry)
        while self._entries and self._entries[0].position <= manifest.complete_to:
            self._entries.popleft()

    def add(self, entry: LogEntry) -> None:
        """Count an entry, the one behind the last."""
        written = [write for write in entry.documents if write.passages]
        shards = document_digests(write.document for write in written) % np.uint64(max(1, self._shards))
        passages = np.array([len(write.passages) for write in written], np.int64)
        rows = np.bincount(shards.astype(np.int64), weights=passages, minlength=self._shards).astype(np.int64)
        size = sum(
            len(passage.text.encode()) + passage.vector.nbytes + (0 if passage.codes is None else passage.codes.nbytes)
            for write in written
            for passage in write.passages
        )
        replaced = sum(write.retired.passages for write in entry.documents)
        self._entries.append(_Counted(entry.position, entry.written_at, rows, replaced, size))
        self._position = entry.position

    @property
    def rows(self) -> int:
        """Passages that were written to the shard that most were written to."""
        return int(sum((entry.rows for entry in self._entries), np.zeros(self._shards, np.int64)).max(initial=0))

    @property
    def bytes(self) -> int:
        """Bytes of all that was written."""
        return sum(entry.bytes for entry in self._entries)

    @property
    def oldest_s(self) -> float:
        """Seconds that the oldest write has waited; 0 without any."""
        return max(0.0, self._now() - self._entries[0].written_at) if self._entries else 0.0

    @property
    def replaced(self) -> int:
        """Passages that later writes have replaced or deleted."""
        return sum(entry.replaced for entry in self._entries)

    def due(self, limits: DueSettings) -> str | None:
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

    def excess(self) -> str | None:
        """Say why no more should be taken until something is compacted; None if there is room."""
        if self.rows >= MOST_ROWS:
            return f"{self.rows:,} passages that were written to one shard are not compacted yet"
        if self.bytes >= MOST_BYTES:
            return f"{self.bytes / 2**20:,.0f} MiB that were written are not compacted yet"
        return None
