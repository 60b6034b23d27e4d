"""Joins what the segments of a shard found: the best of all of them, as one shard would have found it."""

from collections.abc import Sequence

import numpy as np

from shoal.records import FloatArray
from shoal.shard.cut import PassageIds, best
from shoal.shard.retrieval import RetrieverHits

Part = tuple[RetrieverHits, int]
"""What a segment found, and the number of its first row."""


def joined_matches(counts: Sequence[list[int | None] | None]) -> list[int | None] | None:
    """Add up how many rows each filter lets through in the segments; None where there is no filter."""
    lists = [several for several in counts if several is not None]
    if not lists:
        return None
    return [
        None if several[0] is None else sum(count or 0 for count in several) for several in zip(*lists, strict=True)
    ]


def joined(parts: Sequence[Part], top_k: int, passage_ids: PassageIds) -> RetrieverHits:
    """Join the hits of segments; rows count on from the first row of each segment.

    Each row has one score, whichever segment it lies in, so that the best of the segments are the best of all.

    Args:
        parts: In the order of their first rows, each with the hits of the same queries.
        top_k: Rows for each query at most.
        passage_ids: Of such rows; asked only for those whose score others have too.
    """
    queries = len(parts[0][0].rows)
    scores = np.full((queries, top_k), -np.inf, np.float32)
    rows = np.full((queries, top_k), -1, np.int64)
    names = dict.fromkeys(name for hits, _ in parts for name in hits.other_scores)
    others = {name: np.full((queries, top_k), -np.inf, np.float32) for name in names}
    for query in range(queries):
        counts = [int(np.count_nonzero(hits.rows[query] >= 0)) for hits, _ in parts]
        all_rows = np.concatenate(
            [hits.rows[query, :count] + start for (hits, start), count in zip(parts, counts, strict=True)]
        )
        ascending = np.argsort(all_rows)
        all_rows = all_rows[ascending]
        all_scores = _line([hits.scores for hits, _ in parts], query, counts)[ascending]
        chosen = best(all_scores, all_rows, top_k, passage_ids)
        size = len(chosen)
        scores[query, :size], rows[query, :size] = all_scores[chosen], all_rows[chosen]
        for name, target in others.items():
            lines = [hits.other_scores.get(name, np.full_like(hits.scores, -np.inf)) for hits, _ in parts]
            target[query, :size] = _line(lines, query, counts)[ascending][chosen]
    return RetrieverHits(scores, rows, others)


def _line(arrays: Sequence[FloatArray], query: int, counts: Sequence[int]) -> FloatArray:
    line: FloatArray = np.concatenate([array[query, :count] for array, count in zip(arrays, counts, strict=True)])
    return line
