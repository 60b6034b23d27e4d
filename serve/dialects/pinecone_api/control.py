"""Pinecone's control plane for the one index that is served: it is listed and described, and none is created."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from serve.dialects.base import Engine
from serve.dialects.common.calls import json_answer
from serve.web.errors import responses
from serve.web.scopes import ADMIN
from shoal.engine.description import IndexDescription
from shoal.errors import Conflict, InvalidArgument, NotFound
from shoal.serving.index_name import index_name
from shoal.settings import ServeSettings

CLOUD, REGION = "aws", "us-east-1"
"""What clients are told of where the index lies: they want something there, and do nothing with it."""
DATA_PLANE = "/i/{name}"
"""Where the passages of an index are asked for: Pinecone's paths carry no name, so that the host has to."""
MOST_NAME = 100
"""Characters of a name that a message repeats."""

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
    """All indexes: the one that is served."""

    indexes: list[PineconeIndex]


class NewIndex(BaseModel):
    """An index to be created, whatever a client says of it."""

    model_config = ConfigDict(extra="allow")

    name: str | None = None


class ChangedIndex(BaseModel):
    """How an index is to be changed, whatever a client says."""

    model_config = ConfigDict(extra="allow")


class ServedIndex:
    """The one index that is served, by its name."""

    def __init__(self, engine: Callable[[], Engine], settings: ServeSettings) -> None:
        self.engine = engine
        self.settings = settings
        self.name = index_name(settings.index)

    def check(self, name: str) -> None:
        """Raise NotFound for another index."""
        if name != self.name:
            raise NotFound(
                f"there is no index {name[:MOST_NAME]!r} here; this server has the index {self.name!r}", param="name"
            )

    async def model(self, request: Request) -> dict[str, Any]:
        """Describe the index. Clients find its passages below the address that they asked, at /i/NAME."""
        forwarded = request.headers.get("x-forwarded-proto", "")
        scheme = "https" if forwarded == "https" else request.scope.get("scheme", "http")
        authority = request.headers.get("host") or "localhost"
        return index_model(self.name, f"{scheme}://{authority}/i/{self.name}", await self.engine().describe())

    def refuse_change(self) -> InvalidArgument:
        """Why indexes cannot be made, changed or removed over HTTP."""
        return InvalidArgument(
            f"this server has the index {self.name!r} alone: an index is built and published by `shoal build`, and "
            "served by `shoal serve --index`"
        )


def index_model(name: str, host: str, description: IndexDescription) -> dict[str, Any]:
    """Describe an index with the union of the fields that clients from 5 to 10 read."""
    capacity = {"mode": "OnDemand", "status": {"state": "Ready"}}
    vector = {"type": "dense_vector", "dimension": description.dim, "metric": description.metric}
    return {
        "name": name,
        "host": host,
        "dimension": description.dim,
        "metric": description.metric,
        "vector_type": "dense",
        "spec": {"serverless": {"cloud": CLOUD, "region": REGION, "read_capacity": capacity}},
        "schema": {"fields": {"_values": vector}},
        "deployment": {"deployment_type": "managed", "cloud": CLOUD, "region": REGION},
        "read_capacity": capacity,
        "deletion_protection": "disabled",
        "tags": None,
        "status": {"ready": True, "state": "Ready"},
    }


def add_control(routes: APIRouter, index: ServedIndex) -> None:
    """Add the routes of the control plane."""

    @routes.get("/indexes", response_model=PineconeIndexes, responses=responses(503))
    async def list_indexes(request: Request) -> Response:
        """List the index, as Pinecone does."""
        return json_answer({"indexes": [await index.model(request)]})

    @routes.get("/indexes/{name}", response_model=PineconeIndex, responses=responses(404, 503))
    async def describe_index(name: IndexName, request: Request) -> Response:
        """Describe the index, as Pinecone does."""
        index.check(name)
        return json_answer(await index.model(request))

    refusals = responses(400, 403, 404, 408, 409, 413, 415)

    @routes.post("/indexes", response_model=PineconeIndex, dependencies=[ADMIN], responses=refusals)
    async def create_index(body: NewIndex) -> Response:
        """Refuse to create an index, with 409 where there is one of that name, as Pinecone does, and 400 otherwise."""
        if body.name == index.name:
            raise Conflict(f"the index {index.name!r} exists already", param="name")
        raise index.refuse_change()

    @routes.patch("/indexes/{name}", response_model=PineconeIndex, dependencies=[ADMIN], responses=refusals)
    async def configure_index(name: IndexName, body: ChangedIndex) -> Response:
        """Refuse to change an index."""
        index.check(name)
        raise index.refuse_change()

    @routes.delete("/indexes/{name}", response_model=PineconeIndex, dependencies=[ADMIN], responses=refusals)
    async def delete_index(name: IndexName) -> Response:
        """Refuse to delete an index."""
        index.check(name)
        raise index.refuse_change()
