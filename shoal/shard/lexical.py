"""Finds passages by their words: the score is BM25 over the whole version (`shoal.lexical`)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shoal.lexical.index import LexicalIndex
from shoal.records import FloatArray, RowArray
from shoal.shard.cut import best_positive
from shoal.shard.messages import ShardQuery
from shoal.shard.passages import Passages
from shoal.shard.retriever import RawHits
from shoal.shard.selection import Selection


class LexicalRetriever:
    """Searches the lexical index of a shard; implements `shoal.shard.retriever.ShardRetriever`."""

    def __init__(self, index: LexicalIndex, passages: Passages) -> None:
        self.index = index
        """What it searches."""
        self._count, self._passage_ids = passages.count, passages.ids

    def search(
        self,
        queries: Sequence[ShardQuery],
        top_k: int,
        selections: Sequence[Selection | None],
        known_rows: Sequence[RowArray],
    ) -> RawHits:
        """Score all passages for one query after the other; a passage without a word of the query is not found."""
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
        if query.statistics is None:
            return self.index.scores(query.text)
        return self.index.current_scores(query.statistics)
