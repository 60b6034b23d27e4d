"""What travels between the coordinator of a search and the shards.

Everything here is pickled for every call, so each message packs itself: what its queries have in common is in it once.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from shoal.filters import Filter
from shoal.lexical.scoring import TermStatistics
from shoal.modes import Mode
from shoal.records import FloatArray, Passage, RowArray, TermWeights

MESSAGE_BYTES = 16 * 2**20
"""Bytes of texts and vectors that one message between services carries; Serve's limit is several times that.

Rows alone do not bound a message: a passage may be of several megabytes.
"""
_MODES: tuple[Mode, ...] = get_args(Mode)
"""All modes, in the order that stands for them in a message."""
_MAX_INT32 = 2**31 - 1
"""The largest number that a packed message holds."""


@dataclass(frozen=True, slots=True)
class ShardQuery:
    """What one query asks of a shard.

    text: the query as it was typed; not read in mode `dense`.
    vector: float32 (dim,), L2-normalised; None in modes `lexical` and `sparse`.
    filter: what passages must match, checked against the fields of the version; None for all passages.
    search_params: parameters of the vector index in the place of those of the version; "" for those.
    statistics: of the corpus as it is now; None for those that the version was built with.
    terms: those that the sparse encoder gives the query; None where no sparse retriever is asked.
    """

    text: str
    vector: FloatArray | None
    mode: Mode
    filter: Filter | None = None
    search_params: str = ""
    statistics: TermStatistics | None = None
    terms: TermWeights | None = None


def dense_queries(vectors: FloatArray, filters: Sequence[Filter | None] | None = None) -> list[ShardQuery]:
    """Make queries of vectors alone, float32 (b, dim), each with its filter if there are any."""
    trees = [None] * len(vectors) if filters is None else filters
    return [ShardQuery("", vector, "dense", tree) for vector, tree in zip(vectors, trees, strict=True)]


@dataclass(frozen=True, slots=True)
class ShardSearch:
    """One call to a shard: several queries of one index version, each in its own mode.

    top_k: rows that each retriever finds for each query at most.
    with_passages: passages come with the hits, unless all of them together exceed MESSAGE_BYTES.
    position: of the log, that some entry has; a shard that has not seen it looks for it at once.
    """

    version: str
    queries: Sequence[ShardQuery]
    top_k: int
    with_passages: bool
    position: int = 0

    @property
    def pace_kind(self) -> Hashable | None:
        """What decides, beside the number of queries, how long the search takes; None where that is not known before.

        By vector alone it depends on parameters and on how much is looked for. Words are more or less frequent, and a
        filter may have to be evaluated.
        """
        if any(query.mode != "dense" or query.filter is not None for query in self.queries):
            return None
        return frozenset(query.search_params for query in self.queries), self.top_k.bit_length(), self.with_passages

    def __reduce__(self) -> tuple[Any, ...]:
        # Vectors as one array, a byte for each mode, filters and parameters only if there are any: as objects,
        # the queries would take twice the time. A filter that queries share stays one object.
        queries = self.queries
        vectors = [query.vector for query in queries if query.vector is not None]
        lacking = None if len(vectors) == len(queries) else [query.vector is None for query in queries]
        filters = [query.filter for query in queries]
        params = [query.search_params for query in queries]
        statistics = [query.statistics for query in queries]
        terms = [query.terms for query in queries]
        return _unpack, (
            self.version,
            self.top_k,
            self.with_passages,
            [query.text for query in queries],
            bytes(_MODES.index(query.mode) for query in queries),
            np.stack(vectors) if vectors else None,
            lacking,
            filters if any(filters) else None,
            params if any(params) else None,
            statistics if any(statistics) else None,
            terms if any(terms) else None,
            self.position,
        )


def _unpack(  # noqa: PLR0913 - the parts of a message as they travel
    version: str,
    top_k: int,
    with_passages: bool,
    texts: list[str],
    modes: bytes,
    vectors: FloatArray | None,
    lacking: list[bool] | None,
    filters: list[Filter | None] | None,
    params: list[str] | None,
    statistics: list[TermStatistics | None] | None,
    terms: list[TermWeights | None] | None,
    position: int,
) -> ShardSearch:
    none: list[None] = [None] * len(texts)
    rows: Sequence[FloatArray | None] = none
    if vectors is not None:
        given = iter(vectors)
        rows = list(vectors) if lacking is None else [None if lacks else next(given) for lacks in lacking]
    parts = filters or none, params or [""] * len(texts), statistics or none, terms or none
    queries = list(map(ShardQuery, texts, rows, map(_MODES.__getitem__, modes), *parts))
    return ShardSearch(version, queries, top_k, with_passages, position)


REPLICA_ROWS = 2**32
"""Rows that came with the log are numbered by each replica of a shard for itself, from a multiple of this that only it
has: which of them lie together depends on when it looked at the log. Rows of the version are the same everywhere."""


def replica_of(row: int) -> int:
    """Which replica has numbered a row; 0 for a row that all of them know."""
    return row // REPLICA_ROWS


@dataclass(frozen=True, slots=True)
class Hits:
    """What one retriever of a shard found for a batch of b queries.

    scores: float32 (b, k), descending in each row; higher is better.
    rows: int64 (b, k), rows of the shard; -1 where fewer than k were found (its score is -inf).
    ids: the passage ids of the valid rows, one list a query, in the order of `rows`.
    passages: the passages of the valid rows in the same order, or None when the caller fetches them after the merge.
    other_scores: by retriever, float32 (b, k), the scores that the other retrievers give the same rows, and -inf for
    queries that use this one alone; None if no query uses several.
    """

    scores: FloatArray
    rows: RowArray
    ids: list[list[str]]
    passages: list[list[Passage]] | None = None
    other_scores: Mapping[str, FloatArray] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Rows of four bytes where these are enough, which they are in any shard of less than two billion passages.
        rows = self.rows.astype(np.int32) if self.rows.max(initial=0) <= _MAX_INT32 else self.rows
        return _unpack_hits, (self.scores, rows, self.ids, self.passages, self.other_scores)


def _unpack_hits(
    scores: FloatArray,
    rows: NDArray[np.integer[Any]],
    ids: list[list[str]],
    passages: list[list[Passage]] | None,
    other_scores: Mapping[str, FloatArray] | None,
) -> Hits:
    return Hits(scores, rows.astype(np.int64, copy=False), ids, passages, other_scores)


@dataclass(frozen=True, slots=True)
class ShardHits:
    """What one shard found for a batch of b queries.

    by_retriever: hits of b rows by the name of the retriever, without a hit for queries whose mode does not use it; a
    retriever that no query uses is not in it.
    matches: how many passages the filter of each query lets through, None for one without; None if no query has one.
    position: of the log, up to which it has seen all entries.
    """

    by_retriever: Mapping[str, Hits]
    matches: list[int | None] | None = None
    position: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardHits, (self.by_retriever, self.matches, self.position)


@dataclass(frozen=True, slots=True)
class Fetched:
    """Passages of the first asked-for rows, and their vectors, float32 (n, dim), if these were asked for."""

    passages: list[Passage]
    vectors: FloatArray | None = None
