"""Merging what the shards found for one query into one ranking."""

from collections.abc import Sequence
from math import isfinite
from operator import itemgetter
from typing import Any

import numpy as np

from shoal.records import Candidate, FloatArray, Hits, Passage


def merge(found: Sequence[tuple[int, Hits, int]], top_k: int, lexical: bool = False) -> list[Candidate]:
    """Return the best `top_k` passages of all shards, best first; equal scores are ordered by id.

    found: (shard, hits, query) for every shard that answered; `query` is the row of the hits to read. lexical: whether
    the hits were found by words.

    If every shard breaks its own ties in the same order, the result is that of one sort over the whole index, however
    the passages are spread over shards.
    """
    columns = [hits.scores[query, : min(len(hits.ids[query]), top_k)] for _, hits, query in found]
    total = sum(map(len, columns))
    if total > top_k:
        # Only what reaches the k-th best score is worth a Python object.
        cut = np.partition(np.concatenate(columns), total - top_k)[total - top_k]
        columns = [column[: np.count_nonzero(column >= cut)] for column in columns]
    entries: list[tuple[float, str, int, int, Passage | None, float | None]] = []
    for (shard, hits, query), column in zip(found, columns, strict=True):
        count = len(column)
        rows = hits.rows[query, :count].tolist()
        passages = hits.passages[query][:count] if hits.passages is not None else [None] * count
        others = _known(hits.others[query, :count]) if hits.others is not None else [None] * count
        entries += zip(column.tolist(), hits.ids[query][:count], [shard] * count, rows, passages, others, strict=True)
    entries.sort(key=itemgetter(1))
    entries.sort(key=itemgetter(0), reverse=True)
    return [
        Candidate(id_, score, rank, shard, row, passage, **_stage(lexical, score, rank, other))
        for rank, (score, id_, shard, row, passage, other) in enumerate(entries[:top_k], 1)
    ]


def _known(scores: FloatArray) -> list[float | None]:
    return [score if isfinite(score) else None for score in scores.tolist()]


def _stage(lexical: bool, score: float, rank: int, other: float | None) -> dict[str, Any]:
    if lexical:
        return {"lexical_score": score, "lexical_rank": rank, "dense_score": other}
    return {"dense_score": score, "dense_rank": rank, "lexical_score": other}
