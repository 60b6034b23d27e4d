"""How often terms occur in the corpus as it is now: the numbers of a version, and what the log has changed since."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shoal.errors import CorruptIndex
from shoal.index_root.arrow_files import open_batches
from shoal.index_root.log_entry import DocumentWrite, LogEntry, RetiredState, WrittenPassage
from shoal.lexical.postings import TermNumbers
from shoal.lexical.scoring import TermStatistics
from shoal.lexical.sorted_terms import SortedTerms
from shoal.lexical.statistics import TERM_SCHEMA, Totals

if TYPE_CHECKING:  # a coordinator reads it when documents have come, and not before
    from shoal.lexical.analyzer import Analyzer


CORRECTED_WEIGHT = 0.7
"""What a word counts that was taken for another: less than one that was typed so, as it may have been meant."""
_REMEMBERED = 2**12
"""Terms whose numbers a process remembers, those of the words that people ask for most."""
_TERMS_AT_ONCE = 2**16
"""Terms that are Python's strings at once where all are gone through."""


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
        self._sorted = [SortedTerms(batch.column(0)) for batch in self._batches]
        self._remembered = lru_cache(_REMEMBERED)(self._found)

    def frequency(self, term: str) -> int:
        """In how many passages a term occurs, found by bisection: the terms stay in their file."""
        return self._remembered(term)

    def _found(self, term: str) -> int:
        for batch, terms in zip(self._batches, self._sorted, strict=True):
            if (place := terms.place(term)) is not None:
                return int(batch.column(1)[place].as_py())
        return 0

    @cached_property
    def letters(self) -> frozenset[str]:
        """All characters of the terms."""
        return frozenset().union(*(frozenset().union(*terms) for terms in self._lists()))

    def may_hold(self, terms: Sequence[str]) -> NDArray[np.bool_]:
        """Tell quickly of many terms, bool (n,), which do not occur; of 2**32 / terms one more seems to.

        The first call goes through the whole file, and from then on four bytes of each term are in memory.
        """
        if not len(self._digests):
            return np.zeros(len(terms), np.bool_)
        digests = _digests_of(terms)
        places = np.minimum(np.searchsorted(self._digests, digests), len(self._digests) - 1)
        same: NDArray[np.bool_] = self._digests[places] == digests
        return same

    @cached_property
    def _digests(self) -> NDArray[np.uint32]:
        """Part of the hash of each term, ascending."""
        return np.sort(np.concatenate([np.zeros(0, np.uint32), *map(_digests_of, self._lists())]))

    def _lists(self) -> Iterator[list[str]]:
        for batch in self._batches:
            for start in range(0, batch.num_rows, _TERMS_AT_ONCE):
                yield batch.column(0).slice(start, _TERMS_AT_ONCE).to_pylist()


def _digests_of(terms: Sequence[str]) -> NDArray[np.uint32]:
    return np.fromiter((hash(term) & 0xFFFFFFFF for term in terms), np.uint32, len(terms))


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
        self.analyzer = analyzer
        """What cuts queries into terms."""
        self._frequencies: Counter[str] = Counter()
        self._new_letters: frozenset[str] = frozenset()
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
        changes = _changes(written, retired)
        self._new_letters = self._new_letters.union(*(term for term in changes if term not in self._frequencies))
        for term, change in changes.items():
            self._frequencies[term] += change
        self._totals = Totals(
            self._totals.passages + len(written) - sum(state.passages for state in retired),
            self._totals.length + sum(each.length for each in written) - sum(state.length for state in retired),
        )

    @property
    def letters(self) -> frozenset[str]:
        """Characters of the terms, those of terms that have gone among them."""
        return self._terms.letters | self._new_letters

    def frequency(self, term: str) -> int:
        """In how many passages a term occurs."""
        # While an entry is being applied, a number may be behind another: none is below 0 all the same.
        return max(0, self._terms.frequency(term) + self._frequencies[term])

    def frequencies(self, terms: Sequence[str]) -> dict[str, int]:
        """Return in how many passages each of many terms occurs, those that occur: most of them do not."""
        known = [terms[place] for place in np.flatnonzero(self._terms.may_hold(terms)).tolist()]
        if self._frequencies:
            known += filter(self._frequencies.__contains__, terms)
        return {term: count for term in dict.fromkeys(known) if (count := self.frequency(term))}

    def of_query(self, query: str, corrections: Mapping[str, str] | None = None) -> TermStatistics:
        """Look up what a query needs.

        Args:
            query: As it was typed.
            corrections: By some of its words, folded, the terms that count `CORRECTED_WEIGHT` in their place.
        """
        words, totals = self.analyzer.words(query), self._totals
        terms = self.analyzer.stems(words)
        weights = None
        if corrections:
            terms = [corrections.get(word, term) for word, term in zip(words, terms, strict=True)]
            weights = tuple(CORRECTED_WEIGHT if word in corrections else 1.0 for word in words)
        frequencies = tuple(map(self.frequency, terms))
        return TermStatistics(totals.passages, totals.length, tuple(terms), frequencies, weights)
