"""What writes take from the statistics of a version, where they were made beside another one.

An entry says what the earlier state of each document takes away, as its writer saw it. The earlier state of a document
that the log has written before is the same beside every version. That of the first write lies in the version, and may
be another in the one that the writer served: a source was built anew meanwhile, or a version was rolled back.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from shoal.index_root.digests import document_digests
from shoal.index_root.log_entry import DocumentWrite, LogEntry, RetiredState
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage

if TYPE_CHECKING:  # they import what a coordinator does without until then
    from shoal.lexical.analyzer import Analyzer
    from shoal.shard.stored_rows import StoredRows


class EarlierStates:
    """The documents of a version, as far as the log has not written them. One call at a time.

    Memory: some 100 bytes a document that was written since the version was built.

    Args:
        storage: The index root.
        manifest: Of the version.
    """

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        self._storage = storage
        self._manifest = manifest
        self._written: set[str] = set()
        self._shards: dict[int, StoredRows] = {}
        self._analyzer: Analyzer | None = None

    def corrected(self, entries: Sequence[LogEntry]) -> list[LogEntry]:
        """Return entries, the next ones, with what they take from the statistics of this version.

        Raises what reading a version raises; nothing is read for entries that were made beside this version.
        """
        before, corrected = set[str](), list[LogEntry]()
        for entry in entries:
            if entry.index_version != self._manifest.version:
                entry = replace(entry, documents=tuple(self._corrected(write, before) for write in entry.documents))
            before.update(write.document for write in entry.documents)
            corrected.append(entry)
        return corrected

    def take(self, entries: Sequence[LogEntry]) -> None:
        """Note that entries were applied."""
        self._written.update(write.document for entry in entries for write in entry.documents)

    def _corrected(self, write: DocumentWrite, before: set[str]) -> DocumentWrite:
        if write.document in self._written or write.document in before:
            return write
        return replace(write, retired=self._state(write.document))

    def _state(self, document: str) -> RetiredState:
        """What a document takes away, as the version holds it."""
        digest = document_digests([document])
        rows = self._rows(int(digest[0] % np.uint64(len(self._manifest.shards))))
        places = np.sort(rows.documents.rows(digest).astype(np.int64)) if rows.count else np.zeros(0, np.int64)
        ids, contents = rows.passages(places)
        own = [content for id_, content in zip(ids, contents, strict=True) if self._document_of(id_) == document]
        terms = [Counter(self._terms(content)) for content in own]
        holding = Counter(term for counts in terms for term in counts)
        return RetiredState(dict(holding), sum(counts.total() for counts in terms), len(own))

    def _document_of(self, passage: str) -> str:
        return passage if self._manifest.build.get("chunk_characters") is None else passage.rpartition("#")[0]

    def _rows(self, shard: int) -> "StoredRows":
        if shard not in self._shards:
            from shoal.shard.stored_rows import StoredRows

            self._shards[shard] = StoredRows(self._storage, self._manifest, shard)
        return self._shards[shard]

    def _terms(self, content: str) -> list[str]:
        lexical = self._manifest.lexical
        if lexical is None:
            return []
        if self._analyzer is None:
            from shoal.lexical.analyzer import Analyzer

            self._analyzer = Analyzer(lexical.settings)
        return self._analyzer.terms(content)
