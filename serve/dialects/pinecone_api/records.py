"""Pinecone's records: a search with both stages in one call, and namespaces."""

from collections.abc import Collection
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from serve.dialects.common.calls import deadline_of, fields_named, json_answer
from serve.dialects.common.model_names import ServedModels
from serve.dialects.common.relevance import relevance_of_results
from serve.dialects.common.search_units import search_units
from serve.dialects.pinecone_api.answers import DataAnswer, http_response
from serve.dialects.pinecone_api.bodies import (
    PAGE,
    ListNamespacesFields,
    NamespaceFields,
    PageSize,
    RecordSearchFields,
    SearchQuery,
    SearchRerank,
)
from serve.dialects.pinecone_api.control import DATA_PLANE, IndexName, ServedIndex
from serve.dialects.pinecone_api.data import (
    REFUSALS,
    degraded,
    metadata_of,
    reconciled,
    vector_by,
)
from serve.web.errors import responses
from shoal.errors import InvalidArgument, NotFound
from shoal.namespaces import DEFAULT_ALIAS, check_namespace
from shoal.records import SearchAnswer, SearchRequest


class Hit(BaseModel):
    """A record that was found."""

    model_config = ConfigDict(populate_by_name=True)

    id: str = Field(alias="_id")
    score: float = Field(alias="_score", description="From 0 to 1; how it comes of the scores, docs/clients.md says.")
    fields: dict[str, Any]


class Hits(BaseModel):
    """Records, best first."""

    hits: list[Hit]


class RecordSearchResponse(BaseModel):
    """Records, best first. `degraded` says why they are less than what was asked for."""

    model_config = ConfigDict(extra="allow")

    result: Hits
    usage: dict[str, int]


class Namespace(BaseModel):
    """A namespace."""

    name: str
    record_count: int


class Namespaces(BaseModel):
    """A page of the namespaces of the index."""

    namespaces: list[Namespace]
    pagination: dict[str, str] | None = None


def add_records(routes: APIRouter, index: ServedIndex) -> None:
    """Add the routes of records and namespaces."""
    models = ServedModels(index.settings.model_alias or ())

    @routes.post(
        DATA_PLANE + "/records/namespaces/{namespace:path}/search",
        response_model=RecordSearchResponse,
        responses=responses(*REFUSALS),
    )
    async def search(name: IndexName, namespace: str, body: RecordSearchFields) -> Response:
        """Search with a text and rerank what was found, as Pinecone does."""
        index.check(name)
        own = check_namespace(namespace)
        if body.rerank is not None:
            models.check_reranker(body.rerank.model, await index.engine().describe())
        return await _search(index, body, own)

    @routes.get(f"{DATA_PLANE}/namespaces", response_model=Namespaces, responses=responses(404, 503))
    async def list_namespaces(
        name: IndexName,
        prefix: str = "",
        limit: Annotated[PageSize, Query(description="Most namespaces of the page; max_ids bounds it.")] = PAGE,
        token: Annotated[str | None, Query(alias="paginationToken", description="`next` of the page before.")] = None,
    ) -> Response:
        """List the namespaces that have records, as Pinecone does."""
        index.check(name)
        body = ListNamespacesFields(prefix=prefix, limit=limit, paginationToken=token)
        return await http_response(await list_namespaces_of(index, body, deadline_of(index.settings)))

    @routes.get(DATA_PLANE + "/namespaces/{namespace:path}", response_model=Namespace, responses=responses(404, 503))
    async def describe_namespace(name: IndexName, namespace: str) -> Response:
        """Describe a namespace, as Pinecone does."""
        index.check(name)
        body = NamespaceFields(namespace=namespace)
        return await http_response(await describe_namespace_of(index, body, deadline_of(index.settings)))


async def list_namespaces_of(index: ServedIndex, body: ListNamespacesFields, deadline: float) -> DataAnswer:
    """List a page of the namespaces that have records."""
    with fields_named(cursor="paginationToken"):
        page = await index.engine().list_namespaces(body.prefix, body.limit, body.paginationToken, deadline)
    sizes = [{"name": size.namespace or DEFAULT_ALIAS, "record_count": size.passages} for size in page.namespaces]
    pagination = None if page.next is None else {"next": page.next}
    return DataAnswer({"namespaces": sizes, "pagination": pagination})


async def describe_namespace_of(index: ServedIndex, body: NamespaceFields, deadline: float) -> DataAnswer:
    """Describe a namespace. Raises NotFound for one without records, but for the default one."""
    own = check_namespace(body.namespace)
    count = await index.engine().count_namespace(own, deadline)
    if own and not count:
        raise NotFound(f"there is no namespace {own!r} here; one is there once it has a record", param="namespace")
    return DataAnswer({"name": own or DEFAULT_ALIAS, "record_count": count})


async def _search(index: ServedIndex, body: RecordSearchFields, namespace: str) -> Response:
    query, rerank = body.query, body.rerank
    _check_query(query)
    if rerank is not None:
        _check_rerank(query, rerank, await index.engine().text_field())
    request = await _request(index, query, rerank, namespace)
    if request is None:
        return json_answer({"result": {"hits": []}, "usage": {"read_units": 1}})
    with fields_named(top_k="query.top_k", top_n="rerank.top_n", query="query.inputs.text"):
        (answer,) = await index.engine().search([request])
    usage = {"read_units": 1} | ({"rerank_units": search_units(answer.pairs)} if rerank is not None else {})
    hits = await _hits(index, answer, body.fields)
    response = json_answer({"result": {"hits": hits}, "usage": usage, **degraded(answer.degraded)})
    response.headers.update(reconciled(answer))
    return response


def _check_query(query: SearchQuery) -> None:
    given = [name for name in ("inputs", "vector", "id") if getattr(query, name) is not None]
    if len(given) != 1:
        raise InvalidArgument("query should have one of inputs, vector and id", param="query")
    if query.match_terms is not None:
        raise InvalidArgument(
            "query.match_terms should be left out: put the words in the text", param="query.match_terms"
        )


def _check_rerank(query: SearchQuery, rerank: SearchRerank, text_field: str) -> None:
    if rerank.rank_fields != [text_field]:
        raise InvalidArgument(
            f"rerank.rank_fields should be [{text_field!r}]: the reranker reads the texts of passages",
            param="rerank.rank_fields",
        )
    if rerank.parameters:
        raise InvalidArgument("rerank.parameters should be left out", param="rerank.parameters")
    if query.inputs is None and rerank.query is None:
        raise InvalidArgument("rerank.query is required where the query has no text", param="rerank.query")
    if rerank.top_n is not None and rerank.top_n > query.top_k:
        raise InvalidArgument(f"rerank.top_n should be at most query.top_k ({query.top_k})", param="rerank.top_n")


async def _request(
    index: ServedIndex, query: SearchQuery, rerank: SearchRerank | None, namespace: str
) -> SearchRequest | None:
    """What the engine is asked; None where the record to search by is not there.

    A query for the reranker alone leaves stage one to the vector of the query's own text.
    """
    deadline = deadline_of(index.settings)
    text = query.inputs.text if query.inputs is not None else ""
    vector = None
    if query.inputs is None:
        values = query.vector.values if query.vector is not None else None
        vector = await vector_by(index, values, query.id, deadline, "query.vector.values", namespace)
        if vector is None:
            return None
    elif rerank is not None and rerank.query not in (None, text):
        with fields_named(inputs="query.inputs.text"):
            vector = (await index.engine().embed([text], "query", deadline)).vectors[0]
    return SearchRequest(
        query=(rerank.query or text) if rerank is not None else text,
        vector=vector,
        mode="dense" if vector is not None else None,
        rerank=rerank is not None,
        top_k=query.top_k,
        top_n=rerank.top_n if rerank is not None and rerank.top_n is not None else query.top_k,
        deadline=deadline,
        filter=query.filter,
        namespace=namespace,
    )


async def _hits(index: ServedIndex, answer: SearchAnswer, wanted: Collection[str] | None) -> list[dict[str, Any]]:
    engine = index.engine()
    scores, text_field = relevance_of_results(answer, engine.reranker_scale()), await engine.text_field()
    return [
        {
            "_id": result.id,
            "_score": score,
            "fields": {
                field: value
                for field, value in metadata_of(result.passage, text_field).items()
                if wanted is None or field in wanted
            },
        }
        for result, score in zip(answer.results, scores, strict=True)
    ]
