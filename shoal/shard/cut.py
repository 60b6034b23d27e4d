"""The best of many rows: by score, and of equal scores by passage id.

Whatever a search is asked for, equal scores stand in one order, so that a short list is the beginning of a longer one
and does not depend on how the passages are spread over shards.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shoal.records import RowArray
from shoal.shard.arrays import to_numbers

PassageIds = Callable[[RowArray], pa.StringArray]
"""Gives the passage ids of rows, int64 (n,) ascending."""
_BLOCK = 8192
"""Ids that are compared at a time: of equal scores there may be as many as passages."""

Positions = NDArray[np.intp]
Scores = NDArray[np.floating[Any]]


def best(scores: Scores, rows: RowArray, top_k: int, passage_ids: PassageIds) -> Positions:
    """Find the `top_k` highest scores, equal ones by id. Ids of no more than top_k and a block of rows are held.

    Args:
        scores: float (n,), finite.
        rows: int64 (n,), ascending, what is scored.
        top_k: Positions at most.
        passage_ids: Asked only for rows whose score others have too.

    Returns:
        Positions in the scores, best first.
    """
    if len(scores) <= top_k:
        return _in_order(np.arange(len(scores)), scores, rows, passage_ids)
    if top_k < 1:
        return np.zeros(0, np.intp)
    cut = np.partition(scores, len(scores) - top_k)[len(scores) - top_k]
    above, level = np.flatnonzero(scores > cut), np.flatnonzero(scores == cut)
    level = _first_by_id(level, rows, top_k - len(above), passage_ids)
    return _in_order(np.sort(np.concatenate([above, level])), scores, rows, passage_ids)


def best_positive(scores: NDArray[np.float32], top_k: int, passage_ids: PassageIds) -> RowArray:
    """Return the rows of the `top_k` highest scores above 0, int64, best first; scores: float32, one for each row."""
    rows = np.flatnonzero(scores > 0)  # of all scores most are 0, which a partition takes long over
    chosen: RowArray = rows[best(scores[rows], rows, top_k, passage_ids)]
    return chosen


def _first_by_id(positions: Positions, rows: RowArray, count: int, passage_ids: PassageIds) -> Positions:
    """The positions of the `count` least ids; takes and returns ascending ones."""
    kept = positions[:0]
    for start in range(0, len(positions), _BLOCK):
        kept = np.concatenate([kept, positions[start : start + _BLOCK]])
        if len(kept) > count:
            least = pc.bottom_k_unstable(passage_ids(rows[kept]), count)
            kept = np.sort(kept[to_numbers(least)])
    return kept


def _in_order(positions: Positions, scores: Scores, rows: RowArray, passage_ids: PassageIds) -> Positions:
    """Sort ascending positions by score, equal ones by id."""
    chosen = scores[positions]
    order = np.argsort(-chosen, kind="stable")
    equal = chosen[order[1:]] == chosen[order[:-1]]
    if not equal.any():
        return positions[order]
    tied = np.zeros(len(order), np.bool_)
    tied[order[1:][equal]] = tied[order[:-1][equal]] = True
    by_id = to_numbers(pc.sort_indices(passage_ids(rows[positions[tied]])))
    places = np.zeros(len(order), np.int64)
    places[np.flatnonzero(tied)[by_id]] = np.arange(len(by_id))
    return positions[np.lexsort((places, -chosen))]
