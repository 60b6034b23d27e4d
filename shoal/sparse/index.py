"""The learned terms of one shard, opened to be searched."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from shoal.errors import CorruptIndex
from shoal.index_root import layout
from shoal.records import FloatArray, TermWeights
from shoal.system.array_files import map_array


class SparseIndex:
    """Scores all passages of a shard by their terms. Safe for concurrent calls; its files are mapped.

    Args:
        paths: Where the files of the shard lie, by their names in `shoal.index_root.layout`.
        passages: Those of the shard.
        dimensions: Terms that the model knows.

    Raises:
        CorruptIndex: A file is not there, or they do not fit together.
    """

    def __init__(self, paths: Mapping[str, Path], passages: int, dimensions: int) -> None:
        try:
            self._offsets = map_array(paths[layout.SPARSE_OFFSETS])
            self._rows = map_array(paths[layout.SPARSE_ROWS])
            self._weights = map_array(paths[layout.SPARSE_WEIGHTS])
        except (KeyError, ValueError) as error:
            raise CorruptIndex(f"the learned terms of a shard cannot be read ({error}); {_REMEDY}") from error
        kinds = [array.dtype.name for array in (self._offsets, self._rows, self._weights)]
        if kinds != ["int64", "int32", "float16"] or self._offsets.shape != (dimensions + 1,):
            raise CorruptIndex(f"{paths[layout.SPARSE_OFFSETS]} is not for {dimensions} terms; {_REMEDY}")
        ends = self._offsets[0], self._offsets[-1]
        if ends != (0, len(self._rows)) or len(self._weights) != len(self._rows) or np.any(np.diff(self._offsets) < 0):
            raise CorruptIndex(f"{paths[layout.SPARSE_ROWS]} does not fit the offsets beside it; {_REMEDY}")
        if len(self._rows) and not (self._rows.min() >= 0 and self._rows.max() < passages):
            raise CorruptIndex(f"{paths[layout.SPARSE_ROWS]} names rows outside its {passages} passages; {_REMEDY}")
        self._count = passages

    def scores(self, query: TermWeights) -> FloatArray:
        """Score every passage for a query, float32 (passages,); 0 for one that shares no term with it.

        A passage has the same score, to the last bit, whatever else lies in its shard.
        """
        scores = np.zeros(self._count, np.float32)
        known = query.terms < len(self._offsets) - 1
        # Term after term, in their order: each has a row once, and what a row gets does not depend on other rows.
        for term, weight in zip(query.terms[known].tolist(), query.weights[known], strict=True):
            start, end = self._offsets[term], self._offsets[term + 1]
            scores[self._rows[start:end]] += weight * self._weights[start:end].astype(np.float32)
        return scores


_REMEDY = "restore it or activate another version"
"""What to do about files that are damaged."""
