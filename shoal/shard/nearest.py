"""Exact vector search whose answer does not depend on how it was asked.

FAISS sums an inner product in another order for one query than for a batch, and breaks ties in its own way. So it finds
somewhat more rows than are wanted. These are scored again, each by itself, and cut by score and id. What FAISS did not
find cannot belong to the best if it scores less by more than sums differ; where that is not certain, because many
passages score alike at the cut, all rows are looked at once more, block by block.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from shoal.errors import InvalidArgument
from shoal.indexes import ShardIndex
from shoal.records import FloatArray, RowArray
from shoal.shard.cut import PassageIds, best

_SPARE, _SPARE_SHARE = 16, 16
"""Rows that FAISS finds beyond `top_k`: so many, and one for each so many of top_k."""
_BLOCK = 2048
"""Rows that are looked at together where all of them are: their vectors stay in the cache of a core."""
_ROUNDING = 2.0**-24
"""Relative error of a float32 operation; a sum of n products of unit vectors is off by n times that at most."""

Find = Callable[[FloatArray, int], tuple[FloatArray, RowArray]]
"""Finds so many nearest rows of float32 (b, dim); returns what `ShardIndex.search` does."""


def inner_products(vectors: FloatArray, query: FloatArray) -> FloatArray:
    """Score vectors, float32 (..., n, dim), by a query, float32 (..., dim); returns float32 (..., n).

    Row by row, so that a passage has the same score whatever else was found with it, and by whom.
    """
    scores: FloatArray = np.einsum("...nd,...d->...n", vectors, query)
    return scores


@dataclass(frozen=True, slots=True)
class ExactSearch:
    """Searches an index exactly; equal scores are ordered by passage id.

    index: one that finds the nearest of all vectors (`ShardIndex.is_exact`) for `search`, any for `scan`.
    """

    index: ShardIndex
    passage_ids: PassageIds

    def search(
        self, queries: FloatArray, top_k: int, bits: NDArray[np.uint8] | None = None
    ) -> tuple[FloatArray, RowArray]:
        """Search float32 (b, dim) among all rows, or those whose bit i % 8 of byte i // 8 is set.

        Returns what `ShardIndex.search` does.
        """
        selector = None if bits is None else faiss.IDSelectorBitmap(bits)

        def find(asked: FloatArray, count: int) -> tuple[FloatArray, RowArray]:
            return self.index.search(asked, count, selector)

        return self._best(queries, top_k, self.index.count, find, lambda: _blocks(self.index.count, bits))

    def scan(self, queries: FloatArray, top_k: int, rows: RowArray) -> tuple[FloatArray, RowArray]:
        """Search float32 (b, dim) among some rows, int64 (n,), ascending; returns what `ShardIndex.search` does."""

        def find(asked: FloatArray, count: int) -> tuple[FloatArray, RowArray]:
            return self.index.scan(asked, count, rows)

        def blocks() -> Iterator[RowArray]:
            return (rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK))

        return self._best(queries, top_k, len(rows), find, blocks)

    def _best(
        self, queries: FloatArray, top_k: int, count: int, find: Find, blocks: Callable[[], Iterable[RowArray]]
    ) -> tuple[FloatArray, RowArray]:
        """The best of `count` rows, which `find` finds somewhat more of and `blocks` are made of."""
        wanted = min(top_k + _SPARE + top_k // _SPARE_SHARE, count)
        if not wanted or not len(queries):
            return _empty(len(queries), top_k)
        rough, rows = find(queries, wanted)
        try:
            scores = self._scores(queries, rows)
        except InvalidArgument:  # such an index searches, but as well as it can
            return _narrowed(rough, rows, top_k)
        in_order = scores[:, 1:] < scores[:, :-1]
        if not in_order.all():
            order = np.argsort(-scores, axis=1, kind="stable")
            lines = np.arange(len(queries))[:, None]
            scores, rows, last = scores[lines, order], rows[lines, order], rows[:, -1]
            in_order = (scores[:, 1:] < scores[:, :-1]) | np.isneginf(scores[:, 1:])
        else:
            last = rows[:, -1]
        result = _narrowed(scores, rows, top_k)
        unclear = np.zeros(len(queries), np.bool_)
        if wanted < count:
            unclear = (last >= 0) & (rough[:, -1] >= scores[:, top_k - 1] - self._tolerance)
        tied = ~in_order[:, :top_k].all(axis=1) & ~unclear
        for query in np.flatnonzero(tied).tolist():
            ascending = np.argsort(rows[query])
            ascending = ascending[rows[query, ascending] >= 0]
            self._put(result, query, scores[query, ascending], rows[query, ascending], top_k)
        if unclear.any():
            numbers = np.flatnonzero(unclear)
            passed = self._pass(queries[numbers], top_k, scores[numbers, top_k - 1], blocks())
            for query, (kept_scores, kept_rows) in zip(numbers.tolist(), passed, strict=True):
                self._put(result, query, kept_scores, kept_rows, top_k)
        return result

    def _scores(self, queries: FloatArray, rows: RowArray) -> FloatArray:
        """Score rows (b, n) by their queries, those that are -1 by -inf."""
        scores = np.empty(rows.shape, np.float32)
        known = rows if rows[:, -1].min() >= 0 else np.maximum(rows, 0)  # what is missing comes last
        step = max(1, _BLOCK // rows.shape[1])
        for start in range(0, len(rows), step):
            part = known[start : start + step]
            vectors = self.index.vectors(part.ravel()).reshape(*part.shape, self.index.dim)
            scores[start : start + step] = inner_products(vectors, queries[start : start + step])
        if known is not rows:
            scores[rows < 0] = -np.inf
        return scores

    @property
    def _tolerance(self) -> float:
        """By how much two sums of the same products of unit vectors may differ."""
        return 2 * self.index.dim * _ROUNDING

    def _put(
        self, result: tuple[FloatArray, RowArray], query: int, scores: FloatArray, rows: RowArray, top_k: int
    ) -> None:
        """Write the best of ascending rows into the line of a query."""
        chosen = best(scores, rows, top_k, self.passage_ids)
        result[0][query, : len(chosen)], result[1][query, : len(chosen)] = scores[chosen], rows[chosen]

    def _pass(
        self, queries: FloatArray, top_k: int, least: FloatArray, blocks: Iterable[RowArray]
    ) -> list[tuple[FloatArray, RowArray]]:
        """Look at all rows of the blocks, which ascend.

        Args:
            least: float32 (b,), what `top_k` rows score at least.

        Returns:
            Scores and ascending rows for each query, the best among them; top_k and two blocks of rows at most.
        """
        bounds = least.copy()
        kept = [(np.zeros(0, np.float32), np.zeros(0, np.int64))] * len(queries)
        for block in blocks:
            vectors = self.index.vectors(block)
            near = vectors @ queries.T >= bounds - self._tolerance
            for query in np.flatnonzero(near.any(axis=0)):
                places = np.flatnonzero(near[:, query])
                scores = inner_products(vectors[places], queries[query])
                places = places[scores >= bounds[query]]
                scores = scores[scores >= bounds[query]]
                joined = np.concatenate([kept[query][0], scores]), np.concatenate([kept[query][1], block[places]])
                if len(joined[0]) > top_k + _BLOCK:
                    chosen = np.sort(best(*joined, top_k, self.passage_ids))
                    joined = joined[0][chosen], joined[1][chosen]
                    bounds[query] = joined[0].min()
                kept[query] = joined
        return kept


def _blocks(count: int, bits: NDArray[np.uint8] | None) -> Iterator[RowArray]:
    """So many rows in ascending blocks; with bits, those whose bit is set."""
    for start in range(0, count, _BLOCK):  # which divides by eight
        rows = np.arange(start, min(start + _BLOCK, count))
        if bits is None:
            yield rows
            continue
        marks = np.unpackbits(bits[start // 8 : (start + _BLOCK) // 8], count=len(rows), bitorder="little")
        if marks.any():
            yield rows[marks.astype(np.bool_)]


def _narrowed(scores: FloatArray, rows: RowArray, top_k: int) -> tuple[FloatArray, RowArray]:
    """The first `top_k` columns of scores and rows (b, k), or all and padding."""
    kept_scores, kept_rows = _empty(len(scores), top_k)
    kept_scores[:, : scores.shape[1]], kept_rows[:, : rows.shape[1]] = scores[:, :top_k], rows[:, :top_k]
    return kept_scores, kept_rows


def _empty(queries: int, top_k: int) -> tuple[FloatArray, RowArray]:
    return np.full((queries, top_k), -np.inf, np.float32), np.full((queries, top_k), -1, np.int64)
