"""A retriever finds, for a query, the rows of one shard that score highest in its own way.

To add one, write a file with a `ShardRetriever` beside `dense` and `lexical`, name it in `retriever_names` and in
`open_retrievers`, and add it to the modes that use it (`shoal.records.RETRIEVERS_OF`). Its scores are merged over the
shards, fused with those of the others and shown by `explain` under its name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from shoal.index_root.manifest import Manifest
from shoal.records import FloatArray, RowArray
from shoal.shard.messages import ShardQuery

if TYPE_CHECKING:  # they import FAISS and bm25s, which the coordinator of a search does without
    from shoal.indexes import ShardIndex
    from shoal.shard.passages import Passages
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
            queries: those whose mode uses this retriever.
            top_k: rows to find for each query at most.
            selections: what the filter of each query lets through; None for all rows.
            known_rows: for each query int64 (n,), rows that other retrievers found before and whose scores are wanted.

        Raises:
            InvalidArgument: a query has not what this retriever reads.
        """
        ...

    def score(self, query: ShardQuery, rows: RowArray, found: FloatArray) -> FloatArray:
        """Score rows, int64 (n,), that other retrievers found after this one; returns float32 (n,).

        found: float32 (m,), the scores of what this retriever found for the query, for one that cannot score any row.
        """
        ...


def retriever_names(manifest: Manifest) -> tuple[str, ...]:
    """Name the retrievers of the shards of a version."""
    return ("dense",) if manifest.lexical is None else ("dense", "lexical")


def open_retrievers(
    manifest: Manifest, index: "ShardIndex", passages: "Passages", paths: Mapping[str, Path]
) -> dict[str, ShardRetriever]:
    """Open the retrievers of a shard of a version, in the order in which they search.

    Args:
        manifest: of the version.
        index: the vector index of the shard.
        passages: those of the shard.
        paths: where its files lie, by their names in `shoal.index_root.layout`.

    Raises:
        CorruptIndex: files do not fit together.
    """
    from shoal.shard.dense import DenseRetriever
    from shoal.shard.lexical import LexicalRetriever

    retrievers: dict[str, ShardRetriever] = {"dense": DenseRetriever(index)}
    if manifest.lexical is not None:
        retrievers["lexical"] = LexicalRetriever(paths, passages, manifest.lexical)
    return retrievers
