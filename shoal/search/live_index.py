"""What the log has changed of an index version, as a coordinator of searches knows it, and its shards here."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shoal.errors import Conflict, CorruptIndex
from shoal.index_root import layout
from shoal.index_root.cache import ShardCache
from shoal.index_root.digests import document_digests
from shoal.index_root.log import Log
from shoal.index_root.log_cover import other_models, require_models
from shoal.index_root.log_entry import DocumentWrite, LogEntry
from shoal.index_root.manifest import FileEntry, Manifest
from shoal.index_root.storage import Storage
from shoal.index_root.versions import file_problem
from shoal.lexical.live_statistics import CorpusTerms, LiveStatistics
from shoal.lexical.scoring import TermStatistics
from shoal.search.earlier_states import EarlierStates
from shoal.search.served_version import ServedVersion
from shoal.search.tail import IDLE_S, POLL_LOCAL_S, POLL_REMOTE_S, Tail
from shoal.shard import live_fields

if TYPE_CHECKING:  # it imports FAISS, which a coordinator does without
    from shoal.lexical.spelling import Speller
    from shoal.shard.live import LiveShard
    from shoal.shard.reader import Shard

ENTRIES_AT_ONCE = 256
"""Entries that are applied together at most; what waits becomes one run of each shard."""
_MOST_OFFERED = 8
"""Entries that this process holds for its tail at most; each may have megabytes, and can be read as well."""


@dataclass(frozen=True, slots=True)
class LiveDescription:
    """What was written since a version was built.

    Args:
        position: Up to which position of the log all is visible.
        complete_to: Up to which position the version itself holds all.
        passages: How many there are now.
        rows: Passages that were written since, those that have gone again among them.
        dead: Passages that have gone since.
        bytes: Of the texts, vectors and codes that were written since, about.
        oldest_s: Seconds since the first of these entries was written; None without one.
    """

    position: int
    complete_to: int
    passages: int
    rows: int
    dead: int
    bytes: int
    oldest_s: float | None


class LiveIndex:
    """The tail of one index version. Entries are applied in threads; all else belongs to one event loop.

    Args:
        storage: The index root.
        manifest: Of the version.
        cache: Where files of a remote root are kept on this machine; None for a local root.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        cache: ShardCache | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._storage = storage
        self._manifest = manifest
        self._cache = cache
        self._clock = clock
        self._lock = threading.Lock()
        self._log = Log.open(storage)
        self._earlier = EarlierStates(storage, manifest)
        self._opening = threading.Lock()
        self._statistics: LiveStatistics | None = None
        self.speller: Speller | None = None
        """What corrects queries; None until `open_speller`, and where nothing can."""
        self._terms_path: Path | None = None
        self._complete_to = self._applied = manifest.complete_to
        self._rows = self._dead = self._bytes = 0
        self._offered: dict[int, LogEntry] = {}
        self._oldest: float | None = None
        self.shards: list[LiveShard] = []
        """Those that lie in this process."""
        self.version = ServedVersion.of(manifest)
        """The version as it is now: its fields, and how many passages each shard has."""
        poll_s = POLL_LOCAL_S if storage.is_local else POLL_REMOTE_S
        self.tail = Tail(self.read, self.apply, manifest.complete_to, poll_s=poll_s, idle_s=IDLE_S)
        """What looks for entries."""

    @property
    def position(self) -> int | None:
        """Up to which position of the log all is seen; None where the log has no entry."""
        return self._applied or None

    def statistics_of(self, query: str, corrections: Mapping[str, str] | None = None) -> TermStatistics | None:
        """What the corpus says of the terms of a query; None as long as it is that of the version.

        Args:
            query: As it was typed.
            corrections: Terms by words of the query that were taken for others.
        """
        is_unchanged = self._applied == self._complete_to and not corrections
        if is_unchanged or self._manifest.lexical is None:
            return None
        return self._opened_statistics().of_query(query, corrections)

    @property
    def can_spell(self) -> bool:
        """Whether the version says which words its passages hold, as all do since December 2026."""
        return self._manifest.lexical is not None and self._terms_file() is not None

    def open_speller(self) -> "Speller":
        """Open what corrects queries, unless that is done. Raises CorruptIndex and OSError for a file that fails."""
        if self.speller is None:
            from shoal.lexical.spelling import Speller

            self.speller = Speller(self._opened_statistics())
        return self.speller

    def describe(self) -> LiveDescription:
        """Describe what was written since the version was built."""
        return LiveDescription(
            position=self._applied,
            complete_to=self._complete_to,
            passages=self.version.count_passages(),
            rows=self._rows,
            dead=self._dead,
            bytes=self._bytes,
            oldest_s=None if self._oldest is None else max(0.0, self._clock() - self._oldest),
        )

    def offer(self, entry: LogEntry) -> None:
        """Hear of an entry that this process has appended or read, and look for it at once; others are read."""
        if len(self._offered) < _MOST_OFFERED:
            self._offered[entry.position] = entry
        self.tail.advance(entry.position)

    def read(self, position: int) -> list[LogEntry]:
        """Read entries behind a position, in order, not too many at once. Raises as `Log.read` does."""
        offered: list[LogEntry] = []
        while (entry := self._offered.pop(position + 1 + len(offered), None)) is not None:
            offered.append(entry)
        if offered:
            return offered
        self._offered = {place: entry for place, entry in self._offered.copy().items() if place > position}
        with self._lock:
            return list(islice(self._log.read(position, ENTRIES_AT_ONCE), ENTRIES_AT_ONCE))

    def replay(self) -> None:
        """Apply all entries that there are. Never raises: what goes wrong is the `problem` of the tail."""
        self.tail.replay()

    def apply(self, entries: Sequence[LogEntry]) -> None:
        """Apply entries to the statistics and to the shards that lie here; those that were applied are left alone.

        Raises Conflict for a version that was built before documents could be written to an index, and for an entry
        that was written with other models, once all before it are applied.
        """
        with self._lock:
            new = [entry for entry in entries if entry.position > self._applied]
            fitting = list(takewhile(lambda entry: other_models(self._manifest, entry) is None, new))
            if fitting:
                self._apply(fitting)
            if len(fitting) < len(new):
                require_models(self._manifest, new[len(fitting)])

    def _apply(self, entries: Sequence[LogEntry]) -> None:
        statistics = None if self._manifest.lexical is None else self._opened_statistics()
        entries = self._earlier.corrected(entries)
        for shard in self.shards:
            shard.apply(entries)
        if statistics is not None:
            statistics.apply(entries)
        self._count(entries)
        self._earlier.take(entries)
        self._applied = entries[-1].position

    def _count(self, entries: Sequence[LogEntry]) -> None:
        counts = list(self.version.counts)
        for entry in entries:
            if self._oldest is None:
                self._oldest = entry.written_at
            digests = document_digests(write.document for write in entry.documents)
            shards = (digests % np.uint64(len(counts))).tolist()
            for shard, write in zip(shards, entry.documents, strict=True):
                counts[shard] += len(write.passages) - write.retired.passages
                self._rows += len(write.passages)
                self._dead += write.retired.passages
                self._bytes += _bytes_of(write)
        fields = live_fields.after(self.version.fields, entries)
        self.version = replace(self.version, counts=tuple(counts), fields=fields)

    def _opened_statistics(self) -> LiveStatistics:
        with self._opening:  # whoever searches and whoever applies entries, in threads of their own
            if self._statistics is None:
                from shoal.lexical.analyzer import Analyzer

                lexical = self._manifest.lexical
                assert lexical is not None
                self._terms_path = self._fetched_terms()
                self._statistics = LiveStatistics(CorpusTerms(self._terms_path), Analyzer(lexical.settings))
            return self._statistics

    def _terms_file(self) -> FileEntry | None:
        name = layout.corpus_terms_of(self._manifest.version).rpartition("/")[2]
        return next((file for file in self._manifest.files if file.path == name), None)

    def _fetched_terms(self) -> Path:
        """Where the terms of the corpus lie on this machine. Raises Conflict for a version without the file."""
        path = layout.corpus_terms_of(self._manifest.version)
        file = self._terms_file()
        if file is None:
            raise Conflict(
                f"version {self._manifest.version} was built before documents could be written to an index; build it "
                "again, which embeds nothing anew"
            )
        if not self._storage.is_local and self._cache is not None:
            return self._cache.path(self._storage, path, file.sha256, file.bytes)
        if problem := file_problem(self._storage, path, file):
            raise CorruptIndex(f"{problem}; restore it or activate another version")
        return self._storage.local_path(path)

    def add_shard(self, shard: "Shard", number: int, threads: int, replica: int = 0) -> "LiveShard":
        """Lay what is written over an opened shard of the version, before anything is applied; returns what to search.

        threads: of one search. replica: of the shard, as in `LiveShard`.
        """
        from shoal.shard.live import LiveShard

        live = LiveShard(
            shard,
            self._manifest,
            number,
            threads=threads,
            statistics=None if self._manifest.lexical is None else self._current_statistics,
            position=self._complete_to,
            replica=replica,
        )
        self.shards.append(live)
        return live

    def _current_statistics(self, query: str) -> TermStatistics:
        """What a shard needs that has seen what the coordinator has not."""
        return self._opened_statistics().of_query(query)

    def follow(self) -> "asyncio.Task[None]":
        """Follow the log from now on, in this event loop, until the task is cancelled."""
        return asyncio.create_task(self.tail.run())

    def close(self) -> None:
        """Let the cache evict what was fetched."""
        if self._cache is not None and self._terms_path is not None:
            self._cache.release(self._terms_path)
        self._terms_path = None


def _bytes_of(write: DocumentWrite) -> int:
    return sum(
        len(passage.text) + passage.vector.nbytes + (0 if passage.codes is None else passage.codes.nbytes)
        for passage in write.passages
    )
