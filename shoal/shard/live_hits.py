"""Joins what the segments of a shard found: the best of all of them, as one shard would have found it."""

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import pyarrow as pa

from shoal.records import FloatArray, Passage, RowArray
from shoal.shard.cut import best
from shoal.shard.messages import Hits, ShardHits

Part = tuple[ShardHits, int]
"""What a segment found, and the number of its first row."""


def joined(parts: Sequence[Part], queries: int, top_k: int) -> ShardHits:
    """Join the hits of segments for so many queries; rows count on from the first row of each segment.

    Each row has one score, whichever segment it lies in, so that the best of the segments are the best of all.
    """
    names = dict.fromkeys(name for found, _ in parts for name in found.by_retriever)
    by_retriever = {
        name: _joined([(found.by_retriever[name], start) for found, start in parts], queries, top_k) for name in names
    }
    return ShardHits(by_retriever, _matches([found.matches for found, _ in parts if found.matches is not None]))


def _matches(counts: Sequence[list[int | None]]) -> list[int | None] | None:
    if not counts:
        return None
    return [
        None if several[0] is None else sum(count or 0 for count in several) for several in zip(*counts, strict=True)
    ]


def _joined(parts: Sequence[tuple[Hits, int]], queries: int, top_k: int) -> Hits:
    scores = np.full((queries, top_k), -np.inf, np.float32)
    rows = np.full((queries, top_k), -1, np.int64)
    others = dict.fromkeys(name for hits, _ in parts for name in hits.other_scores or {})
    other_scores = {name: np.full((queries, top_k), -np.inf, np.float32) for name in others}
    ids: list[list[str]] = []
    passages: list[list[Passage]] | None = None if any(hits.passages is None for hits, _ in parts) else []
    for query in range(queries):
        counts = [len(hits.ids[query]) for hits, _ in parts]
        all_rows = np.concatenate(
            [hits.rows[query, :count] + start for (hits, start), count in zip(parts, counts, strict=True)]
        )
        all_scores = _line([hits.scores for hits, _ in parts], query, counts)
        all_ids = list(chain.from_iterable(hits.ids[query] for hits, _ in parts))
        order = _order(all_scores, all_rows, all_ids, top_k)
        size = len(order)
        scores[query, :size], rows[query, :size] = all_scores[order], all_rows[order]
        ids.append([all_ids[place] for place in order])
        if passages is not None:
            every = list(chain.from_iterable((hits.passages or [])[query] for hits, _ in parts))
            passages.append([every[place] for place in order])
        for name, target in other_scores.items():
            lines = [
                hits.scores * -np.inf
                if not hits.other_scores or name not in hits.other_scores
                else hits.other_scores[name]
                for hits, _ in parts
            ]
            target[query, :size] = _line(lines, query, counts)[order]
    return Hits(scores, rows, ids, passages, other_scores or None)


def _line(arrays: Sequence[FloatArray], query: int, counts: Sequence[int]) -> FloatArray:
    line: FloatArray = np.concatenate([array[query, :count] for array, count in zip(arrays, counts, strict=True)])
    return line


def _order(scores: FloatArray, rows: RowArray, ids: Sequence[str], top_k: int) -> list[int]:
    """Places of the best, best first; equal scores by id."""
    ascending = np.argsort(rows)
    id_of: Mapping[int, str] = dict(zip(rows.tolist(), ids, strict=True))
    chosen = best(
        scores[ascending],
        rows[ascending],
        top_k,
        lambda some: pa.array([id_of[row] for row in some.tolist()], pa.string()),
    )
    order: list[int] = ascending[chosen].tolist()
    return order
