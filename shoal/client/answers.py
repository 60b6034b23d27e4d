"""What a server's answers look like to its clients. `serve/dialects/native/` writes them."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """Base of what a server sends. Fields that a newer server adds are kept as extra attributes."""

    model_config = ConfigDict(defer_build=True, extra="allow", frozen=True, protected_namespaces=())


class SentenceHighlight(Answer):
    """The best sentence of a passage, and where it lies in `text`, in characters."""

    text: str
    start: int
    end: int


class SearchResult(Answer):
    """One passage of an answer. `score` is what the answer is ordered by."""

    id: str
    score: float
    retrieval_score: float
    retrieval_rank: int
    rerank_score: float | None = None
    title: str | None = None
    text: str | None = None
    metadata: dict[str, Any] | None = None
    vector: list[float] | None = None
    highlight: SentenceHighlight | None = None
    """The best sentence, if that was asked for; None where no word of the query is in the text."""
    group: str | int | float | bool | None = None
    """What the result was grouped by, if that was asked for; None for a passage without the field."""


class FacetCount(Answer):
    """How many of the passages that fulfil the filter have a value; a timestamp is in ISO 8601, UTC."""

    value: Any
    count: int


class SearchCoverage(Answer):
    """Which part of the index answered; `fraction` is by passages."""

    shards: int
    answered: int
    fraction: float
    missing: list[Any] = []


class SearchResponse(Answer):
    """The answer to one query. `degraded` says why it is less than was asked for; None if it is not."""

    id: str
    index_version: str
    results: list[SearchResult]
    mode: str = "dense"
    reranked: bool
    reranker: str | None = None
    """What ordered the candidates: the server's reranker by its name, or `late`; None if nothing has."""
    coverage: SearchCoverage
    degraded: str | None = None
    warnings: list[str] = []
    """What of the request was cut (a query longer than the encoder reads) or corrected, and why nothing was found."""
    timings_ms: dict[str, float] = {}
    usage: dict[str, Any] = {}
    position: int | None = None
    """The answer has seen all writes up to this one; None where nothing was written."""
    facets: dict[str, list[FacetCount]] | None = None
    """The most frequent values of the fields that were asked for, over all passages that fulfil the filter."""
    next: str | None = None
    """What `after` takes for the next page; None where there is none, and where the answer is reranked."""
    explain: dict[str, Any] | None = None


class SearchResponses(Answer):
    """The answers to several queries, in their order."""

    responses: list[SearchResponse]


class StoredPassage(Answer):
    """A passage of the index, with the parts that were asked for."""

    id: str
    title: str | None = None
    text: str | None = None
    metadata: dict[str, Any] | None = None
    vector: list[float] | None = None


class FetchResponse(Answer):
    """Passages by their ids, in the order asked."""

    index_version: str
    passages: list[StoredPassage]
    missing: list[str]
    """Ids that the version does not hold."""
    unknown: list[str] = []
    """Ids that a shard may hold which did not answer."""
    coverage: SearchCoverage
    degraded: str | None = None


class ListResponse(Answer):
    """A page of ids, in the order of their UTF-8 bytes."""

    index_version: str
    ids: list[str]
    next: str | None = None
    """The cursor of the next page; None after the last."""


class NamespaceSize(Answer):
    """A namespace, and how many passages it has; the name of the default one is empty."""

    namespace: str
    passages: int


class NamespacesResponse(Answer):
    """A page of the namespaces that have passages, by name."""

    index_version: str
    namespaces: list[NamespaceSize]
    next: str | None = None
    """The cursor of the next page; None after the last."""


class EmbeddedText(Answer):
    """A text, with the vectors that were asked for."""

    vector: list[float] | None = None
    tokens: list[list[float]] | None = None
    """Vectors of its tokens."""
    truncated: bool
    """Whether the encoder read only its beginning."""


class EmbedResponse(Answer):
    """Texts with their vectors, in the order asked."""

    model: str
    dim: int
    data: list[EmbeddedText]
    usage: dict[str, Any] = {}

    @property
    def vectors(self) -> list[list[float]]:
        """The vector of each text; empty ones if they were not asked for."""
        return [text.vector or [] for text in self.data]


class RerankResult(Answer):
    """A document of a rerank; `index` is its place among those that were sent."""

    index: int
    id: str | None = None
    score: float
    relevance_score: float | None = None
    """The same from 0 to 1."""
    document: dict[str, Any] | None = None


class RerankResponse(Answer):
    """Documents in the order of their scores, best first."""

    model: str
    results: list[RerankResult]
    usage: dict[str, Any] = {}


class IndexDescription(Answer):
    """What a server serves: the active version, the one that a rollback would return to, and their size."""

    version: str
    previous: str | None
    passages: int
    shards: int
    dim: int
    metric: str
    kind: str
    modes: list[str] = ["dense"]
    """How it can be searched: dense, lexical, hybrid."""
    late_interaction: str = "none"
    """`stored` if the shards hold token vectors, so that `rerank` can be "late"."""
    fields: dict[str, str] = {}
    """Metadata fields that filters know, and their types."""
    models: dict[str, str | None]
    """`encoder` and `reranker`; the latter is None if there is none."""
    chunk_characters: int | None = None
    """Most characters of the passages that texts are cut into; None where they stay whole."""
    text_field: str = "text"
    """The field of the text. With another name than `text`, records may bring it in that field of their metadata."""
    live: dict[str, Any] | None = None
    """What was written since the version was built; None where nothing ever was."""


class IndexSummary(Answer):
    """An index of a server. What cannot be told, as of one that is broken, is None."""

    name: str
    state: str
    """ready, loading, unloaded (it is loaded when it is asked for) or failed."""
    version: str | None = None
    passages: int | None = None
    dim: int | None = None
    metric: str | None = None
    modes: list[str] = []
    late_interaction: str | None = None
    fields: dict[str, str] | None = None
    models: dict[str, str | None] | None = None
    live: dict[str, Any] | None = None
    problem: str | None = None
    """Why it cannot be served, or not as it should be."""
