"""Merging what the shards found for one query into one ranking for each retriever."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from operator import itemgetter

import numpy as np

from shoal.records import Candidate, Passage, RowRef
from shoal.search.shard_client import ShardResult
from shoal.shard.messages import Hits


def merge_results(
    results: Mapping[int, ShardResult], retrievers: Sequence[str], top_k: int
) -> dict[str, list[Candidate]]:
    """Merge the results of all shards for one query; returns the best `top_k` by retriever."""
    rankings: dict[str, list[Candidate]] = {}
    for name in retrievers:
        hits = [
            (shard, result.hits.by_retriever[name], result.position)
            for shard, result in results.items()
            if name in result.hits.by_retriever
        ]
        rankings[name] = merge(hits, top_k, name)
    return rankings


def merge(hits_of_shards: Sequence[tuple[int, Hits, int]], top_k: int, retriever: str = "dense") -> list[Candidate]:
    """Return the best `top_k` passages of all shards, best first; equal scores are ordered by id.

    If every shard breaks its own ties in the same order, the result is that of one sort over the whole index, however
    the passages are spread over shards.

    Args:
        hits_of_shards: (shard, hits, query) for every shard that answered; `query` is the row of the hits to read.
        top_k: Candidates at most.
        retriever: Name of the one that found the hits.
    """
    columns = [hits.scores[query, : min(len(hits.ids[query]), top_k)] for _, hits, query in hits_of_shards]
    total = sum(map(len, columns))
    if total > top_k:
        # Only what reaches the k-th best score is worth a Python object.
        cut = np.partition(np.concatenate(columns), total - top_k)[total - top_k]
        columns = [column[: np.count_nonzero(column >= cut)] for column in columns]
    entries: list[tuple[float, str, int, int, Passage | None, int]] = []
    other_scores: dict[int, dict[str, list[float]]] = {}
    for (shard, hits, query), column in zip(hits_of_shards, columns, strict=True):
        count = len(column)
        rows = hits.rows[query, :count].tolist()
        passages = hits.passages[query][:count] if hits.passages is not None else [None] * count
        if hits.other_scores:
            other_scores[shard] = {name: scores[query, :count].tolist() for name, scores in hits.other_scores.items()}
        ids = hits.ids[query][:count]
        entries += zip(column.tolist(), ids, [shard] * count, rows, passages, range(count), strict=True)
    entries.sort(key=itemgetter(1))
    entries.sort(key=itemgetter(0), reverse=True)
    candidates = []
    for rank, (score, passage_id, shard, row, passage, position) in enumerate(entries[:top_k], 1):
        scores = {retriever: score}
        for name, others in other_scores.get(shard, {}).items():
            if isfinite(others[position]):
                scores[name] = others[position]
        candidates.append(Candidate(passage_id, score, rank, RowRef(shard, row), passage, scores, {retriever: rank}))
    return candidates


def ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Candidates in their order, numbered anew."""
    return [replace(candidate, rank=rank) for rank, candidate in enumerate(candidates, 1)]
