"""Writes the lexical index of one shard while its passages stream by."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shoal.index_root import layout
from shoal.lexical.analyzer import Analyzer
from shoal.lexical.scoring import inverse_frequencies, length_norms, term_scores
from shoal.lexical.statistics import TERM, Totals, contents
from shoal.settings import LexicalSettings
from shoal.system.array_files import create_array, load_array

T = TypeVar("T")

_MOST_COUNT = 2**16 - 1
"""How often a passage holds a term, at most, where counts have two bytes."""
FILES = (
    layout.LEXICAL_TERMS,
    layout.LEXICAL_OFFSETS,
    layout.LEXICAL_ROWS,
    layout.LEXICAL_SCORES,
    layout.LEXICAL_LENGTHS,
    layout.LEXICAL_COUNTS,
)
"""What is stored of the lexical index of one shard; older versions lack the last two, which no search of them reads."""


class LexicalWriter:
    """Scores every term of every passage of a shard; see FORMAT.md for the files.

    bm25s could write the same arrays, but from the statistics of one shard and with all of it in memory. Memory here:
    the distinct terms of the shard, and what one block touches of the files, which are written through a mapping.

    Args:
        folder: Of the shard.
        terms: Those of the shard, ascending.
        own, corpus: int64 (terms,), in how many passages of the shard and of the corpus each occurs.
        totals: Of the corpus.
    """

    def __init__(
        self,
        folder: Path,
        terms: pa.LargeStringArray,
        own: NDArray[np.int64],
        corpus: NDArray[np.int64],
        totals: Totals,
        settings: LexicalSettings,
    ) -> None:
        self._folder = folder
        self._analyzer = Analyzer(settings)
        self._k1, self._b = settings.lexical_k1, settings.lexical_b
        self._numbers = {term: number for number, term in enumerate(terms.to_pylist())}
        self._weights = inverse_frequencies(totals.passages, corpus)
        self._mean_length = totals.mean_length
        self._row = 0
        self._lengths: list[NDArray[np.int32]] = []
        offsets = np.concatenate([[0], np.cumsum(own)]).astype(np.int64)
        self._ends, self._next = offsets[1:], offsets[:-1].copy()
        (folder / layout.LEXICAL).mkdir(parents=True, exist_ok=True)
        with pa.ipc.new_file(str(folder / layout.LEXICAL_TERMS), pa.schema([TERM])) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays([terms], schema=pa.schema([TERM])))
        create_array(folder / layout.LEXICAL_OFFSETS, np.int64, len(offsets))[:] = offsets
        for name, dtype in (
            (layout.LEXICAL_ROWS, np.int32),
            (layout.LEXICAL_SCORES, np.float32),
            (layout.LEXICAL_COUNTS, np.uint16),
        ):
            create_array(folder / name, dtype, int(offsets[-1]))

    def tee(self, blocks: Iterable[tuple[pa.RecordBatch, T]]) -> Iterator[tuple[pa.RecordBatch, T]]:
        """Hand blocks through, whose batches have the columns `text` and `title`, and index their passages."""
        for block in blocks:
            self._add(contents(block[0]))
            yield block
        if not np.array_equal(self._next, self._ends):
            raise ValueError("the passages that are indexed are not those whose terms were counted")
        np.save(self._folder / layout.LEXICAL_LENGTHS, np.concatenate([np.zeros(0, np.int32), *self._lengths]))

    def _add(self, texts: list[str]) -> None:
        found = [[self._numbers[term] for term in self._analyzer.terms(text)] for text in texts]
        lengths = np.array([len(terms) for terms in found], np.int64)
        places = np.repeat(np.arange(len(texts)), lengths)
        terms = np.fromiter((term for passage in found for term in passage), np.int64, len(places))
        # One key for each term of each passage, ascending by term and then by passage: how they lie in the files.
        keys, counts = np.unique(terms * len(texts) + places, return_counts=True)
        if len(keys):
            terms, places = np.divmod(keys, len(texts))
            self._write(terms, places + self._row, self._scores(terms, counts, lengths[places]), counts)
        self._lengths.append(lengths.astype(np.int32))
        self._row += len(texts)

    def _scores(
        self, terms: NDArray[np.int64], counts: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        return term_scores(self._weights[terms], counts, length_norms(lengths, self._mean_length, self._k1, self._b))

    def _write(
        self,
        terms: NDArray[np.int64],
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
        counts: NDArray[np.int64],
    ) -> None:
        distinct, starts, passages = np.unique(terms, return_index=True, return_counts=True)
        positions = self._next[terms] + np.arange(len(terms)) - np.repeat(starts, passages)
        self._next[distinct] += passages
        if counts.max() > _MOST_COUNT:
            self._widen_counts()
        for name, values in (
            (layout.LEXICAL_ROWS, rows),
            (layout.LEXICAL_SCORES, scores),
            (layout.LEXICAL_COUNTS, counts),
        ):
            # Mapped anew for each block, so that no more of the file is resident.
            load_array(self._folder / name, "r+")[positions] = values

    def _widen_counts(self) -> None:
        """Let the counts have four bytes each: a text of a megabyte may hold one word that often."""
        path = self._folder / layout.LEXICAL_COUNTS
        narrow = load_array(path)
        if narrow.dtype == np.uint16:
            create_array(path, np.uint32, len(narrow))[:] = narrow
