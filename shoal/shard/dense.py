"""Finds passages by their vectors: the score is the inner product, which is the cosine of normalised vectors."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shoal.errors import InvalidArgument
from shoal.indexes import ShardIndex
from shoal.records import FloatArray, RowArray
from shoal.shard import selection
from shoal.shard.cut import PassageIds
from shoal.shard.messages import ShardQuery
from shoal.shard.nearest import ExactSearch, inner_products
from shoal.shard.retriever import RawHits


class DenseRetriever:
    """Searches the vector index of a shard; implements `shoal.shard.retriever.ShardRetriever`."""

    def __init__(self, index: ShardIndex, passage_ids: PassageIds) -> None:
        self._index = index
        self._passage_ids = passage_ids

    def search(
        self,
        queries: Sequence[ShardQuery],
        top_k: int,
        selections: Sequence[selection.Selection | None],
        known_rows: Sequence[RowArray],
    ) -> RawHits:
        """Search once for each of the different selections and search parameters, with all of its queries."""
        vectors = self._stacked(queries)
        known_scores = [
            self._exact(query, rows) if len(rows) else np.zeros(0, np.float32)
            for query, rows in zip(queries, known_rows, strict=True)
        ]
        groups: dict[tuple[int, str], list[int]] = {}
        for number, (query, selected) in enumerate(zip(queries, selections, strict=True)):
            groups.setdefault((id(selected), query.search_params), []).append(number)
        if len(groups) == 1:
            return RawHits(*self._find(vectors, top_k, selections[0], queries[0].search_params), known_scores)
        hits = replace(RawHits.empty(len(queries), top_k), known_scores=known_scores)
        for (_, search_params), numbers in groups.items():
            found = self._find(vectors[numbers], top_k, selections[numbers[0]], search_params)
            hits.scores[numbers], hits.rows[numbers] = found
        return hits

    def _find(
        self, vectors: FloatArray, top_k: int, selected: selection.Selection | None, search_params: str
    ) -> tuple[FloatArray, RowArray]:
        """Search for float32 (b, dim) among the same rows with the same parameters."""
        if selected is not None:
            return selection.search(self._index, vectors, top_k, selected, self._passage_ids, search_params)
        if self._index.is_exact:
            return ExactSearch(self._index, self._passage_ids).search(vectors, top_k)
        return self._index.search(vectors, top_k, search_params=search_params)

    def score(self, query: ShardQuery, rows: RowArray, found: FloatArray) -> FloatArray:
        """Score rows exactly, or by what is known of them where the index cannot give vectors back."""
        try:
            return self._exact(query, rows)
        except InvalidArgument:
            # What the index did not find scores no more than what it found last.
            return np.full(len(rows), found.min(initial=1.0), np.float32)

    def _exact(self, query: ShardQuery, rows: RowArray) -> FloatArray:
        assert query.vector is not None
        return inner_products(self._index.vectors(rows), query.vector)

    def _stacked(self, queries: Sequence[ShardQuery]) -> FloatArray:
        vectors = []
        for query in queries:
            shape = None if query.vector is None else query.vector.shape
            if query.vector is None or shape != (self._index.dim,):
                raise InvalidArgument(
                    f"a query has a vector of shape {shape}, the index needs (b, {self._index.dim})", param="queries"
                )
            vectors.append(query.vector)
        return np.array(vectors, dtype=np.float32)
