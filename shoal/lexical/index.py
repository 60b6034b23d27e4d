"""The lexical index of one shard, opened: files that are mapped into memory, in the format of bm25s."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shoal.errors import Conflict, CorruptIndex
from shoal.index_root import layout
from shoal.index_root.arrow_files import open_batches
from shoal.index_root.manifest import LexicalInfo
from shoal.lexical.analyzer import NAME, Analyzer
from shoal.lexical.frequencies import TermFrequencies
from shoal.lexical.postings import Postings
from shoal.lexical.scoring import TermStatistics, inverse_frequencies, length_norms, term_scores
from shoal.lexical.sorted_terms import SortedTerms
from shoal.lexical.statistics import TERM
from shoal.lexical.term_lists import Places, Rows, Sums, TermHits, TermList
from shoal.records import FloatArray, RowArray
from shoal.system.array_files import map_array

_REMEMBERED = 2**14
"""Terms whose greatest scores are remembered: few have long lists, which take as long to look through as to add."""
_ROUNDING = 1e-6
"""What a score computed in another way may differ by, relatively, and more."""
_KEPT_SUMS = 2
"""Searches at once whose memory of four bytes a passage is kept for later ones."""


class LexicalIndex:
    """Searches the passages of one shard by their words. Safe for concurrent calls.

    Args:
        paths: Where each file of `shoal.lexical.writer.FILES` lies; older versions lack the last two.
        count: Passages of the shard.
        info: How the index was built.

    Raises:
        CorruptIndex: Files that do not fit together.
        Conflict: One that another analyser has built.
    """

    def __init__(self, paths: Mapping[str, Path], count: int, info: LexicalInfo) -> None:
        self._begin(count, info)
        try:
            [batch] = open_batches(paths[layout.LEXICAL_TERMS], pa.schema([TERM]))
            self._terms = batch.column(0)
            self._sorted = SortedTerms(self._terms)
            # Read without bm25s, whose import takes 0.2 s and SciPy.
            scores, self._rows, self._offsets = (
                map_array(paths[name]).view(np.ndarray)
                for name in (layout.LEXICAL_SCORES, layout.LEXICAL_ROWS, layout.LEXICAL_OFFSETS)
            )
            # Versions from before December 2026 lack them.
            self._frequencies: TermFrequencies | None = (
                TermFrequencies.open(paths) if layout.LEXICAL_COUNTS in paths else None
            )
        except (OSError, EOFError, ValueError, KeyError, MemoryError) as error:
            raise CorruptIndex(f"the lexical index cannot be read ({error}); activate another version") from error
        # A compaction leaves them all 0: whoever searches what it wrote brings statistics.
        self._scores: FloatArray | None = scores if scores[:1].any() else None
        if not self._fits(scores):
            raise CorruptIndex(
                f"the lexical index of {paths[layout.LEXICAL_TERMS].parent} does not fit together; "
                "activate another version"
            )

    @classmethod
    def of_postings(cls, postings: Postings, info: LexicalInfo) -> "LexicalIndex":
        """One that stays in memory and has no statistics of its own: who searches it brings those of the corpus."""
        index = cls.__new__(cls)
        index._begin(len(postings.lengths), info)
        index._scores, index._terms = None, postings.terms
        index._sorted = SortedTerms(postings.terms)
        index._offsets, index._rows = postings.offsets, postings.rows.astype(np.int32, copy=False)
        index._frequencies = TermFrequencies.of_postings(postings)
        return index

    def _begin(self, count: int, info: LexicalInfo) -> None:
        """Set what does not depend on where the arrays lie."""
        if info.analyzer != NAME:
            raise Conflict(
                f"the lexical index was built with the analyser {info.analyzer}, this Shoal has {NAME}; build it again"
            )
        settings = info.settings
        self.analyzer = Analyzer(settings)
        """What cut the passages into terms."""
        self._k1, self._b = settings.lexical_k1, settings.lexical_b
        self._norms: tuple[float, NDArray[np.float64]] = (0.0, np.zeros(0))
        """For the mean length that was last asked for."""
        self._count = count
        self._reference_length = info.mean_length or 1.0
        self._greatest_score = lru_cache(_REMEMBERED)(self._find_greatest_score)
        self._greatest_ratio = lru_cache(_REMEMBERED)(self._find_greatest_ratio)
        self._free_sums: list[Sums] = []

    def _fits(self, scores: FloatArray) -> bool:
        """Whether every number leads into the arrays. Reads the files once."""
        offsets, rows = self._offsets, self._rows
        arrays: list[tuple[NDArray[Any], type]] = [(offsets, np.int64), (rows, np.int32), (scores, np.float32)]
        if any(array.dtype != kind for array, kind in arrays):
            return False
        if offsets.shape != (len(self._terms) + 1,) or not rows.shape == scores.shape == (int(offsets[-1]),):
            return False
        if offsets[0] != 0 or (np.diff(offsets) < 0).any():
            return False
        if self._frequencies is not None and not self._frequencies.fit(self._count, len(rows)):
            return False
        if not len(rows):
            return True
        inside = rows.min() >= 0 and rows.max() < self._count
        return bool(inside and np.isfinite([scores.min(), scores.max()]).all())

    def lists(self, query: str) -> list[TermList]:
        """Return the rows of the terms of a query that the shard holds, with scores as they were built."""
        stored = self._scores
        if stored is None:
            return []
        numbers = [self._sorted.place(term) for term in self.analyzer.terms(query)]
        return [self._stored_list(number, stored) for number in numbers if number is not None]

    def _stored_list(self, number: int, stored: FloatArray) -> TermList:
        own = self._place(number)
        return TermList(self._rows[own], stored[own].__getitem__, partial(self._greatest_score, number))

    def _find_greatest_score(self, number: int) -> float:
        """The greatest score of a term, as it was built."""
        assert self._scores is not None
        return float(self._scores[self._place(number)].max())

    @property
    def has_frequencies(self) -> bool:
        """Whether it can score with other statistics than those that it was built with."""
        return self._frequencies is not None

    def current_lists(self, statistics: TermStatistics) -> list[TermList]:
        """Return the rows of the terms of a query, with scores by these statistics of the corpus.

        Each score has the bits that an index has which is built from that corpus. Raises Conflict for a version that
        does not say how often its passages hold their terms.
        """
        if self._frequencies is None:
            raise Conflict(
                "this version does not say how often its passages hold their words, which scores need once passages "
                "come and go; build it again, which embeds nothing anew"
            )
        shares = statistics.weights or (1.0,) * len(statistics.terms)
        known = [
            (number, frequency, share)
            for term, frequency, share in zip(statistics.terms, statistics.frequencies, shares, strict=True)
            if (number := self._sorted.place(term)) is not None
        ]
        if not known or not statistics.mean_length:  # a corpus without a term, whose passages have all gone
            return []
        # While an entry is applied, one of the two numbers may be ahead of the other.
        frequencies = np.minimum([frequency for _, frequency, _ in known], statistics.passages)
        weights = inverse_frequencies(statistics.passages, frequencies)
        weights *= np.array([share for _, _, share in known], np.float32)
        numbers = [number for number, _, _ in known]
        norms_of = self._norms_of(
            self._frequencies, statistics.mean_length, [self._place(number) for number in numbers]
        )
        lists = []
        for number, weight in zip(numbers, weights, strict=True):
            own = self._place(number)
            rows, counts = self._rows[own], self._frequencies.counts[own]
            scores_at = partial(_current_scores, weight, rows, counts, norms_of)
            lists.append(TermList(rows, scores_at, partial(self._score_bound, number, weight, statistics.mean_length)))
        return lists

    def _score_bound(self, number: int, weight: np.float32, mean_length: float) -> float:
        """What no score of a term with this weight is above, if passages have so many terms on average."""
        ratio = self._greatest_ratio(number)
        # A norm has a part that grows with the inverse of the mean length, and one that does not.
        shrinking = min(1.0, self._reference_length / mean_length)
        return float(weight) * ratio / (ratio + (1 - ratio) * shrinking) * (1 + _ROUNDING)

    def _find_greatest_ratio(self, number: int) -> float:
        """The greatest score of a term with a weight of 1, by the mean length that the corpus had when it was built."""
        assert self._frequencies is not None
        own = self._place(number)
        lengths = self._frequencies.lengths[self._rows[own]]
        norms = length_norms(lengths, self._reference_length, self._k1, self._b)
        return float(term_scores(np.float32(1), self._frequencies.counts[own], norms).max())

    def best(
        self, lists: Sequence[TermList], top_k: int, holds: Callable[[Rows], NDArray[np.bool_]] | None, known: RowArray
    ) -> TermHits:
        """Find the best rows for the lists of a query; see `Sums.best`."""
        try:
            sums = self._free_sums.pop()
        except IndexError:
            sums = Sums(self._count)
        hits = sums.best(lists, top_k, holds, known)
        if len(self._free_sums) < _KEPT_SUMS:
            self._free_sums.append(sums)
        return hits

    def _norms_of(
        self, frequencies: TermFrequencies, mean_length: float, places: Sequence[slice]
    ) -> Callable[[Rows], NDArray[np.float64]]:
        """What gives the norms of rows: the mean length changes with every write, those of all rows only if it pays."""
        if self._norms[0] != mean_length and sum(own.stop - own.start for own in places) < self._count:
            return lambda rows: length_norms(frequencies.lengths[rows], mean_length, self._k1, self._b)
        norms = self._length_norms(frequencies, mean_length)
        return lambda rows: norms[rows]

    def _length_norms(self, frequencies: TermFrequencies, mean_length: float) -> NDArray[np.float64]:
        mean, norms = self._norms  # one reference, so that two threads agree
        if mean != mean_length:
            norms = length_norms(frequencies.lengths, mean_length, self._k1, self._b)
            self._norms = mean_length, norms
        return norms

    def postings(self) -> Postings:
        """What it holds of how often terms occur. Raises Conflict as `current_lists` does."""
        if self._frequencies is None:
            raise Conflict("this version does not say how often its passages hold their words; build it again")
        return Postings(self._terms, self._offsets, self._rows, self._frequencies.counts, self._frequencies.lengths)

    def _place(self, number: int) -> slice:
        """Where the passages of a term lie."""
        return slice(int(self._offsets[number]), int(self._offsets[number + 1]))


def _current_scores(
    weight: np.float32,
    rows: Rows,
    counts: NDArray[np.unsignedinteger[Any]],
    norms_of: Callable[[Rows], NDArray[np.float64]],
    places: Places,
) -> FloatArray:
    """Score places of a list that has these rows and counts, (n,)."""
    return term_scores(weight, counts[places], norms_of(rows[places]))
