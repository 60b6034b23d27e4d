"""Pinecone's writes: vectors are upserted, updated and deleted, and records upserted, in the index that is served."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from serve.dialects.common.calls import fields_named
from serve.dialects.pinecone_api.answers import COMMITTED, DataAnswer, http_response
from serve.dialects.pinecone_api.bodies import (
    NamespaceFields,
    VectorDeleteFields,
    VectorFields,
    VectorUpdateFields,
    VectorUpsertFields,
)
from serve.dialects.pinecone_api.control import DATA_PLANE, IndexName, ServedIndex
from serve.web.errors import responses
from serve.web.json_body import unique_names
from serve.web.scopes import WRITE
from shoal.errors import InvalidArgument
from shoal.namespaces import check_namespace
from shoal.settings import ServeSettings
from shoal.writing.requests import DeleteRequest, MetadataUpdate, PassageWrite, UpdateRequest, WriteRequest

TITLE = "title"
"""The metadata field that becomes the title of the passage, as `data.metadata_of` puts it back.

That of the text does too: whatever checks the record knows which one it is.
"""
RECORD_TYPES = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/json")
"""Types of a body of records."""
_RECORDS = "on each line an object with `_id` and a text, which the server encodes, a `title` or not, and metadata."
"""What OpenAPI says of a body of records."""
_REFUSALS = responses(400, 401, 403, 404, 408, 409, 413, 415, 429, 500, 503, 504)
"""What a write may be refused with."""


class UpsertResponse(BaseModel):
    """What was written; `unchanged` counts in it."""

    upsertedCount: int = Field(description="Passages of the request: all are on disk.")


class UpdateResponse(BaseModel):
    """What was updated."""

    matchedRecords: int = Field(description="1, or 0 where there is no passage of that id.")


class EmptyResponse(BaseModel):
    """Nothing: it was done."""

    model_config = ConfigDict(extra="forbid")


def add_writes(routes: APIRouter, index: ServedIndex) -> None:
    """Add the routes that change passages."""
    options: dict[str, Any] = {"responses": _REFUSALS, "dependencies": [WRITE]}

    @routes.post(f"{DATA_PLANE}/vectors/upsert", response_model=UpsertResponse, **options)
    async def upsert(name: IndexName, body: VectorUpsertFields) -> Response:
        """Write passages with their vectors, as Pinecone does. All are on disk with the answer, or none is written."""
        index.check(name)
        return await http_response(await upsert_vectors(index, body, write_deadline(index.settings)))

    @routes.post(f"{DATA_PLANE}/vectors/update", response_model=UpdateResponse, **options)
    async def update(name: IndexName, body: VectorUpdateFields) -> Response:
        """Change the metadata or the vector of a passage, as Pinecone does."""
        index.check(name)
        return await http_response(await update_passage(index, body, write_deadline(index.settings)))

    @routes.post(f"{DATA_PLANE}/vectors/delete", response_model=EmptyResponse, **options)
    async def delete(name: IndexName, body: VectorDeleteFields) -> Response:
        """Delete passages by their ids, those that fulfil a filter, or all, as Pinecone does."""
        index.check(name)
        return await http_response(await delete_passages(index, body, write_deadline(index.settings)))

    @routes.delete(
        DATA_PLANE + "/namespaces/{namespace:path}", response_model=EmptyResponse, status_code=202, **options
    )
    async def delete_namespace(name: IndexName, namespace: str) -> Response:
        """Delete all records of a namespace, as Pinecone does."""
        index.check(name)
        body = NamespaceFields(namespace=namespace)
        response = await http_response(await delete_namespace_of(index, body, write_deadline(index.settings)))
        response.status_code = 202
        return response

    @routes.post(
        DATA_PLANE + "/records/namespaces/{namespace:path}/upsert",
        response_model=UpsertResponse,
        status_code=201,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {RECORD_TYPES[0]: {"schema": {"type": "string", "description": _RECORDS}}},
            }
        },
        **options,
    )
    async def upsert_records(name: IndexName, namespace: str, request: Request) -> Response:
        """Write records whose texts the server encodes, as Pinecone does.

        A record is an object on a line of its own, with `_id`. Its text is in the field that the index names: `text`,
        unless it was created with another one. Other fields than this and `title` are metadata.
        """
        index.check(name)
        own = check_namespace(namespace)
        records = await run_in_threadpool(records_of, await _body_of_records(request), index.settings.max_passages)
        response = await http_response(await _write(index, records, "records", write_deadline(index.settings), own))
        response.status_code = 201
        return response


async def _body_of_records(request: Request) -> bytes:
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared not in RECORD_TYPES:
        raise HTTPException(
            415, f"send a record on each line, in JSON, with the header Content-Type: {RECORD_TYPES[0]}"
        )
    try:
        return await request.body()
    except ClientDisconnect:
        raise HTTPException(400, "the client was gone before its body had ended") from None


def records_of(body: bytes, most: int) -> list[PassageWrite]:
    """Read the records of a body, one on each line. Raises InvalidArgument that names the line at fault.

    Args:
        body: In UTF-8; lines without a record are passed over.
        most: Records that a request may have.
    """
    lines = [(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    _check_count(len(lines), most, "records")
    return [_record(line, number) for number, line in lines]


def _record(line: bytes, number: int) -> PassageWrite:
    try:
        record = json.loads(line.decode(), object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"line {number} should be a JSON object: {error}") from None
    except HTTPException as error:
        raise InvalidArgument(f"line {number}: {error.detail}") from None
    if not isinstance(record, dict):
        raise InvalidArgument(f"line {number} should be a JSON object, a record")
    given = record.pop("_id", None)
    id_ = record.pop("id", None) if given is None else given
    if not isinstance(id_, str):
        raise InvalidArgument(f"the record on line {number} should have an _id, a string")
    return PassageWrite(id_, **_divided(record))


def _passage(vector: VectorFields, place: str) -> PassageWrite:
    if vector.sparseValues is not None:
        raise InvalidArgument(
            f"{place}.sparseValues should be left out: words are found by the index of words",
            param=f"{place}.sparseValues",
        )
    return PassageWrite(vector.id, vector=vector.values, **_divided(vector.metadata))


def _divided(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Title and metadata of a passage, from what Pinecone's clients keep in metadata; the text stays in these."""
    if not _is_text(fields.get(TITLE)):
        return {"metadata": fields, "text_in_metadata": True}
    metadata = {name: value for name, value in fields.items() if name != TITLE}
    return {"title": fields[TITLE], "metadata": metadata, "text_in_metadata": True}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not value.isspace()


def _check_count(count: int, most: int, field: str) -> None:
    if not 1 <= count <= most:
        raise InvalidArgument(
            f"{field} should be 1 to {most:,} (max_passages) in a request, not {count:,}; send them in batches",
            param=field,
        )


async def upsert_vectors(index: ServedIndex, body: VectorUpsertFields, deadline: float) -> DataAnswer:
    """Write passages with their vectors."""
    passages = [_passage(vector, f"vectors[{place}]") for place, vector in enumerate(body.vectors)]
    return await _write(index, passages, "vectors", deadline, body.namespace)


async def _write(
    index: ServedIndex, passages: list[PassageWrite], field: str, deadline: float, namespace: str
) -> DataAnswer:
    _check_count(len(passages), index.settings.max_passages, field)
    with _named("passages[", f"{field}["), fields_named(inputs=field):
        written = await index.engine().write(WriteRequest(passages=passages, deadline=deadline, namespace=namespace))
    return _answer({"upsertedCount": len(passages)}, written.position)


async def update_passage(index: ServedIndex, body: VectorUpdateFields, deadline: float) -> DataAnswer:
    """Change metadata or vector of a passage."""
    if body.id is None or body.filter is not None or body.dryRun:
        raise InvalidArgument("id is required, and filter and dryRun are not there: update one passage", param="id")
    if body.sparseValues is not None:
        raise InvalidArgument("sparseValues should be left out: there are dense vectors alone", param="sparseValues")
    text_field = await index.engine().text_field()
    if own := next((name for name in (text_field, TITLE) if name in body.setMetadata), None):
        raise InvalidArgument(
            f"setMetadata.{own} should be left out: upsert the passage with another {own}, and its vector",
            param=f"setMetadata.{own}",
        )
    update = MetadataUpdate(body.id, body.setMetadata, vector=body.values)
    request = UpdateRequest(updates=[update], deadline=deadline, namespace=check_namespace(body.namespace))
    with _named("updates[0]", "the update", is_param=False):
        updated = await index.engine().update(request)
    return _answer({"matchedRecords": 1 - len(updated.missing)}, updated.position)


async def delete_passages(index: ServedIndex, body: VectorDeleteFields, deadline: float) -> DataAnswer:
    """Delete what a request names; in several steps where it is more than one deletion takes in."""
    if (body.ids is not None) + (body.filter is not None) + body.deleteAll != 1:
        raise InvalidArgument("one of ids, filter and deleteAll is required")
    if body.ids is not None:
        _check_count(len(body.ids), index.settings.max_passages, "ids")
    request = DeleteRequest(ids=body.ids, filter=body.filter, deadline=deadline, namespace=body.namespace)
    while (deleted := await index.engine().delete(request)).more:
        pass
    return _answer({}, deleted.position)


async def delete_namespace_of(index: ServedIndex, body: NamespaceFields, deadline: float) -> DataAnswer:
    """Delete all records of a namespace, which is to be named: who forgets it must not lose the default one."""
    if not body.namespace:
        raise InvalidArgument("a namespace should be named; __default__ is the default one", param="namespace")
    return await delete_passages(index, VectorDeleteFields(deleteAll=True, namespace=body.namespace), deadline)


def write_deadline(settings: ServeSettings) -> float:
    """When a request that writes must be answered, by `time.monotonic`."""
    return time.monotonic() + settings.write_timeout_ms / 1000


def _answer(body: dict[str, int], position: int) -> DataAnswer:
    return DataAnswer(body, headers={COMMITTED: str(position)})


@contextmanager
def _named(own: str, field: str, *, is_param: bool = True) -> Iterator[None]:
    """Let InvalidArgument name what it is about as this dialect does, wherever its message does.

    Args:
        own: As the engine names it.
        field: As this dialect does.
        is_param: Whether that is a field of the request.
    """
    try:
        yield
    except InvalidArgument as error:
        param = error.param.replace(own, field, 1) if error.param is not None and is_param else None
        raise InvalidArgument(error.message.replace(own, field), param=param) from error
