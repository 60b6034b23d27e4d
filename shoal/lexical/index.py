"""The lexical index of one shard, opened: files that are mapped into memory, in the format of bm25s."""

from collections.abc import Callable, Mapping, Sequence
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
from shoal.records import FloatArray
from shoal.system.array_files import map_array


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
        self._scores: FloatArray | None = scores
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

    def scores(self, query: str) -> FloatArray:
        """Score every passage of the shard, float32 (count,); 0 where no term of the query occurs."""
        scores, stored = np.zeros(self._count, np.float32), self._scores
        if stored is not None:
            for term in self.analyzer.terms(query):
                if (number := self._sorted.place(term)) is not None:
                    own = self._place(number)
                    np.add.at(scores, self._rows[own], stored[own])
        return scores

    @property
    def has_frequencies(self) -> bool:
        """Whether it can score with other statistics than those that it was built with."""
        return self._frequencies is not None

    def current_scores(self, statistics: TermStatistics) -> FloatArray:
        """Score every passage of the shard with these statistics of the corpus; otherwise as `scores`.

        Each score has the bits that an index has which is built from that corpus. Raises Conflict for a version that
        does not say how often its passages hold their terms.
        """
        if self._frequencies is None:
            raise Conflict(
                "this version does not say how often its passages hold their words, which scores need once passages "
                "come and go; build it again, which embeds nothing anew"
            )
        scores = np.zeros(self._count, np.float32)
        shares = statistics.weights or (1.0,) * len(statistics.terms)
        known = [
            (number, frequency, share)
            for term, frequency, share in zip(statistics.terms, statistics.frequencies, shares, strict=True)
            if (number := self._sorted.place(term)) is not None
        ]
        if not known or not statistics.mean_length:  # a corpus without a term, whose passages have all gone
            return scores
        frequencies = np.array([frequency for _, frequency, _ in known], np.int64)
        weights = inverse_frequencies(statistics.passages, frequencies)
        weights *= np.array([share for _, _, share in known], np.float32)
        places = [self._place(number) for number, _, _ in known]
        norms_of = self._norms_of(self._frequencies, statistics.mean_length, places)
        for weight, own in zip(weights, places, strict=True):
            holding = self._rows[own]
            # Twice as fast as adding to `scores[holding]`.
            np.add.at(scores, holding, term_scores(weight, self._frequencies.counts[own], norms_of(holding)))
        return scores

    def _norms_of(
        self, frequencies: TermFrequencies, mean_length: float, places: Sequence[slice]
    ) -> Callable[[NDArray[np.int32]], NDArray[np.float64]]:
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
        """What it holds of how often terms occur. Raises Conflict as `current_scores` does."""
        if self._frequencies is None:
            raise Conflict("this version does not say how often its passages hold their words; build it again")
        return Postings(self._terms, self._offsets, self._rows, self._frequencies.counts, self._frequencies.lengths)

    def _place(self, number: int) -> slice:
        """Where the passages of a term lie."""
        return slice(int(self._offsets[number]), int(self._offsets[number + 1]))
