"""A retriever finds, for a query, the rows of one shard that score highest in its own way.

To add one, write a file with a `ShardRetriever` beside `dense` and `lexical`, name it in `shoal.shard.retrievers`, and
add it to the modes that use it (`shoal.modes.RETRIEVERS_OF`). Its scores are merged over the shards, fused with those
of the others and shown by `explain` under its name.

A retriever promises that

* its scores are finite, and higher is better. Merging and fusion compare them over shards, so that they must not depend
  on what else is in the shard, nor on the other queries of a call.
* every row has one score for a query, whether the retriever found the row or was asked about it.
* the rows that it finds are in the order of their scores, equal ones in the order of their passage ids, and so is the
  cut: of rows that score alike at place `top_k`, those with the least ids are in. Then a list is the beginning of every
  longer one, whatever the number of shards. `shoal.shard.cut.best` cuts so. One that is approximate keeps this for what
  it has compared.
* a row that the selection of a query leaves out is not found, and no row is found twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from shoal.records import FloatArray, RowArray
from shoal.shard.messages import ShardQuery

if TYPE_CHECKING:  # it imports FAISS
    from shoal.shard.selection import Selection


@dataclass(frozen=True, slots=True)
class RawHits:
    """What one retriever found for b queries.

    scores, rows: as in `shoal.shard.messages.Hits`.
    known_scores: for each query float32 (n,), the scores of the n rows that other retrievers had found before.
    """

    scores: FloatArray
    rows: RowArray
    known_scores: Sequence[FloatArray]

    @classmethod
    def empty(cls, queries: int, top_k: int) -> "RawHits":
        """Hits to be filled in: nothing found for any query, nothing asked about rows."""
        shape = (queries, top_k)
        none = np.zeros(0, np.float32)
        return cls(np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64), [none] * queries)


class ShardRetriever(Protocol):
    """One way of searching one shard. Safe for concurrent calls."""

    def search(
        self,
        queries: Sequence[ShardQuery],
        top_k: int,
        selections: "Sequence[Selection | None]",
        known_rows: Sequence[RowArray],
    ) -> RawHits:
        """Find the best `top_k` rows for each of b queries.

        Args:
            queries: Those whose mode uses this retriever.
            top_k: Rows to find for each query at most.
            selections: What the filter of each query lets through; None for all rows.
            known_rows: For each query int64 (n,), rows that other retrievers found before and whose scores are wanted.

        Raises:
            InvalidArgument: A query has not what this retriever reads.
        """
        ...

    def score(self, query: ShardQuery, rows: RowArray, found: FloatArray) -> FloatArray:
        """Score rows, int64 (n,), that other retrievers found after this one; returns float32 (n,).

        Args:
            found: float32 (m,), the scores of what this retriever found for the query, for one that cannot score any
                row.
        """
        ...
