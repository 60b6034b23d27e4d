"""What Shoal's own dialect is asked, checked against the limits of a server."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    create_model,
)

from shoal.engine.limits import check_answer, check_order, most_queries, query_problem
from shoal.engine.request_body import NAMESPACE, RequestBody
from shoal.engine.shape_models import ShapeFields, shape_fields
from shoal.engine.subjects import read_subjects
from shoal.engine.vectors import holds_several, vector_type
from shoal.modes import Mode
from shoal.namespaces import MAX_NAMESPACE_BYTES
from shoal.records import Rerank, SearchRequest
from shoal.settings import ServeSettings

Part = Literal["text", "metadata", "vector"]
"""What an answer may hold of a passage."""
_RERANK_CHOICES = (True, False, "late", "read")
"""What `rerank` may be."""
RerankChoice = Annotated[
    Annotated[bool, Tag("<bool>")] | Annotated[Literal["late", "read"], Tag("<name>")],
    Discriminator(
        lambda value: {bool: "<bool>", str: "<name>"}.get(type(value)) if value in _RERANK_CHOICES else None,
        custom_error_type="rerank",
        custom_error_message="should be true, false, 'late' or 'read'",
    ),
]
"""Whether to rerank; the error of another value names all that may stand there."""


class ActivateBody(RequestBody):
    """Which version to serve."""

    version: str = Field(min_length=1, max_length=256, examples=["20260131T120000000-3f9a0c41"])


class RollbackBody(RequestBody):
    """An empty object: a body that is JSON is what no page of another site can send unasked."""


READ_POSITION: int = Field(
    0,
    ge=0,
    le=2**63 - 1,
    description="Position that a write was answered with: the answer has seen it and all writes before it. Left out: "
    "it may be a second behind.",
)
"""Position of the log that passages are read at, or later."""


class FetchFields(RequestBody):
    """Which passages, by their ids, and which parts of them; `fetch_body` adds a server's limits."""

    ids: list[str]
    namespace: str = NAMESPACE
    include: list[Part] = Field(
        ["text", "metadata"], max_length=len(get_args(Part)), description="Parts of each passage to return."
    )
    min_position: int = READ_POSITION


class ListFields(BaseModel):
    """Which ids, and where to go on; `list_query` adds a server's limits."""

    model_config = ConfigDict(extra="forbid")

    prefix: str = ""
    limit: int = 100
    cursor: str | None = None
    namespace: str = NAMESPACE
    min_position: int = READ_POSITION


class NamespacesFields(BaseModel):
    """Which namespaces, and where to go on; `namespaces_query` adds a server's limits."""

    model_config = ConfigDict(extra="forbid")

    prefix: str = Field("", max_length=MAX_NAMESPACE_BYTES, description="What the names begin with.")
    limit: int = 100
    cursor: str | None = Field(
        None, max_length=2 * MAX_NAMESPACE_BYTES, description="`next` of the page before. Left out: the first page."
    )


class VersionsFields(BaseModel):
    """How many versions; `versions_query` adds a server's limits."""

    model_config = ConfigDict(extra="forbid")

    limit: int = 20


class SearchFields(ShapeFields):
    """A query, or several at once, and what to return: the fields in order; `search_body` adds a server's limits."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "how do fish sleep", "top_k": 25, "top_n": 5}]})

    query: str | list[str] | None
    vector: list[float] | str | list[list[float] | str] | None
    id: str | None
    top_k: int
    top_n: int
    rerank: RerankChoice
    mode: Mode | None
    filter: dict[str, Any] = Field(
        {},
        description="Conditions on metadata that every result fulfils, with the operators of MongoDB: $eq $ne $gt "
        "$gte $lt $lte $in $nin $exists $and $or $not. /v1/index names the fields.",
        examples=[{"year": {"$gte": 2020}, "lang": "en"}],
    )
    namespace: str = NAMESPACE
    instruction: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="What the queries look for, in words: for encoders that read an instruction before queries, such "
        "as Qwen3-Embedding. Left out: that of the index.",
        examples=["Given a claim, find documents that support or refute it"],
    )
    correct_spelling: bool | None = Field(
        None,
        description="Whether words of the queries that no passage holds are taken for others one slip away; `warnings` "
        "names them. Left out: as the server does (--correct-spelling).",
    )
    recall: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the ten nearest passages that a search by vectors shall find, as it was measured for "
        "the version. Left out: what the version was tuned for. Beyond the curve of /v1/index it is refused.",
    )
    include: list[Part] = Field(
        ["text", "metadata"], max_length=len(get_args(Part)), description="Parts of each passage to return."
    )
    timeout_ms: int
    min_position: int = Field(
        0,
        ge=0,
        le=2**63 - 1,
        description="Position that a write was answered with: the answer has seen it and all writes before it. A shard "
        "that has not by the deadline is missing, as behind.",
    )
    consistency: Literal["strong"] | None = Field(
        None,
        description="`strong`: the answer has seen all writes that were acknowledged before it was asked. Left out: it "
        "may be a second behind.",
    )
    explain: bool = Field(False, description="Return the plan and every shard's part.")

    @property
    def is_several(self) -> bool:
        """Whether a list of queries is asked for, which is answered with a list."""
        return isinstance(self.query, list) or (isinstance(self.vector, list) and holds_several(self.vector))

    @property
    def reranks(self) -> Rerank:
        """Whether to rerank: what was left out is not, where there is no text to read, or a field puts the passages."""
        may_rerank = self.query is not None and self.order_by is None
        return self.rerank if may_rerank or "rerank" in self.model_fields_set else False

    def sizes(self) -> tuple[int, int]:
        """Resolve (top_k, top_n), where what was left out follows what was given."""
        given = self.model_fields_set
        top_k, top_n = self.top_k, self.top_n
        if "top_n" not in given:
            all_candidates = "top_k" in given and not self.reranks
            top_n = top_k if all_candidates else min(top_n, top_k)
        elif "top_k" not in given:
            top_k = max(top_k, top_n)
        else:
            check_order(top_k, top_n)
        return top_k, top_n

    def size(self, settings: ServeSettings, queries: int, top_k: int, top_n: int) -> int:
        """Count the results of the answer to so many queries at most; or the candidates, which `explain` lists.

        Raises InvalidArgument for more than the settings allow.
        """
        top_n *= self.group_size
        results = queries * (max(top_k, top_n) if self.explain else top_n)
        vectors = queries * top_n if "vector" in self.include else 0
        check_answer(settings, queries, results, vectors, explain=self.explain)
        return results

    def requests(self, settings: ServeSettings, started: float) -> tuple[list[SearchRequest], int]:
        """Return what the pipeline is asked, one request for each query, and the most results of the answer.

        Args:
            started: When the deadline begins, by `time.monotonic`.

        Raises:
            InvalidArgument: Sizes that do not fit each other, more than the settings allow, nothing to look for, or a
                vector that is none.
        """
        top_k, top_n = self.sizes()
        subjects = read_subjects(self.query, self.vector, self.id)
        size = self.size(settings, len(subjects), top_k, top_n)
        deadline = started + self.timeout_ms / 1000
        shape = self.shape()
        requests = [
            SearchRequest(
                **subject.fields(),
                top_k=top_k,
                top_n=top_n,
                rerank=self.reranks,
                deadline=deadline,
                include_vector="vector" in self.include,
                explain=self.explain,
                mode=self.mode,
                filter=self.filter,
                recall=self.recall,
                min_position=self.min_position,
                strong=self.consistency == "strong",
                namespace=self.namespace,
                instruction=self.instruction,
                correct_spelling=self.correct_spelling,
                shape=shape,
            )
            for subject in subjects
        ]
        return requests, size


def fetch_body(settings: ServeSettings) -> type[FetchFields]:
    """Make the model of the body that fetches passages, with the limits of the settings."""
    id_ = Annotated[str, Field(min_length=1, max_length=settings.max_id_bytes)]
    ids = Field(min_length=1, max_length=settings.max_ids, description="Ids of passages.", examples=[["fish-7"]])
    return create_model(
        "FetchBody",
        __base__=FetchFields,
        __doc__="Passages by their ids.",
        ids=(list[id_], ids),
    )


def list_query(settings: ServeSettings) -> type[ListFields]:
    """Make the model of the parameters that list ids, with the limits of the settings."""
    prefix = Field("", max_length=settings.max_id_bytes, description="What the ids begin with.", examples=["fish-"])
    limit = Field(min(100, settings.max_ids), ge=1, le=settings.max_ids, description="Most ids of the page.")
    cursor = Field(
        None, max_length=2 * settings.max_id_bytes, description="`next` of the page before. Left out: the first page."
    )
    return create_model(
        "ListQuery",
        __base__=ListFields,
        __doc__="Which ids, and where to go on.",
        prefix=(str, prefix),
        limit=(int, limit),
        cursor=(str | None, cursor),
    )


def namespaces_query(settings: ServeSettings) -> type[NamespacesFields]:
    """Make the model of the parameters that list namespaces, with the limits of the settings."""
    limit = Field(min(100, settings.max_ids), ge=1, le=settings.max_ids, description="Most namespaces of the page.")
    return create_model(
        "NamespacesQuery",
        __base__=NamespacesFields,
        __doc__="Which namespaces, and where to go on.",
        limit=(int, limit),
    )


def versions_query(settings: ServeSettings) -> type[VersionsFields]:
    """Make the model of the parameters that list versions, with the limits of the settings."""
    limit = Field(
        min(20, settings.max_ids),
        ge=1,
        le=settings.max_ids,
        description="Most versions, newest first; the current and the previous one are listed beyond it, too.",
    )
    return create_model(
        "VersionsQuery", __base__=VersionsFields, __doc__="How many versions are listed.", limit=(int, limit)
    )


def search_body(settings: ServeSettings) -> type[SearchFields]:
    """Make the model of a search's body: limits, defaults and what they are called come from the settings."""
    top_k = Field(
        min(settings.top_k, settings.max_top_k),
        ge=1,
        le=settings.max_top_k,
        description="Candidates taken from stage one; at least top_n.",
    )
    top_n = Field(
        settings.top_n,
        ge=1,
        le=settings.max_top_k,
        description="Results returned. Left out: as many as top_k, if top_k is smaller or nothing is reranked.",
    )
    rerank = Field(
        settings.reranker != "none",
        description="Order the candidates: by the server's reranker, which compares the token vectors that the shards "
        "hold, if they do, instead of reading texts (`stored_tokens`); always by these (late), where late_interaction "
        "of /v1/index is `stored`; or by the reranker that reads the texts in any case (read).",
    )
    mode = Field(
        None,
        description="How stage one searches: by vectors (dense), by words (lexical) or by both, fused (hybrid). "
        f"Left out: {_default_mode(settings)}.",
    )
    timeout_ms = Field(
        min(settings.timeout_ms, settings.max_timeout_ms),
        ge=1,
        le=settings.max_timeout_ms,
        description="Deadline. What is not there by then is left out, and the answer says so.",
    )
    return create_model(
        "SearchBody",
        __base__=SearchFields,
        __doc__="A query, or several at once, and what to return.",
        **_subject_fields(settings),
        top_k=(int, top_k),
        top_n=(int, top_n),
        rerank=(RerankChoice, rerank),
        mode=(Mode | None, mode),
        timeout_ms=(int, timeout_ms),
        **shape_fields(settings),
    )


def _subject_fields(settings: ServeSettings) -> dict[str, Any]:
    """The fields that say what a search looks for."""
    query = Field(
        None, description="One query, or a list that is answered with a list.", examples=["how do fish sleep"]
    )
    vector = Field(
        None,
        description="What stage one searches by, instead of a query or of the query's own vector: as many numbers as "
        "the index has dimensions, of any length, as a list or as base64 of float32 numbers with the least byte first; "
        "or a list of these. Without a query nothing is searched by words and nothing reranked.",
        examples=[[0.6, 0.0, 0.8]],
    )
    id_ = Field(
        None,
        min_length=1,
        max_length=settings.max_id_bytes,
        description="Passages like the one with this id, itself left out: stage one searches by its vector.",
        examples=["fish-7"],
    )
    return {
        "query": (_query_type(settings) | None, query),
        "vector": (vector_type(most_queries(settings)) | None, vector),
        "id": (str | None, id_),
    }


def _query_type(settings: ServeSettings) -> Any:
    """A text or a list of texts, within the limits of the settings."""
    text = Annotated[str, Field(min_length=1, max_length=settings.max_query_bytes), AfterValidator(_bounded(settings))]
    texts = Annotated[
        list[text],
        Field(min_length=1, max_length=most_queries(settings)),
    ]
    return Annotated[
        Annotated[text, Tag("<text>")] | Annotated[texts, Tag("<texts>")],
        Discriminator(lambda value: "<texts>" if isinstance(value, list) else "<text>"),
    ]


def _bounded(settings: ServeSettings) -> Callable[[str], str]:
    def bounded(query: str) -> str:
        if problem := query_problem(query, settings):
            raise ValueError(problem)
        return query

    return bounded


def _default_mode(settings: ServeSettings) -> str:
    return "hybrid where the index has both, else dense" if settings.mode == "auto" else settings.mode
