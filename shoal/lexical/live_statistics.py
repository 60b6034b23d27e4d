"""How often terms occur in the corpus as it is now: the numbers of a version, and what the log has changed since."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from shoal.errors import CorruptIndex
from shoal.index_root.arrow_files import open_batches
from shoal.index_root.log_entry import DocumentWrite, LogEntry, RetiredState, WrittenPassage
from shoal.lexical.postings import TermNumbers
from shoal.lexical.scoring import TermStatistics
from shoal.lexical.statistics import TERM_SCHEMA, Totals

if TYPE_CHECKING:  # a coordinator reads it when documents have come, and not before
    from shoal.lexical.analyzer import Analyzer


class CorpusTerms:
    """The file `terms.arrow` of a version, mapped into memory. Safe for concurrent calls.

    Raises CorruptIndex for a file that is not what a build writes.
    """

    def __init__(self, path: Path) -> None:
        self._batches = [batch for batch in open_batches(path, TERM_SCHEMA) if batch.num_rows]
        with pa.memory_map(str(path)) as source:
            metadata = pa.ipc.open_file(source).schema.metadata or {}
        try:
            self.totals = Totals(int(metadata[b"passages"]), int(metadata[b"length"]))
        except (KeyError, ValueError) as error:
            raise CorruptIndex(f"{path} does not say how many passages it counts; activate another version") from error
        self._last = [batch.column(0)[-1].as_py() for batch in self._batches]

    def frequency(self, term: str) -> int:
        """In how many passages a term occurs, found by bisection: the terms stay in their file."""
        for batch, last in zip(self._batches, self._last, strict=True):
            if term <= last:
                return _frequency(batch, term)
        return 0


def _frequency(batch: pa.RecordBatch, term: str) -> int:
    terms, low, high = batch.column(0), 0, batch.num_rows
    while low < high:
        middle = (low + high) // 2
        if terms[middle].as_py() < term:
            low = middle + 1
        else:
            high = middle
    return int(batch.column(1)[low].as_py()) if terms[low].as_py() == term else 0


def _changes(written: Sequence[WrittenPassage], retired: Sequence[RetiredState]) -> dict[str, int]:
    """In how many passages more or less terms occur."""
    numbers = TermNumbers()
    held = numbers.of([passage.terms for passage in written])
    retired = [state for state in retired if state.terms]
    gone = numbers.of([state.terms for state in retired])
    names = numbers.names
    losses = [count for state in retired for count in state.terms.values()]
    changes = np.bincount(held, minlength=len(names)) - np.bincount(gone, losses, len(names)).astype(np.int64)
    return dict(zip(names, changes.tolist(), strict=True))


class LiveStatistics:
    """The statistics of a corpus that documents come to. One thread applies, any number asks.

    Args:
        terms: Those of the version.
        analyzer: What cuts queries into terms.
    """

    def __init__(self, terms: CorpusTerms, analyzer: "Analyzer") -> None:
        self._terms = terms
        self._analyzer = analyzer
        self._frequencies: Counter[str] = Counter()
        self._totals = terms.totals

    @property
    def passages(self) -> int:
        """Passages of the corpus."""
        return self._totals.passages

    def apply(self, entries: Iterable[LogEntry]) -> None:
        """Take entries of the log into account, each once and in order."""
        for entry in entries:
            self._add(entry.documents)

    def _add(self, documents: Sequence[DocumentWrite]) -> None:
        written = [passage for document in documents for passage in document.passages]
        retired = [document.retired for document in documents]
        for term, change in _changes(written, retired).items():
            self._frequencies[term] += change
        self._totals = Totals(
            self._totals.passages + len(written) - sum(state.passages for state in retired),
            self._totals.length + sum(each.length for each in written) - sum(state.length for state in retired),
        )

    def of_query(self, query: str) -> TermStatistics:
        """Look up what a query needs."""
        terms, totals = tuple(self._analyzer.terms(query)), self._totals
        # While an entry is being applied, a number may be behind another: none is below 0 all the same.
        frequencies = tuple(max(0, self._terms.frequency(term) + self._frequencies[term]) for term in terms)
        return TermStatistics(totals.passages, totals.length, terms, frequencies)
