"""The token vectors of one shard, opened: files that are mapped into memory, compared with those of a query."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from shoal.errors import CorruptIndex, InvalidArgument
from shoal.index_root import layout
from shoal.index_root.manifest import LateInfo
from shoal.late.codec import Codec, Codes, code_width, levels_of, project
from shoal.late.sentences import SentenceTokens
from shoal.records import FloatArray, RowArray
from shoal.system.array_files import load_array, map_array

_CHUNK = 64
"""Passages that are unpacked at once: two megabytes of a small model."""


class StoredTokens:
    """Compares queries with the passages of one shard by MaxSim. Safe for concurrent calls.

    Args:
        paths: Where each file of `shoal.late.writer.FILES` lies.
        count: Passages of the shard.
        info: How they were reduced.
        threads: Of one comparison, set for the whole process: NumPy's matrix products would otherwise use every core.

    Raises:
        CorruptIndex: Files that do not fit together.
    """

    def __init__(self, paths: Mapping[str, Path], count: int, info: LateInfo, threads: int) -> None:
        self._bits: int = info.bits
        place = paths[layout.LATE_CODES].parent
        try:
            projection: FloatArray = load_array(paths[layout.LATE_PROJECTION])
            self._offsets: RowArray = map_array(paths[layout.LATE_OFFSETS])
            self._codes: Codes = map_array(paths[layout.LATE_CODES])
        except (OSError, ValueError, EOFError, KeyError, MemoryError) as error:
            raise CorruptIndex(
                f"the token vectors in {place} cannot be read ({error}); activate another version"
            ) from error
        if not _fits(projection, self._offsets, self._codes, count, info):
            raise CorruptIndex(f"the token vectors in {place} do not fit together; activate another version")
        self._reduce_by(projection)
        threadpool_limits(threads, user_api="blas")

    @classmethod
    def of_codes(cls, codec: Codec, codes: Sequence[Codes]) -> "StoredTokens":
        """Those of passages whose tokens have these codes, uint8 (t, width) each; they stay in memory."""
        tokens = cls.__new__(cls)
        tokens._bits = codec.bits
        tokens._offsets = np.cumsum([0, *map(len, codes)])
        tokens._codes = np.concatenate([np.zeros((0, codec.width), np.uint8), *codes])
        tokens._reduce_by(codec.projection)
        return tokens

    def _reduce_by(self, projection: FloatArray) -> None:
        self._projection, self._axes = projection, np.ascontiguousarray(projection[:, :-2])

    def codes(self, row: int) -> Codes:
        """The codes of the tokens of a row, uint8 (t, width)."""
        return self._codes[int(self._offsets[row]) : int(self._offsets[row + 1])]

    def score(self, tokens: FloatArray, rows: RowArray) -> FloatArray:
        """Return, float32 (n,), the mean over tokens t of a query of max over tokens u of a passage of cos(t, u).

        Args:
            tokens: float (t, hidden).
            rows: int64 (n,). Cosines are those of the codec. A passage has the same score, to the last bit, whatever
                else is scored with it.
        """
        query = self._projected(tokens)
        scores = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _CHUNK):
            borders = [(self._offsets[row], self._offsets[row + 1]) for row in rows[start : start + _CHUNK]]
            codes = np.concatenate([self._codes[low:high] for low, high in borders])
            levels = levels_of(codes, self._projection, self._bits)
            lengths = np.sqrt(np.einsum("td,td->t", levels, levels))
            end = 0
            for place, (low, high) in enumerate(borders, start):
                begin, end = end, end + int(high - low)
                # One product a passage: of all at once, the last bits would depend on what they are.
                scores[place] = (query @ levels[begin:end].T / lengths[begin:end]).max(axis=1).mean()
        return scores

    def sentence_scores(self, tokens: FloatArray, row: int, sentences: SentenceTokens) -> FloatArray | None:
        """Score the sentences of the passage in a row, float32 (s,); see `SentenceTokens.scores`.

        Args:
            tokens: Those of the query, float (t, hidden).
            row: Of the passage.
            sentences: Which of its tokens each sentence has.
        """
        levels = levels_of(self.codes(row), self._projection, self._bits)
        lengths = np.sqrt(np.einsum("td,td->t", levels, levels))
        return sentences.scores(self._projected(tokens) @ levels.T / lengths)

    def _projected(self, tokens: FloatArray) -> FloatArray:
        """The tokens of a query along the axes of the codec, float32 (t, dims)."""
        if tokens.ndim != 2 or not len(tokens) or tokens.shape[1] != self._axes.shape[1]:
            raise InvalidArgument(
                f"query tokens have shape {tokens.shape}, the index needs (t, {self._axes.shape[1]})", param="queries"
            )
        return project(tokens, self._axes)


def _fits(projection: FloatArray, offsets: RowArray, codes: Codes, count: int, info: LateInfo) -> bool:
    """Whether the arrays of a shard of `count` passages have the types and shapes they should, and offsets lead in."""
    arrays: list[tuple[NDArray[Any], type]] = [(projection, np.float32), (offsets, np.int64), (codes, np.uint8)]
    if any(array.dtype != kind for array, kind in arrays):
        return False
    if projection.ndim != 2 or len(projection) != info.dims or projection.shape[1] < 3:
        return False
    if not np.isfinite(projection).all() or offsets.shape != (count + 1,):
        return False
    if offsets[0] != 0 or (np.diff(offsets) < 1).any():
        return False
    return codes.shape == (int(offsets[-1]), code_width(info.dims, info.bits))
