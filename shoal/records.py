"""The records that travel between the parts of Shoal.

Plain frozen dataclasses: they pickle cheaply between Ray processes and carry no behaviour beyond what names them.
Validation of outside input happens at the edges (`shoal.sources` for corpora, `serve.dialects` for requests).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
RowArray = NDArray[np.int64]
MetadataValue = str | int | float | bool | list[str]
Metadata = Mapping[str, MetadataValue]
Mode = Literal["dense", "lexical", "hybrid"]
"""How stage one searches: by vectors, by words, or by both."""
Rerank = bool | Literal["late"]
"""What orders the candidates: nothing more, the server's reranker, or the token vectors that the shards hold."""


@dataclass(frozen=True, slots=True)
class Passage:
    """What is indexed. `metadata` values are strings, numbers, booleans or lists of strings.

    vector: float32 (dim,), not normalised; only between a source that brings vectors and the build.
    """

    id: str
    text: str
    title: str | None = None
    metadata: Metadata = field(default_factory=dict)
    vector: FloatArray | None = field(default=None, compare=False, repr=False)

    @property
    def content(self) -> str:
        """What encoders and rerankers read: the title, if there is one, before the text."""
        return f"{self.title} {self.text}" if self.title else self.text

    def __reduce__(self) -> tuple[Any, ...]:
        # What dataclasses generate looks its fields up for every passage, which takes longer than the passage.
        return Passage, (self.id, self.text, self.title, self.metadata, self.vector)


@dataclass(frozen=True, slots=True)
class Queries:
    """What one call asks of a shard: b queries, each in its own mode.

    vectors: float32 (b, dim), L2-normalised; the rows of lexical queries are not read.
    texts: the b queries as they were typed; those of dense ones are not read.
    efforts: search parameters of each query, "" for those of the version; None if no query has any.
    """

    vectors: FloatArray
    texts: list[str]
    modes: list[Mode]
    efforts: list[str] | None = None

    @classmethod
    def dense(cls, vectors: FloatArray) -> "Queries":
        """Queries that are searched by vectors alone."""
        return cls(vectors, [""] * len(vectors), ["dense"] * len(vectors))


@dataclass(frozen=True, slots=True)
class Hits:
    """What one shard found for a batch of b queries, by vectors or by words.

    scores: float32 (b, k), descending in each row; higher is better.
    rows: int64 (b, k), rows of the shard; -1 where fewer than k were found (its score is -inf).
    ids: the passage ids of the valid rows, one list a query, in the order of `rows`.
    passages: the passages of the valid rows in the same order, or None when the caller fetches them after the merge.
    others: float32 (b, k), the scores that the other way of searching gives the same rows, and -inf for queries that
    are not hybrid; None if no query is.
    matches: how many passages the filter of each query lets through, None for one without; None if no query has one.
    """

    scores: FloatArray
    rows: RowArray
    ids: list[list[str]]
    passages: list[list[Passage]] | None = None
    others: FloatArray | None = None
    matches: list[int | None] | None = None


@dataclass(frozen=True, slots=True)
class ShardHits:
    """What one shard found for a batch of b queries in both ways.

    Both have b rows, without a hit for queries that are not searched that way; None where that holds for all of them.
    """

    dense: Hits | None
    lexical: Hits | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that stage one returned. Ranks count from 1 in the order of their scores.

    score, rank: in stage-one order; those of the fusion for a hybrid query.
    dense_score (cosine) and lexical_score (BM25) are None where the query was not searched that way; a rank is also
    None where the passage is not among the best of that way.
    """

    id: str
    score: float
    rank: int
    shard: int
    row: int
    passage: Passage | None = None
    dense_score: float | None = None
    dense_rank: int | None = None
    lexical_score: float | None = None
    lexical_rank: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """One query, validated. `deadline` is absolute, in seconds since the epoch; `mode` None leaves it to the server."""

    query: str
    top_k: int
    top_n: int
    rerank: Rerank
    deadline: float
    include_vector: bool = False
    explain: bool = False
    mode: Mode | None = None
    filter: Mapping[str, Any] | None = None
    """Conditions on metadata as the client wrote them; the pipeline checks them against the index (`shoal.filters`)."""
    recall: float | None = None
    """Share of the ten nearest passages that stage one shall find; None for what the version was tuned for."""


@dataclass(frozen=True, slots=True)
class Result:
    """One line of an answer. `score` is what the answer is ordered by: the retrieval score, or that of stage two, which
    is the rerank score or, for a hybrid query, what it was combined to with the scores of stage one."""

    id: str
    score: float
    retrieval_score: float
    retrieval_rank: int
    rerank_score: float | None
    passage: Passage
    vector: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class MissingShard:
    """A shard that did not take part in an answer, and why: `deadline`, `overloaded`, `unreachable`, `error`, or
    `suspended`, which is one that was silent for so long that queries do not wait for it until it answers again."""

    shard: int
    reason: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which part of the index answered. `fraction` is by passages, not by shards."""

    shards: int
    answered: int
    fraction: float
    missing: tuple[MissingShard, ...] = ()


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds spent in each stage, as the caller waited for them, in their order.

    queue: waiting for the encoder. retrieve: until the shards had answered, their queues included. merge: one ranking
    out of theirs. fetch: passages that did not come with the hits.
    """

    queue: float
    encode: float
    retrieve: float
    merge: float
    fetch: float
    rerank: float
    total: float

    def stages(self) -> Iterator[tuple[str, float]]:
        """Name every stage and its milliseconds."""
        for stage in self.__slots__:
            yield stage, getattr(self, stage)


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """The answer to one `SearchRequest`.

    degraded: None, or why the answer is less than what was asked for (a reranker that missed the deadline, a shard that
    is missing); an answer that is not reranked is in stage-one order. degradations: the same reasons, one word each.
    pairs: how many (query, passage) pairs the reranker scored.
    mode: how stage one searched.
    reranker: what ordered the candidates: the name of the server's reranker, or `late`; None if nothing has.
    explain: the plan, the timing of every shard and the scores of every candidate, when asked for.
    """

    index_version: str
    results: list[Result]
    reranked: bool
    coverage: Coverage
    degraded: str | None
    timings: Timings
    pairs: int = 0
    mode: Mode = "dense"
    reranker: str | None = None
    explain: dict[str, Any] | None = None
    degradations: tuple[str, ...] = ()
