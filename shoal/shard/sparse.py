"""Finds passages by the terms of a learned sparse model: the score is the dot product (`shoal.sparse`)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shoal.errors import InvalidArgument
from shoal.records import FloatArray, RowArray
from shoal.shard.cut import PassageIds, best_positive
from shoal.shard.messages import ShardQuery
from shoal.shard.retriever import RawHits
from shoal.shard.selection import Selection
from shoal.sparse.index import SparseIndex


class SparseRetriever:
    """Searches the learned terms of a shard; implements `shoal.shard.retriever.ShardRetriever`."""

    def __init__(self, index: SparseIndex, count: int, passage_ids: PassageIds) -> None:
        self._index, self._count, self._passage_ids = index, count, passage_ids

    def search(
        self,
        queries: Sequence[ShardQuery],
        top_k: int,
        selections: Sequence[Selection | None],
        known_rows: Sequence[RowArray],
    ) -> RawHits:
        """Score all passages for one query after the other; a passage that shares no term with it is not found."""
        hits, known_scores = RawHits.empty(len(queries), top_k), []
        for number, (query, selected, rows) in enumerate(zip(queries, selections, known_rows, strict=True)):
            scores = self._scores(query)
            among = scores if selected is None else np.where(selected.mask(self._count), scores, 0)
            chosen = best_positive(among, top_k, self._passage_ids)
            hits.scores[number, : len(chosen)], hits.rows[number, : len(chosen)] = scores[chosen], chosen
            known_scores.append(scores[rows])
        return replace(hits, known_scores=known_scores)

    def score(self, query: ShardQuery, rows: RowArray, found: FloatArray) -> FloatArray:
        """Score rows for one query."""
        scores: FloatArray = self._scores(query)[rows]
        return scores

    def _scores(self, query: ShardQuery) -> FloatArray:
        if query.terms is None:
            raise InvalidArgument("a query brings no terms of the sparse encoder", param="queries")
        return self._index.scores(query.terms)
