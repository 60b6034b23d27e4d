"""The records that travel between the parts of Shoal.

Plain frozen dataclasses: they pickle cheaply between Ray processes and carry no behaviour beyond what names them.
Validation of outside input happens at the edges (`shoal.sources` for corpora, `serve.dialects` for requests).

Long because what travels between the parts is declared in one place.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shoal.modes import Mode
from shoal.namespaces import DEFAULT

FloatArray = NDArray[np.float32]
RowArray = NDArray[np.int64]
MetadataValue = str | int | float | bool | list[str]
Metadata = Mapping[str, MetadataValue]
InputType = Literal["query", "passage"]
"""What a text is to the encoder, which reads queries in another way than passages."""
Span = tuple[int, int]
"""Where something begins and ends in a text, in characters (Unicode code points)."""
ScoreScale = Literal["unit", "cosine", "logit"]
"""Where the scores of a reranker lie: from 0 to 1, from -1 to 1 as cosines do, or anywhere as logarithms of odds."""
Rerank = bool | Literal["late", "read"]
"""What orders the candidates: nothing more, the server's reranker, or the token vectors that the shards hold."""


class TermWeights(NamedTuple):
    """What a learned sparse model makes of one text.

    terms: int32 (n,), ascending, numbers of the terms whose weight is not 0. weights: float32 (n,), theirs.
    """

    terms: NDArray[np.int32]
    weights: FloatArray


def relevance_of(scores: FloatArray, scale: ScoreScale | None) -> FloatArray:
    """Return what scores, float32 (n,), say from 0 to 1: the odds that a logit stands for, a cosine above 0.

    The order stays, but for cosines below 0, which all become 0. None is a scale that is not known, taken for logits.
    """
    if scale in ("unit", "cosine"):
        return np.clip(scores, 0, 1)
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-scores)), np.float32)


def content_of(title: str | None, text: str) -> str:
    """What encoders and rerankers read of a passage: the title, if there is one, before the text, if there is one."""
    return f"{title} {text}" if title and text else title or text


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
        """What encoders and rerankers read."""
        return content_of(self.title, self.text)

    def __reduce__(self) -> tuple[Any, ...]:
        # What dataclasses generate looks its fields up for every passage, which takes longer than the passage.
        return Passage, (self.id, self.text, self.title, self.metadata, self.vector)


class RowRef(NamedTuple):
    """A row of a shard, which is what a passage is while a query is answered."""

    shard: int
    row: int


@dataclass(slots=True)
class Candidate:
    """A passage that stage one returned. Ranks count from 1 in the order of their scores. Nobody changes one.

    Not frozen: a query makes hundreds, and a frozen one takes four times as long.

    score, rank: in stage-one order; those of the fusion for a query of several retrievers.
    scores: by the retrievers that the query used (`dense` is a cosine, `lexical` BM25).
    ranks: by the retrievers among whose best the passage is.
    """

    id: str
    score: float
    rank: int
    ref: RowRef
    passage: Passage | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)


DOCUMENT = "$document"
"""Stands for the document that a passage is a piece of, where otherwise a metadata field is named."""
ID = "$id"
"""Stands for the id of a passage, where otherwise a metadata field is named."""
GroupValue = str | int | float | bool | None
"""What names a group."""


@dataclass(frozen=True, slots=True)
class Facet:
    """A metadata field whose values are counted, and how many of them are returned at most."""

    field: str
    limit: int


@dataclass(frozen=True, slots=True)
class GroupBy:
    """What results are grouped by, a metadata field or DOCUMENT, and how many of a group are returned at most."""

    field: str
    size: int


@dataclass(frozen=True, slots=True)
class OrderBy:
    """What results are put by, a metadata field or ID, and whether the greatest values of the field come first."""

    field: str
    descending: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerShape:
    """What an answer holds beside its results, and how these are chosen and put; by default nothing and best first.

    facets: fields whose values are counted over all that the filter lets through.
    group_by: what results are grouped by; top_n then counts groups. None for no groups.
    collapse: of passages with equal texts only the best is returned.
    min_score: results score at least as much; None for any score.
    diversity: from 0, where scores alone choose the results, to 1 (`shoal.search.diversity`).
    highlight: whether the best sentence of each result is pointed out.
    after: the cursor that the page before ended with; None for the first page.
    order_by: the field by which all passages that the filter lets through are put; None for the order of the query.
    """

    facets: tuple[Facet, ...] = ()
    group_by: GroupBy | None = None
    collapse: bool = False
    min_score: float | None = None
    diversity: float = 0.0
    highlight: bool = False
    after: str | None = None
    order_by: OrderBy | None = None

    @property
    def is_distinct(self) -> bool:
        """Whether stage one looks for different groups or texts."""
        return self.collapse or self.group_by is not None

    @property
    def needs_all(self) -> bool:
        """Whether results are chosen among all candidates, rather than the first of them."""
        return self.group_by is not None or self.diversity > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """One query, validated. `deadline` is by `time.monotonic` of this process; `mode` None leaves it to the server.

    query: its text; "" for a query by a vector alone.
    vector: float32 (dim,), L2-normalised: what stage one searches by in the place of the text's vector.
    passage_id: of a passage by whose vector stage one searches, and which is no result itself.
    """

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
    min_position: int = 0
    """Position of the log up to which all writes are to be seen; 0 for whatever is seen by now."""
    strong: bool = False
    """Whether all writes are to be seen that were acknowledged before the request came."""
    vector: FloatArray | None = field(default=None, compare=False, repr=False)
    passage_id: str | None = None
    namespace: str = DEFAULT
    """In which it searches, and to which `passage_id` belongs."""
    instruction: str | None = None
    """What the query looks for, which the encoder reads in place of its own instruction."""
    correct_spelling: bool | None = None
    """Whether words that no passage holds are taken for others; None leaves it to the server."""
    blend: bool = True
    """Whether a learned blend orders the answer where the server has one."""
    shape: AnswerShape = AnswerShape()

    @property
    def brings_vector(self) -> bool:
        """Whether stage one searches by another vector than that of the text."""
        return self.vector is not None or self.passage_id is not None


@dataclass(frozen=True, slots=True)
class Spelling:
    """A query as it is searched.

    text: the query, with corrected words in the place of those that were typed.
    words: by folded words of the query, those that they were taken for.
    terms: by the same words, the terms of the corpus.
    """

    text: str
    words: Mapping[str, str] = field(default_factory=dict)
    terms: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Highlight:
    """The best sentence of a passage. start, end: where it lies in the text, in characters (Unicode code points)."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Group:
    """The group that a result belongs to; None for a passage without the field, which is a group of its own."""

    value: GroupValue


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
    group: Group | None = None
    highlight: Highlight | None = None


@dataclass(frozen=True, slots=True)
class EmbeddedTexts:
    """Texts that an encoder has made vectors of, all in input order.

    model: name of the encoder.
    vectors: float32 (n, dim), L2-normalised: those that the index compares.
    lengths: tokens of each whole text, prompt and special tokens included; 0 where the encoder reads texts of any
    length or cannot count.
    max_length: tokens that the encoder reads of a text at most.
    token_vectors: of each text, float (t, d), the L2-normalised vectors of its tokens; None if not asked for.
    """

    model: str
    vectors: FloatArray
    lengths: list[int]
    max_length: int
    token_vectors: list[NDArray[np.floating]] | None = None

    @property
    def truncated(self) -> list[bool]:
        """Of each text, whether the encoder read only its beginning."""
        return [length > self.max_length for length in self.lengths]

    @property
    def tokens_used(self) -> int:
        """Count the tokens that were read, of all texts together; 0 where the encoder cannot count."""
        return sum(min(length, self.max_length) for length in self.lengths)

    def shortened(self, dimensions: int) -> FloatArray:
        """Return the first dimensions of the vectors, float32 (n, dimensions), L2-normalised anew.

        Only models that were trained for it lose little by that. As many as there are give the vectors as they are.
        """
        cut = self.vectors[:, :dimensions]
        if dimensions >= self.vectors.shape[1]:
            return cut
        lengths = np.linalg.norm(cut, axis=1, keepdims=True)
        return np.asarray(cut / np.where(lengths > 0, lengths, 1), np.float32)

    def part(self, rows: slice) -> "EmbeddedTexts":
        """Return some of the texts."""
        tokens = None if self.token_vectors is None else self.token_vectors[rows]
        return EmbeddedTexts(self.model, self.vectors[rows], self.lengths[rows], self.max_length, tokens)

    @classmethod
    def join(cls, parts: Sequence["EmbeddedTexts"]) -> "EmbeddedTexts":
        """Put texts that one encoder has made vectors of, at least one part, behind each other."""
        if len(parts) == 1:
            return parts[0]
        tokens: list[NDArray[np.floating]] | None = None
        if parts[0].token_vectors is not None:
            tokens = [vectors for part in parts for vectors in part.token_vectors or ()]
        vectors = np.concatenate([part.vectors for part in parts])
        lengths = [length for part in parts for length in part.lengths]
        return cls(parts[0].model, vectors, lengths, parts[0].max_length, tokens)


@dataclass(frozen=True, slots=True)
class RerankedDocuments:
    """Documents that a reranker has scored for a query.

    model: name of the reranker, as answers to searches give it.
    scores: float32 (n,), higher is better, in input order.
    tokens_used: tokens that were read of the query and of all documents; 0 where the reranker cannot count.
    """

    model: str
    scores: FloatArray
    tokens_used: int

    @property
    def pairs(self) -> int:
        """Count the (query, document) pairs that were scored."""
        return len(self.scores)


@dataclass(frozen=True, slots=True)
class FacetCount:
    """How many passages have a value; a timestamp is in ISO 8601, UTC."""

    value: str | int | float | bool
    count: int


@dataclass(frozen=True, slots=True)
class MissingShard:
    """A shard that did not take part in an answer, and why: `deadline`, `overloaded`, `unreachable`, `error`, `behind`,
    which is one that had not seen the writes that were asked for, or `suspended`, which is one that was silent for so
    long that queries do not wait for it until it answers again."""

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
class FetchedPassages:
    """Passages that were asked for by their ids.

    passages: in the order asked, each with its vector, float32 (dim,), None if it was not asked for.
    missing: ids that the version does not hold.
    unknown: ids that a shard may hold which did not answer.
    """

    index_version: str
    passages: list[tuple[Passage, FloatArray | None]]
    missing: list[str]
    unknown: list[str]
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class ListedIds:
    """A page of the ids of a version, in order. `next` is the cursor of the page that follows, None after the last."""

    index_version: str
    ids: list[str]
    next: str | None


@dataclass(frozen=True, slots=True)
class NamespaceSize:
    """A namespace, and how many passages it has. The name of the default one is empty."""

    namespace: str
    passages: int


@dataclass(frozen=True, slots=True)
class ListedNamespaces:
    """A page of the namespaces of a version that have passages, by name; `next` as that of `ListedIds`."""

    index_version: str
    namespaces: list[NamespaceSize]
    next: str | None


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
    warnings: what of the request was cut or corrected, and why nothing was found, in sentences; the answer is not
    less for it.
    facets: counts of values by field, the most frequent first; None if none were asked for.
    next: the cursor of the next page; None where there is none, and for answers that have no pages.
    position: of the log, up to which all shards of the answer have seen what was written; None where nothing was.
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
    warnings: tuple[str, ...] = ()
    facets: Mapping[str, list[FacetCount]] | None = None
    next: str | None = None
    position: int | None = None
