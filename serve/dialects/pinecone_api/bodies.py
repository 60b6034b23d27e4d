"""What Pinecone's data plane is asked."""

from typing import Annotated, Any

from pydantic import Field

from shoal.engine.request_body import RequestBody
from shoal.engine.vectors import MAX_DIMENSIONS

Numbers = Annotated[list[float], Field(min_length=1, max_length=MAX_DIMENSIONS, fail_fast=True)]
"""A vector of a request."""
FILTER: Any = Field({}, description="Conditions on metadata: $eq $ne $gt $gte $lt $lte $in $nin $exists $and $or.")
"""The field of a filter."""
NAMESPACE: Any = Field("", description="Left out, empty or `__default__`: the default one.")
"""The field of a namespace."""

PAGE = 100
"""Ids of a page where a request names no limit."""
Ids = Annotated[list[str], Field(min_length=1)]
"""Ids of passages that are fetched."""
PageSize = Annotated[int, Field(ge=1)]
"""How many ids a page has at most."""


class FetchFields(RequestBody):
    """Passages by their ids."""

    ids: Ids
    namespace: str = NAMESPACE


class FetchByMetadataFields(RequestBody):
    """A page of the passages that fulfil a filter."""

    filter: dict[str, Any] = Field(min_length=1, description="Conditions as those of a query; at least one.")
    limit: PageSize | None = Field(None, description=f"Most passages of the page; left out, {PAGE}.")
    paginationToken: str | None = Field(None, description="`next` of the page before.")
    namespace: str = NAMESPACE


class ListFields(RequestBody):
    """A page of ids."""

    prefix: str = ""
    limit: PageSize = PAGE
    paginationToken: str | None = None
    namespace: str = NAMESPACE


class ListNamespacesFields(RequestBody):
    """A page of the namespaces."""

    prefix: str = ""
    limit: PageSize = PAGE
    paginationToken: str | None = None


class NamespaceFields(RequestBody):
    """A namespace."""

    namespace: str = ""


class QueryFields(RequestBody):
    """What is near a vector, or near a passage of the index."""

    topK: int = Field(ge=1, description="Matches returned; max_top_k bounds it.", examples=[25])
    vector: Numbers | None = Field(None, description="As many numbers as the index has dimensions.")
    id: str | None = Field(None, min_length=1, description="Of a passage by whose vector is searched.")
    namespace: str = NAMESPACE
    filter: dict[str, Any] = FILTER
    includeMetadata: bool = False
    includeValues: bool = False
    sparseVector: dict[str, Any] | None = Field(None, description="Refused.")
    scanFactor: float | None = Field(None, description="Refused.")
    maxCandidates: int | None = Field(None, description="Refused.")


class StatsFields(RequestBody):
    """How large the index is."""

    filter: dict[str, Any] = Field({}, description="Refused unless it is empty.")


class SearchInputs(RequestBody):
    """The text of a query."""

    text: str = Field(min_length=1)


class SearchVector(RequestBody):
    """The vector of a query."""

    values: Numbers


class SearchQuery(RequestBody):
    """What records are searched by: a text, a vector or a record."""

    inputs: SearchInputs | None = None
    vector: SearchVector | None = None
    id: str | None = Field(None, min_length=1)
    top_k: int = Field(ge=1, examples=[25])
    filter: dict[str, Any] = FILTER
    match_terms: dict[str, Any] | None = Field(None, description="Refused.")


class SearchRerank(RequestBody):
    """How the candidates are reranked."""

    model: str
    rank_fields: list[str] = Field(min_length=1, description="The field of the text, which the reranker reads.")
    top_n: int | None = Field(None, ge=1, description="Hits returned. Left out: top_k.")
    query: str | None = Field(None, min_length=1, description="Left out: the text of the query.")
    parameters: dict[str, Any] = Field({}, description="Refused unless it is empty.")


class RecordSearchFields(RequestBody):
    """A search with both stages in one call."""

    query: SearchQuery
    fields: list[str] | None = Field(None, description="Fields of each hit: that of the text, `title`, metadata.")
    rerank: SearchRerank | None = None


class VectorFields(RequestBody):
    """A passage with its vector."""

    id: str
    values: Numbers = Field(description="As many as the index has dimensions.")
    metadata: dict[str, Any] = Field({}, description="The field of the text and `title` become the passage's.")
    sparseValues: dict[str, Any] | None = Field(None, description="Refused.")


class VectorUpsertFields(RequestBody):
    """Passages with their vectors, each in the place of the one with its id."""

    vectors: list[VectorFields] = Field(min_length=1, description="All are written, or none; max_passages bounds them.")
    namespace: str = NAMESPACE


class VectorUpdateFields(RequestBody):
    """What is to change of a passage."""

    id: str | None = Field(None, description="Of the passage.")
    values: Numbers | None = Field(None, description="Another vector for it.")
    setMetadata: dict[str, Any] = Field({}, description="Fields and their values; others stay as they are.")
    namespace: str = NAMESPACE
    sparseValues: dict[str, Any] | None = Field(None, description="Refused.")
    filter: dict[str, Any] | None = Field(None, description="Refused.")
    dryRun: bool = Field(False, description="Refused with a filter.")


class VectorDeleteFields(RequestBody):
    """Passages to be deleted: by their ids, by a filter, or all."""

    ids: list[str] | None = Field(None, min_length=1, description="max_passages bounds them; others are nothing to it.")
    filter: dict[str, Any] | None = Field(None, min_length=1, description="Conditions as those of a query.")
    deleteAll: bool = False
    namespace: str = NAMESPACE
