"""Pinecone's data plane below `/i/NAME`: the passages of the index that is served are read (`writes` changes them)."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from serve.dialects.common.calls import deadline_of, fields_named
from serve.dialects.pinecone_api.answers import RECONCILED, DataAnswer, http_response
from serve.dialects.pinecone_api.bodies import (
    PAGE,
    FetchByMetadataFields,
    FetchFields,
    Ids,
    ListFields,
    PageSize,
    QueryFields,
    StatsFields,
)
from serve.dialects.pinecone_api.control import DATA_PLANE, IndexName, ServedIndex
from serve.web.errors import responses
from shoal.engine.vectors import read_vector
from shoal.errors import InvalidArgument, Unavailable
from shoal.namespaces import DEFAULT, check_namespace
from shoal.records import ID, AnswerShape, FloatArray, OrderBy, Passage, SearchAnswer, SearchRequest

READ_UNITS = {"readUnits": 1}
"""What every call is said to have cost."""
REFUSALS = (400, 404, 408, 413, 415, 429, 500, 503, 504)
"""Statuses of errors of these routes."""


class PineconeVector(BaseModel):
    """A passage with its vector."""

    id: str
    values: list[float] = Field([], description="Only if asked for; L2-normalised.")
    metadata: dict[str, Any] | None = Field(None, description="Of the passage, with its text and its `title`.")


class PineconeMatch(PineconeVector):
    """A passage that is near."""

    score: float = Field(description="The cosine of both vectors.")


class PineconeAnswer(BaseModel):
    """What all answers have."""

    model_config = ConfigDict(extra="allow")

    namespace: str
    usage: dict[str, int]


class QueryResponse(PineconeAnswer):
    """The nearest passages, best first. `degraded` says why they are less than what was asked for."""

    matches: list[PineconeMatch]


class FetchResponse(PineconeAnswer):
    """Passages by their ids. `degraded` says why they are less than what was asked for."""

    vectors: dict[str, PineconeVector]


class FetchByMetadataResponse(FetchResponse):
    """A page of the passages that fulfil a filter, in the order of their ids."""

    pagination: dict[str, str] | None = Field(None, description="`next`, the token of the page after this one.")


class PineconeId(BaseModel):
    """An id."""

    id: str


class PineconeListResponse(PineconeAnswer):
    """A page of ids."""

    vectors: list[PineconeId]
    pagination: dict[str, str] | None = Field(None, description="`next`, the token of the page after this one.")


class StatsResponse(BaseModel):
    """How large the index is."""

    namespaces: dict[str, dict[str, int]]
    dimension: int
    indexFullness: float
    totalVectorCount: int
    metric: str
    vectorType: str


def metadata_of(passage: Passage, text_field: str) -> dict[str, Any]:
    """Return what Pinecone's clients keep in metadata: also the text and the title, unless fields have these names.

    Args:
        passage: Of the index.
        text_field: The field of the text.
    """
    own = {text_field: passage.text, "title": passage.title}
    return {name: value for name, value in own.items() if value} | dict(passage.metadata or {})


def add_data(routes: APIRouter, index: ServedIndex) -> None:
    """Add the routes that read passages."""

    @routes.post(f"{DATA_PLANE}/query", response_model=QueryResponse, responses=responses(*REFUSALS))
    async def query(name: IndexName, body: QueryFields) -> Response:
        """Find the passages nearest to a vector, as Pinecone does."""
        index.check(name)
        return await http_response(await query_passages(index, body, deadline_of(index.settings)))

    @routes.post(f"{DATA_PLANE}/describe_index_stats", response_model=StatsResponse, responses=responses(*REFUSALS))
    async def describe_index_stats(name: IndexName, body: StatsFields) -> Response:
        """Say how large the index is, as Pinecone does."""
        index.check(name)
        return await http_response(await describe_passages(index, body, deadline_of(index.settings)))

    @routes.get(f"{DATA_PLANE}/vectors/fetch", response_model=FetchResponse, responses=responses(*REFUSALS))
    async def fetch(
        name: IndexName,
        ids: Annotated[Ids, Query(description="Of passages; the parameter is repeated.")],
        namespace: str = "",
    ) -> Response:
        """Fetch passages with their vectors, as Pinecone does."""
        index.check(name)
        body = FetchFields(ids=ids, namespace=namespace)
        return await http_response(await fetch_passages(index, body, deadline_of(index.settings)))

    @routes.post(
        f"{DATA_PLANE}/vectors/fetch_by_metadata",
        response_model=FetchByMetadataResponse,
        responses=responses(*REFUSALS),
    )
    async def fetch_by_metadata(name: IndexName, body: FetchByMetadataFields) -> Response:
        """Fetch the passages that fulfil a filter with their vectors, a page at a time, as Pinecone does."""
        index.check(name)
        return await http_response(await fetch_passages_by_metadata(index, body, deadline_of(index.settings)))

    @routes.get(f"{DATA_PLANE}/vectors/list", response_model=PineconeListResponse, responses=responses(*REFUSALS))
    async def list_ids(
        name: IndexName,
        namespace: str = "",
        prefix: str = "",
        limit: Annotated[PageSize, Query(description="Most ids of the page; max_ids bounds it.")] = PAGE,
        token: Annotated[str | None, Query(alias="paginationToken", description="`next` of the page before.")] = None,
    ) -> Response:
        """List the ids of passages, a page at a time, as Pinecone does."""
        index.check(name)
        body = ListFields(prefix=prefix, limit=limit, paginationToken=token, namespace=namespace)
        return await http_response(await list_passages(index, body, deadline_of(index.settings)))


async def describe_passages(index: ServedIndex, body: StatsFields, deadline: float) -> DataAnswer:
    """Say how large the index is."""
    if body.filter:
        raise InvalidArgument("filter should be left out: all passages are counted", param="filter")
    engine, settings = index.engine(), index.settings
    described = await engine.describe()
    counts: dict[str, dict[str, int]] = {}
    cursor: str | None = None
    while not counts or cursor is not None:
        page = await engine.list_namespaces("", settings.max_ids, cursor, deadline)
        counts |= {size.namespace: {"vectorCount": size.passages} for size in page.namespaces}
        cursor = page.next
        if not counts:
            counts[""] = {"vectorCount": 0}
    return DataAnswer(
        {
            "namespaces": counts,
            "dimension": described.dim,
            "indexFullness": 0.0,
            "totalVectorCount": described.passages,
            "metric": described.metric,
            "vectorType": "dense",
        }
    )


async def list_passages(index: ServedIndex, body: ListFields, deadline: float) -> DataAnswer:
    """List a page of ids."""
    namespace = check_namespace(body.namespace)
    with fields_named(cursor="paginationToken"):
        listed = await index.engine().list_ids(body.prefix, body.limit, body.paginationToken, deadline, namespace)
    # The last page has none, not a null: clients before 7 read that as a mistake.
    pagination = {} if listed.next is None else {"pagination": {"next": listed.next}}
    vectors = [{"id": id_} for id_ in listed.ids]
    return DataAnswer({"vectors": vectors, **pagination, "namespace": namespace, "usage": READ_UNITS})


async def query_passages(index: ServedIndex, body: QueryFields, deadline: float) -> DataAnswer:
    """Find the passages nearest to a vector, or to a passage."""
    _check_query(body)
    namespace = check_namespace(body.namespace)
    vector = await vector_by(index, body.vector, body.id, deadline, "vector", namespace)
    if vector is None:
        return DataAnswer({"matches": [], "namespace": namespace, "usage": READ_UNITS})
    request = SearchRequest(
        query="",
        vector=vector,
        mode="dense",
        rerank=False,
        top_k=body.topK,
        top_n=body.topK,
        deadline=deadline,
        filter=body.filter,
        include_vector=body.includeValues,
        namespace=namespace,
    )
    with fields_named(top_k="topK", top_n="topK"):
        (answer,) = await index.engine().search([request])
    matches = _matches(answer, await index.engine().text_field() if body.includeMetadata else None)
    values = len(matches) * len(vector) if body.includeValues else len(matches)
    fields = {"matches": matches, "namespace": namespace, "usage": READ_UNITS, **degraded(answer.degraded)}
    return DataAnswer(fields, values, reconciled(answer))


def reconciled(answer: SearchAnswer) -> dict[str, str]:
    """The header that says up to which position of the log an answer has seen all writes; a write is at its own."""
    return {} if answer.position is None else {RECONCILED: str(answer.position)}


def _check_query(body: QueryFields) -> None:
    if (body.vector is None) == (body.id is None):
        raise InvalidArgument("vector or id is required, one of them", param="vector")
    for name in ("sparseVector", "scanFactor", "maxCandidates"):
        if getattr(body, name) is not None:
            raise InvalidArgument(f"{name} should be left out: this index is searched by dense vectors", param=name)


async def vector_by(
    index: ServedIndex,
    values: Sequence[float] | None,
    id_: str | None,
    deadline: float,
    param: str,
    namespace: str = DEFAULT,
) -> FloatArray | None:
    """Return the vector to search by, float32 (dim,): the one given, or that of a passage; None without the passage.

    Raises InvalidArgument, with `param`, for a vector that is none, and Unavailable where the passage's shard did not
    answer.
    """
    if values is not None:
        return read_vector(list(values), param)
    assert id_ is not None
    with fields_named(ids="id"):
        fetched = await index.engine().fetch([id_], deadline, with_vectors=True, namespace=namespace)
    if fetched.unknown:
        raise Unavailable(f"the shard that may hold {id_[:100]!r} does not answer; try again", retry_after_s=1)
    return fetched.passages[0][1] if fetched.passages else None


def _matches(answer: SearchAnswer, text_field: str | None) -> list[Mapping[str, Any]]:
    """Matches with their metadata, the text in a field of that name; None for matches without."""
    matches: list[Mapping[str, Any]] = []
    for result in answer.results:
        match: dict[str, Any] = {"id": result.id, "score": result.score}
        if result.vector is not None:
            match["values"] = result.vector
        if text_field is not None:
            match["metadata"] = metadata_of(result.passage, text_field)
        matches.append(match)
    return matches


async def fetch_passages(index: ServedIndex, body: FetchFields, deadline: float) -> DataAnswer:
    """Fetch passages with their vectors."""
    namespace, ids = check_namespace(body.namespace), list(dict.fromkeys(body.ids))
    fetched = await index.engine().fetch(ids, deadline, with_vectors=True, namespace=namespace)
    text_field = await index.engine().text_field()
    vectors = {
        passage.id: {"id": passage.id, "values": vector, "metadata": metadata_of(passage, text_field)}
        for passage, vector in fetched.passages
    }
    missing = f"shards that may hold {len(fetched.unknown)} of the ids do not answer" if fetched.unknown else None
    values = sum(len(vector) for _, vector in fetched.passages if vector is not None)
    return DataAnswer({"vectors": vectors, "namespace": namespace, "usage": READ_UNITS, **degraded(missing)}, values)


async def fetch_passages_by_metadata(index: ServedIndex, body: FetchByMetadataFields, deadline: float) -> DataAnswer:
    """Fetch a page of the passages that fulfil a filter, with their vectors, in the order of their ids."""
    namespace, settings = check_namespace(body.namespace), index.settings
    limit = min(PAGE, settings.max_top_k, settings.max_vectors) if body.limit is None else body.limit
    request = SearchRequest(
        query=ID,  # an order reads none
        rerank=False,
        top_k=limit,
        top_n=limit,
        deadline=deadline,
        filter=body.filter,
        include_vector=True,
        namespace=namespace,
        shape=AnswerShape(order_by=OrderBy(ID, descending=False), after=body.paginationToken),
    )
    with fields_named(top_k="limit", top_n="limit", after="paginationToken"):
        (answer,) = await index.engine().search([request])
    text_field = await index.engine().text_field()
    vectors = {
        result.id: {"id": result.id, "values": result.vector, "metadata": metadata_of(result.passage, text_field)}
        for result in answer.results
    }
    values = sum(len(result.vector) for result in answer.results if result.vector is not None)
    pagination = {} if answer.next is None else {"pagination": {"next": answer.next}}
    fields = {"vectors": vectors, **pagination, "namespace": namespace, "usage": READ_UNITS}
    return DataAnswer(fields | degraded(answer.degraded), values, reconciled(answer))


def degraded(reason: str | None) -> dict[str, str]:
    """The field that says why an answer is less than what was asked for, if it is."""
    return {} if reason is None else {"degraded": reason}
