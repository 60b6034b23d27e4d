"""Pinecone's control plane: indexes are listed and described, and those of a catalog created and deleted."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from serve.dialects.common.calls import json_answer
from serve.dialects.common.model_names import ServedModels
from serve.dialects.pinecone_api.new_index import (
    ModelIndexFields,
    NewIndexFields,
    dimension_of,
    encoder_of,
    text_field_of,
)
from serve.web.errors import responses
from serve.web.indexes import Indexes
from serve.web.scopes import ADMIN
from shoal.catalog.management import NewIndex
from shoal.catalog.summary import IndexSummary
from shoal.errors import InvalidArgument, Unavailable
from shoal.settings import ServeSettings

CLOUD, REGION = "aws", "us-east-1"
"""What clients are told of where the index lies: they want something there, and do nothing with it."""
DATA_PLANE = "/i/{name}"
"""Where the passages of an index are asked for: Pinecone's paths carry no name, so that the host has to."""

IndexName = Annotated[str, Path(description="The name of the index: that of its folder.")]
"""The name of an index in a path."""


class PineconeStatus(BaseModel):
    """An index that can be asked."""

    ready: bool
    state: Literal["Ready"] = "Ready"


class PineconeIndex(BaseModel):
    """The index, with the fields that old and new clients read."""

    model_config = ConfigDict(extra="allow")

    name: str
    host: str = Field(description="Where its passages are asked for.")
    dimension: int
    metric: str
    vector_type: Literal["dense"] = "dense"
    status: PineconeStatus


class PineconeIndexes(BaseModel):
    """All indexes that the API key is good for."""

    indexes: list[PineconeIndex]


class ChangedIndex(BaseModel):
    """How an index is to be changed, whatever a client says."""

    model_config = ConfigDict(extra="allow")


class ServedIndex:
    """The index that a request is for: that of the path below which its passages are asked."""

    def __init__(self, engine: Indexes, settings: ServeSettings) -> None:
        self.engine = engine
        self.settings = settings

    def check(self, name: str) -> None:
        """Raise NotFound for an index that the key is not good for; one that is not there says so when it is asked."""
        if name != self.engine.name:
            raise self.engine.absent(name)


def index_model(summary: IndexSummary, request: Request) -> dict[str, Any]:
    """Describe an index with the union of the fields that clients from 5 to 10 read.

    They find its passages below the address that they asked, at /i/NAME.
    """
    forwarded = request.headers.get("x-forwarded-proto", "")
    scheme = "https" if forwarded == "https" else request.scope.get("scheme", "http")
    authority = request.headers.get("host") or "localhost"
    capacity = {"mode": "OnDemand", "status": {"state": "Ready"}}
    vector = {"type": "dense_vector", "dimension": summary.dim, "metric": summary.metric}
    return {
        "name": summary.name,
        "host": f"{scheme}://{authority}/i/{summary.name}",
        "dimension": summary.dim,
        "metric": summary.metric,
        "vector_type": "dense",
        "spec": {"serverless": {"cloud": CLOUD, "region": REGION, "read_capacity": capacity}},
        "schema": {"fields": {"_values": vector}},
        "deployment": {"deployment_type": "managed", "cloud": CLOUD, "region": REGION},
        "read_capacity": capacity,
        "deletion_protection": "disabled",
        "tags": None,
        # One that is not in memory is loaded when it is asked, within the same call.
        "status": {"ready": True, "state": "Ready"},
    }


def _describable(summary: IndexSummary) -> IndexSummary:
    """Return a summary. Raises Unavailable where the index cannot be read."""
    if summary.dim is None:
        raise Unavailable(f"the index {summary.name!r} cannot be served: {summary.problem}", retry_after_s=10)
    return summary


def add_control(routes: APIRouter, index: ServedIndex) -> None:
    """Add the routes of the control plane."""
    indexes, models = index.engine, ServedModels(index.settings.model_alias or ())

    @routes.get("/indexes", response_model=PineconeIndexes, responses=responses(503))
    async def list_indexes(request: Request) -> Response:
        """List the indexes, as Pinecone does; those that cannot be read are left out."""
        models = [index_model(summary, request) for summary in await indexes.summaries() if summary.dim is not None]
        return json_answer({"indexes": models})

    @routes.get("/indexes/{name}", response_model=PineconeIndex, responses=responses(404, 503))
    async def describe_index(name: IndexName, request: Request) -> Response:
        """Describe an index, as Pinecone does."""
        return json_answer(index_model(_describable(await indexes.summary(name)), request))

    refusals = responses(400, 403, 404, 408, 409, 413, 415)

    @routes.post("/indexes", status_code=201, response_model=PineconeIndex, dependencies=[ADMIN], responses=refusals)
    async def create_index(body: NewIndexFields, request: Request) -> Response:
        """Create an index for vectors in the catalog of the server, as Pinecone does."""
        await indexes.check_free(body.name)
        made = await indexes.create(NewIndex(body.name, dimension=dimension_of(body)))
        return json_answer(index_model(made, request), 201)

    @routes.post(
        "/indexes/create-for-model",
        status_code=201,
        response_model=PineconeIndex,
        dependencies=[ADMIN],
        responses=refusals,
    )
    async def create_index_for_model(body: ModelIndexFields, request: Request) -> Response:
        """Create an index whose texts the server encodes, as Pinecone does."""
        await indexes.check_free(body.name)
        encoder = encoder_of(body.embed, models)
        made = await indexes.create(NewIndex(body.name, encoder=encoder, text_field=text_field_of(body.embed)))
        return json_answer(index_model(made, request), 201)

    @routes.patch("/indexes/{name}", response_model=PineconeIndex, dependencies=[ADMIN], responses=refusals)
    async def configure_index(name: IndexName, body: ChangedIndex) -> Response:
        """Refuse to change an index."""
        await indexes.summary(name)
        raise InvalidArgument(f"{name!r} is not changed once it is there: create another index, and delete this one")

    @routes.delete("/indexes/{name}", status_code=202, response_model=None, dependencies=[ADMIN], responses=refusals)
    async def delete_index(name: IndexName) -> Response:
        """Delete an index of the catalog with all that it holds, as Pinecone does."""
        await indexes.remove(name)
        return Response(status_code=202)
