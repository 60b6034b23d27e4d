"""What Pinecone's data plane is asked."""

from typing import Any

from pydantic import Field

from shoal.engine.request_body import RequestBody

FILTER: Any = Field({}, description="Conditions on metadata: $eq $ne $gt $gte $lt $lte $in $nin $exists $and $or.")
"""The field of a filter."""


class StatsFields(RequestBody):
    """How large the index is."""

    filter: dict[str, Any] = Field({}, description="Refused unless it is empty.")


class SearchInputs(RequestBody):
    """The text of a query."""

    text: str = Field(min_length=1)


class SearchQuery(RequestBody):
    """What records are searched by: a text."""

    inputs: SearchInputs
    vector: dict[str, Any] | None = Field(None, description="Refused.")
    id: str | None = Field(None, description="Refused.")
    top_k: int = Field(ge=1, examples=[25])
    filter: dict[str, Any] = FILTER
    match_terms: dict[str, Any] | None = Field(None, description="Refused.")


class SearchRerank(RequestBody):
    """How the candidates are reranked."""

    model: str
    rank_fields: list[str] = Field(min_length=1, description="`text`: what the reranker reads is a passage's text.")
    top_n: int | None = Field(None, ge=1, description="Hits returned. Left out: top_k.")
    query: str | None = Field(None, description="Left out, or the text of the query; another is refused.")
    parameters: dict[str, Any] = Field({}, description="Refused unless it is empty.")


class RecordSearchFields(RequestBody):
    """A search with both stages in one call."""

    query: SearchQuery
    fields: list[str] | None = Field(None, description="Fields of each hit: `text`, `title`, those of the metadata.")
    rerank: SearchRerank | None = None
