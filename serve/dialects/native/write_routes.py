"""The routes that change passages."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from serve.dialects.base import Engine
from serve.dialects.native.render import render
from serve.web.errors import responses
from serve.web.scopes import WRITE
from shoal.engine.write_models import MOST_KEY, checked_key, delete_body, update_body, upsert_body
from shoal.namespaces import MAX_NAMESPACE_BYTES
from shoal.settings import ServeSettings

NamespaceName = Annotated[
    str, Path(min_length=1, max_length=MAX_NAMESPACE_BYTES, description="The name of a namespace.", examples=["acme"])
]
"""The name of a namespace in a path."""
KEY_HEADER = "idempotency-key"
"""The header of a request's key."""
_PARAMETERS: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "Names this request, so that it can be repeated for an hour when it is not known whether it "
            "was done: it is done once, and answered alike. A new one for every request, such as a UUID.",
            "schema": {"type": "string", "minLength": 1, "maxLength": MOST_KEY},
        }
    ]
}
"""What OpenAPI says of it."""
_REFUSALS = responses(400, 401, 403, 408, 409, 413, 415, 422, 429, 500, 503, 504)
"""What a write may be refused with."""
_POSITION = "In the log of the index: a search with this `min_position` sees the write, wherever it is asked."
"""What every answer says of its position."""


class WriteResponse(BaseModel):
    """What was written."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"position": 1842, "written": 2, "unchanged": 0}]}
    )

    position: int = Field(description=_POSITION)
    written: int = Field(description="Records that are new or have changed.")
    unchanged: int = Field(description="Records that are as they were.")


class DeleteResponse(BaseModel):
    """What was deleted."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"position": 1843, "deleted": 1, "more": False}]}
    )

    position: int = Field(description=_POSITION)
    deleted: int = Field(description="Records that were there.")
    more: bool = Field(description="Whether another call would find more that fulfil the filter.")


class UpdateResponse(BaseModel):
    """What was updated."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"position": 1844, "updated": 1, "unchanged": 0, "missing": []}]},
    )

    position: int = Field(description=_POSITION)
    updated: int
    unchanged: int = Field(description="Records whose metadata are as they were.")
    missing: list[str] = Field(description="Ids that there are no records of.")


def add_writes(routes: APIRouter, engine: Callable[[], Engine], settings: ServeSettings) -> None:
    """Add the routes to those of the dialect. All limits come from the settings."""
    UpsertBody, DeleteBody, UpdateBody = upsert_body(settings), delete_body(settings), update_body(settings)
    options: dict[str, Any] = {"responses": _REFUSALS, "dependencies": [WRITE], "openapi_extra": _PARAMETERS}

    @routes.post("/passages", response_model=WriteResponse, **options)
    async def write(body: UpsertBody, request: Request) -> Response:  # type: ignore[valid-type]
        """Write passages, each in the place of the one with its id.

        The answer comes once they are on disk; searches see them within a second. All are written, or none.
        """
        asked = await run_in_threadpool(body.request, settings, _key(request))  # type: ignore[attr-defined]
        return render(asdict(await engine().write(asked)))

    @routes.post("/passages/delete", response_model=DeleteResponse, **options)
    async def delete(body: DeleteBody, request: Request) -> Response:  # type: ignore[valid-type]
        """Delete passages by their ids, or those that fulfil a filter."""
        return render(asdict(await engine().delete(body.request(settings, _key(request)))))  # type: ignore[attr-defined]

    @routes.post("/passages/update", response_model=UpdateResponse, **options)
    async def update(body: UpdateBody, request: Request) -> Response:  # type: ignore[valid-type]
        """Change the metadata of passages; texts and vectors stay as they are."""
        return render(asdict(await engine().update(body.request(settings, _key(request)))))  # type: ignore[attr-defined]

    @routes.delete("/namespaces/{namespace:path}", response_model=DeleteResponse, **options)
    async def delete_namespace(namespace: NamespaceName, request: Request) -> Response:
        """Delete all passages of a namespace, 10,000 with each call; `__default__` is the default one."""
        body = DeleteBody(ids=None, all=True, namespace=namespace)
        return render(asdict(await engine().delete(body.request(settings, _key(request)))))


def _key(request: Request) -> str | None:
    return checked_key(request.headers.get(KEY_HEADER))
