"""The routes of the indexes of a server, `/v1/indexes`; what is below `/v1/indexes/NAME`: `serve.web.index_paths`."""

from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from serve.dialects.native.models import Live, Models
from serve.dialects.native.render import render
from serve.web.errors import responses
from serve.web.indexes import Indexes
from serve.web.scopes import ADMIN
from shoal.catalog.management import NewIndex
from shoal.engine.request_body import RequestBody
from shoal.index_root.manifest import TEXT_FIELD
from shoal.modes import Mode
from shoal.settings.sources import MetadataType

MOST_NAME = 63
"""Characters of the name of an index."""


class CreateBody(RequestBody):
    """An index without passages that is to be made."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "articles", "encoder": "all-MiniLM-L6-v2", "metadata_types": ["year:integer"]},
                {"name": "products", "dimension": 384, "text_field": "description"},
            ]
        }
    )

    name: str = Field(max_length=MOST_NAME, description="Small letters, digits and dashes; the first no dash.")
    encoder: str | None = Field(
        None, max_length=1000, description="One of those that the server was given by --encoders."
    )
    dimension: int | None = Field(
        None, ge=1, le=65_536, description="Of the vectors that passages and queries bring along, without an encoder."
    )
    text_field: str = Field(
        TEXT_FIELD,
        min_length=1,
        max_length=1000,
        description="Field of the text. With another name than `text`, a record may bring its text in that field of "
        "its metadata.",
    )
    metadata_types: list[MetadataType] | None = Field(
        None,
        max_length=1000,
        description="Types of metadata fields, such as year:integer. The first value of another field fixes its type.",
    )


class IndexEntry(BaseModel):
    """An index of the server. What cannot be told is null."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "articles",
                    "state": "unloaded",
                    "version": "20260131T120000000-3f9a0c41",
                    "passages": 1000,
                    "dim": 384,
                    "metric": "cosine",
                    "modes": ["dense", "lexical", "hybrid"],
                    "late_interaction": "none",
                    "fields": {"year": "integer"},
                    "models": {"encoder": "all-MiniLM-L6-v2", "reranker": "late_interaction"},
                    "live": None,
                    "problem": None,
                }
            ]
        },
    )

    name: str = Field(description="By which it is asked, at /v1/indexes/NAME.")
    state: Literal["ready", "loading", "unloaded", "failed"] = Field(
        description="Whether it is in memory; one that is unloaded is loaded when it is asked for."
    )
    version: str | None
    passages: int | None = Field(description="Of one that is not loaded, those of its version.")
    dim: int | None = Field(description="Dimensions of a vector.")
    metric: str | None
    modes: list[Mode]
    late_interaction: Literal["none", "stored"] | None
    fields: dict[str, str] | None = Field(description="Metadata fields that filters know, and their types.")
    models: Models | None
    live: Live | None = Field(description="What was written since the version; null where it is not loaded.")
    problem: str | None = Field(description="Why it cannot be served, or not as it should be.")


def add_indexes(routes: APIRouter, indexes: Indexes) -> None:
    """Add the routes to those of the dialect."""
    refusals = responses(400, 401, 403, 408, 409, 413, 415, 503)

    @routes.get("/indexes", response_model=list[IndexEntry], responses=responses(503))
    async def list_indexes() -> Response:
        """List the indexes of the server that the API key is good for."""
        return render(await indexes.summaries())

    @routes.post("/indexes", status_code=201, response_model=IndexEntry, dependencies=[ADMIN], responses=refusals)
    async def create_index(body: CreateBody) -> Response:
        """Make an index without passages in the catalog of the server; passages are written to it at once."""
        made = await indexes.create(NewIndex(**body.model_dump()))
        response = render(made)
        response.status_code = 201
        return response

    @routes.delete(
        "/indexes/{index}",
        status_code=202,
        response_model=dict[str, Any],
        dependencies=[ADMIN],
        responses=responses(400, 401, 403, 404, 409, 503),
    )
    async def remove_index(index: str) -> Response:
        """Remove an index of the catalog with all its passages. It is gone once what is under way has ended."""
        await indexes.remove(index)
        response = render({"name": index})
        response.status_code = 202
        return response
