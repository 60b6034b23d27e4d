"""Finds passages by their words: the score is BM25 over the whole version (`shoal.lexical`)."""

from collections.abc import Sequence
from dataclasses import replace

from shoal.lexical.index import LexicalIndex
from shoal.lexical.term_lists import TermList, scores_of
from shoal.records import FloatArray, RowArray
from shoal.shard.cut import best
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
        """Find the best of one query after the other; a passage without a word of the query is not found."""
        hits, known_scores = RawHits.empty(len(queries), top_k), []
        for number, (query, selected, known) in enumerate(zip(queries, selections, known_rows, strict=True)):
            holds = None if selected is None else selected.tester(self._count)
            found = self.index.best(self._lists(query), top_k, holds, known)
            chosen = best(found.scores, found.rows, top_k, self._passage_ids)
            hits.scores[number, : len(chosen)], hits.rows[number, : len(chosen)] = (
                found.scores[chosen],
                found.rows[chosen],
            )
            known_scores.append(found.known_scores)
        return replace(hits, known_scores=known_scores)

    def score(self, query: ShardQuery, rows: RowArray, found: FloatArray) -> FloatArray:
        """Score rows for one query."""
        return scores_of(self._lists(query), rows)

    def _lists(self, query: ShardQuery) -> list[TermList]:
        if query.statistics is None:
            return self.index.lists(query.text)
        return self.index.current_lists(query.statistics)
