"""The lexical index of one shard, opened: files that are mapped into memory, searched by bm25s."""

from collections.abc import Callable, Mapping
from pathlib import Path

import bm25s
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shoal.errors import Conflict, CorruptIndex
from shoal.index_root import layout
from shoal.index_root.arrow_files import open_batches
from shoal.index_root.manifest import LexicalInfo
from shoal.lexical.analyzer import NAME, Analyzer
from shoal.lexical.statistics import TERM
from shoal.records import FloatArray, RowArray


class LexicalIndex:
    """Searches the passages of one shard by their words. Safe for concurrent calls.

    paths: where each file of `shoal.lexical.writer.FILES` lies. count: passages of the shard. info: how the index was
    built. ids: gives the passage ids of ascending rows, int64 (n,), by which equal scores are ordered.
    Raises CorruptIndex for files that do not fit together, Conflict for one that another analyser has built.
    """

    def __init__(
        self, paths: Mapping[str, Path], count: int, info: LexicalInfo, ids: Callable[[RowArray], pa.Array]
    ) -> None:
        if info.analyzer != NAME:
            raise Conflict(
                f"the lexical index was built with the analyser {info.analyzer}, this Shoal has {NAME}; build it again"
            )
        settings = info.settings
        self._analyzer = Analyzer(settings)
        self._count = count
        self._ids = ids
        self._bm25 = bm25s.BM25(k1=settings.lexical_k1, b=settings.lexical_b, method="lucene")
        self._bm25.nonoccurrence_array = None
        try:
            [batch] = open_batches(paths[layout.LEXICAL_TERMS], pa.schema([TERM]))
            self._terms = batch.column(0)
            self._bm25.load_scores(
                "",
                data_name=paths[layout.LEXICAL_SCORES],
                indices_name=paths[layout.LEXICAL_ROWS],
                indptr_name=paths[layout.LEXICAL_OFFSETS],
                num_docs=count,
                mmap=True,
            )
        except (OSError, EOFError, ValueError, KeyError, MemoryError) as error:
            raise CorruptIndex(f"the lexical index cannot be read ({error}); activate another version") from error
        if not self._fits():
            raise CorruptIndex(
                f"the lexical index of {paths[layout.LEXICAL_TERMS].parent} does not fit together; "
                "activate another version"
            )

    def _fits(self) -> bool:
        """Whether every number leads into the arrays: bm25s does not look. Reads the files once."""
        offsets, rows, scores = (self._bm25.scores[name] for name in ("indptr", "indices", "data"))
        if (offsets.dtype, rows.dtype, scores.dtype) != (np.int64, np.int32, np.float32):
            return False
        if offsets.shape != (len(self._terms) + 1,) or not rows.shape == scores.shape == (int(offsets[-1]),):
            return False
        if offsets[0] != 0 or (np.diff(offsets) < 0).any():
            return False
        if not len(rows):
            return True
        inside = rows.min() >= 0 and rows.max() < self._count
        return bool(inside and np.isfinite([scores.min(), scores.max()]).all())

    def scores(self, query: str) -> FloatArray:
        """Score every passage of the shard, float32 (count,); 0 where no term of the query occurs."""
        numbers = [number for term in self._analyzer.terms(query) if (number := self._number(term)) is not None]
        if not numbers:
            return np.zeros(self._count, np.float32)
        scores: FloatArray = self._bm25.get_scores_from_ids(numbers)
        return scores

    def best(self, scores: FloatArray, top_k: int) -> RowArray:
        """Return the rows of the `top_k` highest of the scores above 0, best first, equal ones by id; int64 (n,)."""
        wanted: NDArray[np.bool_] = scores > 0
        if np.count_nonzero(wanted) > top_k:
            # All that reach the k-th best score, since equal ones are told apart by their ids.
            wanted = scores >= np.partition(scores, len(scores) - top_k)[len(scores) - top_k]
        rows = np.flatnonzero(wanted)
        table = pa.table({"score": pa.array(scores[rows]), "id": self._ids(rows)})
        order = pc.sort_indices(table, sort_keys=[("score", "descending"), ("id", "ascending")])
        best: RowArray = rows[order.to_numpy()[:top_k]]
        return best

    def _number(self, term: str) -> int | None:
        """Place of a term, found by bisection: the terms stay in their file."""
        low, high = 0, len(self._terms)
        while low < high:
            middle = (low + high) // 2
            if self._terms[middle].as_py() < term:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self._terms) and self._terms[low].as_py() == term else None
