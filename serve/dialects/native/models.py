"""What Shoal's own dialect answers, as OpenAPI describes it; `render` writes it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from shoal.modes import Mode
from shoal.records import MetadataValue

_EXAMPLE: JsonDict = {
    "id": "5d2f0c5e8a3b4a7f9f0e6a1b2c3d4e5f",
    "index_version": "20260131T120000000-3f9a0c41",
    "results": [
        {
            "id": "fish-7",
            "score": 4.25,
            "retrieval_score": 0.0311,
            "retrieval_rank": 3,
            "rerank_score": 4.25,
            "text": "Most fish rest by day or by night, with open eyes.",
            "metadata": {"year": 2020},
        }
    ],
    "mode": "hybrid",
    "reranked": True,
    "reranker": "late_interaction",
    "coverage": {"shards": 4, "answered": 3, "fraction": 0.75, "missing": [{"shard": 2, "reason": "deadline"}]},
    "degraded": "1 of 4 shards is missing (shard 2: deadline)",
    "warnings": [
        "the query has 700 tokens, and the encoder reads 512 of them; the rest was not searched for by vectors"
    ],
    "timings_ms": {
        "queue": 0.1,
        "encode": 2.6,
        "retrieve": 8.1,
        "merge": 0.2,
        "fetch": 0.0,
        "rerank": 31.4,
        "total": 42.5,
    },
    "usage": {"queries": 1, "pairs": 25},
}
"""An answer to a search, for the documentation of the API."""


class SentenceHighlight(BaseModel):
    """The best sentence of a passage, and where it lies in `text`, in Unicode characters."""

    text: str
    start: int
    end: int


class Result(BaseModel):
    """One passage. `text`, `title`, `metadata` and `vector` are there if `include` asks for them."""

    model_config = ConfigDict(extra="forbid")

    id: str
    score: float = Field(
        description="What the results are ordered by: retrieval_score, or if reranked rerank_score, to which a hybrid "
        "answer adds what the server's settings say of the scores of stage one."
    )
    retrieval_score: float = Field(
        description="Score in stage one: cosine similarity if dense, BM25 if lexical, that of the fusion if "
        "hybrid, the dot product of the terms' weights if sparse."
    )
    retrieval_rank: int = Field(description="Place in stage-one order, from 1.")
    rerank_score: float | None = Field(description="The reranker's score; null if the answer is not reranked.")
    title: str = Field("", description="Only if the passage has one.")
    text: str = ""
    metadata: dict[str, MetadataValue] = {}
    vector: list[float] | None = Field(None, description="The passage's L2-normalised vector.")
    highlight: SentenceHighlight | None = Field(
        None, description="The best sentence, if asked for and if token vectors or a word of the query tell."
    )
    group: str | int | float | bool | None = Field(
        None, description="What the result was grouped by, if asked for; null for a passage without the field."
    )


class FacetCount(BaseModel):
    """A value of a field, and how many passages have it."""

    value: str | int | float | bool = Field(description="As a filter takes it; a timestamp is in ISO 8601, UTC.")
    count: int


class Missing(BaseModel):
    """A shard that is not part of the answer."""

    shard: int
    reason: Literal["deadline", "overloaded", "unreachable", "error", "behind", "suspended"]


class Coverage(BaseModel):
    """Which part of the index answered."""

    shards: int
    answered: int
    fraction: float = Field(description="Share of the index's passages that were searched, from 0 to 1.")
    missing: list[Missing]


class Timings(BaseModel):
    """Milliseconds that the query spent in each stage."""

    queue: float
    encode: float
    retrieve: float
    merge: float
    fetch: float
    rerank: float
    total: float


class Usage(BaseModel):
    """What the answer took."""

    queries: int = Field(description="Queries encoded and searched.")
    pairs: int = Field(description="(query, passage) pairs that the reranker scored.")


class SearchResponse(BaseModel):
    """The answer to one query."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    id: str = Field(description="The request's x-request-id; in a list of queries followed by - and the query's place.")
    index_version: str
    results: list[Result] = Field(description="Best first.")
    mode: Mode = Field(description="How stage one searched.")
    reranked: bool
    reranker: str | None = Field(
        None, description="What ordered the candidates: the server's reranker by its name, or late; null if nothing."
    )
    coverage: Coverage
    degraded: str | None = Field(description="Why the answer is less than what was asked for; null if it is not.")
    warnings: list[str] = Field(
        [],
        description="What was cut, such as a query longer than the encoder reads, which words were corrected, and why "
        "nothing was found.",
    )
    timings_ms: Timings
    usage: Usage
    position: int | None = Field(
        None, description="The answer has seen all writes up to this one; left out where nothing was written."
    )
    facets: dict[str, list[FacetCount]] | None = Field(
        None,
        description="By field, if asked for: its most frequent values over all passages that fulfil the filter, "
        "equally frequent ones by value. A field with too many values is left out, with a warning.",
        examples=[{"year": [{"value": 2021, "count": 12}, {"value": 2020, "count": 7}]}],
    )
    next: str | None = Field(
        None, description="What `after` takes for the next page; not there behind the last one, or if reranked."
    )
    explain: dict[str, Any] | None = Field(None, description="The plan and every shard's part, if asked for.")


class SearchResponses(BaseModel):
    """The answers to a list of queries, in order."""

    model_config = ConfigDict(extra="forbid")

    responses: list[SearchResponse]


class StoredPassage(BaseModel):
    """One passage. `text`, `title`, `metadata` and `vector` are there if `include` asks for them."""

    model_config = ConfigDict(extra="forbid")

    id: str
    title: str = Field("", description="Only if the passage has one.")
    text: str = ""
    metadata: dict[str, MetadataValue] = {}
    vector: list[float] | None = Field(None, description="The passage's L2-normalised vector.")


class FetchResponse(BaseModel):
    """Passages by their ids."""

    model_config = ConfigDict(extra="forbid")

    index_version: str
    passages: list[StoredPassage] = Field(description="In the order asked, each once.")
    missing: list[str] = Field(description="Ids that the version does not hold.")
    unknown: list[str] = Field(description="Ids that a shard may hold which did not answer.")
    coverage: Coverage
    degraded: str | None = Field(description="Which shards did not answer; null if all have.")


class ListResponse(BaseModel):
    """A page of ids."""

    model_config = ConfigDict(extra="forbid")

    index_version: str
    ids: list[str] = Field(description="In the order of their UTF-8 bytes.")
    next: str | None = Field(description="The cursor of the next page; null after the last.")


class NamespaceSize(BaseModel):
    """A namespace and its passages."""

    model_config = ConfigDict(extra="forbid")

    namespace: str = Field(description="Its name; that of the default one is empty.")
    passages: int


class NamespacesResponse(BaseModel):
    """A page of namespaces."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "index_version": "20260131T120000000-3f9a0c41",
                    "namespaces": [{"namespace": "", "passages": 120}, {"namespace": "acme", "passages": 7}],
                    "next": None,
                }
            ]
        },
    )

    index_version: str
    namespaces: list[NamespaceSize] = Field(description="Those that have passages, in the order of their names.")
    next: str | None = Field(description="The cursor of the next page; null after the last.")


class Models(BaseModel):
    """The models in use."""

    encoder: str
    reranker: str | None


class Live(BaseModel):
    """What was written since a version was built."""

    position: int = Field(description="All writes up to this one are visible.")
    complete_to: int = Field(description="The version itself holds all writes up to this one.")
    passages: int = Field(description="Passages that there are now.")
    rows: int = Field(description="Passages that were written since, those that have gone again among them.")
    dead: int = Field(description="Passages that have gone since.")
    bytes: int = Field(description="Texts, vectors and codes that were written since, about.")
    oldest_s: float | None = Field(description="Seconds since the first of these writes; null without one.")


class VersionInfo(BaseModel):
    """A published version of the index."""

    model_config = ConfigDict(extra="forbid")

    version: str
    state: Literal["current", "previous", "refused"] | None = Field(
        description="current is served, or about to be; a rollback would serve previous; what made one that is refused "
        "did not make it current; null for any other."
    )
    created_at: str | None = Field(description="When it was built; null where its manifest cannot be read.")
    passages: int | None = Field(description="As it was built; null where its manifest cannot be read.")
    problem: str | None = Field(description="Why it cannot be read or was refused; null if neither.")


class VersionsResponse(BaseModel):
    """The published versions of the index."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "versions": [
                        {
                            "version": "20260131T120000000-3f9a0c41",
                            "state": "current",
                            "created_at": "2026-01-31T12:00:00+00:00",
                            "passages": 1000,
                            "problem": None,
                        }
                    ]
                }
            ]
        },
    )

    versions: list[VersionInfo] = Field(description="Newest first.")


class IndexInfo(BaseModel):
    """What is served."""

    model_config = ConfigDict(extra="allow")

    version: str
    previous: str | None = Field(description="What a rollback would serve; null if there is nothing to go back to.")
    passages: int
    shards: int
    dim: int
    metric: str
    kind: str = Field(description="Kind of the vector index.")
    search: str = Field("", description="Search parameters of the vector index.")
    recall_at_10: float | None = Field(None, description="Share of the ten nearest that these find; measured.")
    curve: list[dict[str, Any]] = Field(
        [], description="What other parameters find, cheapest first: search, recall, latency_ms."
    )
    modes: list[Mode] = Field(description="How it can be searched.")
    late_interaction: Literal["none", "stored"] = Field(
        "none", description="Whether the shards hold token vectors, so that rerank can be late."
    )
    fields: dict[str, str] = Field({}, description="Metadata fields that filters know, and their types.")
    models: Models
    chunk_characters: int | None = Field(
        None, description="Most characters of the passages that texts are cut into; null where they stay whole."
    )
    text_field: str = Field(
        "text",
        description="Field of the text. With another name than `text`, a record may bring its text in that field of "
        "its metadata.",
    )
    live: Live | None = Field(None, description="What was written since it was built; null where nothing ever was.")
