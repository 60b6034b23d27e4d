"""What Shoal's own dialect is asked to write, checked against the limits of a server."""

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

import numpy as np
import orjson
from pydantic import ConfigDict, Discriminator, Field, Tag, create_model, model_validator

from shoal.engine.request_body import NAMESPACE, RequestBody
from shoal.errors import InvalidArgument
from shoal.records import FloatArray
from shoal.settings import ServeSettings
from shoal.writing.requests import (
    Attempt,
    Condition,
    DeleteRequest,
    MetadataUpdate,
    PassageWrite,
    UpdateRequest,
    WriteRequest,
)

MOST_KEY = 255
"""Characters of an Idempotency-Key."""
MOST_NUMBERS = 65_536
"""Numbers of a vector."""

GivenVector = Annotated[
    Annotated[list[float], Field(max_length=MOST_NUMBERS), Tag("<list>")]
    | Annotated[str, Field(max_length=6 * MOST_NUMBERS), Tag("<base64>")],
    Discriminator(
        lambda value: {list: "<list>", str: "<base64>"}.get(type(value)),
        custom_error_type="vector",
        custom_error_message="should be a list of numbers, or base64 of float32",
    ),
]
"""A vector as JSON has it."""


class ConditionFields(RequestBody):
    """What must hold of a record for it to be written."""

    absent: Literal[True] | None = Field(None, description="There is no record of this id.")
    position: int | None = Field(
        None, ge=0, description="The record was last written at this position; 0 if it comes from a build."
    )

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.absent is None) == (self.position is None):
            raise ValueError("should say either absent or position")
        return self


class _PassageFields(RequestBody):
    id: str
    text: str | None = Field(
        None,
        description="May be left out with a vector, with a title, or where metadata hold it: in the field that "
        "`text_field` of /v1/index names, if that is not `text`.",
    )
    title: str | None = Field(None, description="Read before the text.")
    metadata: dict[str, Any] = Field(
        {},
        description="Strings, numbers, booleans and lists of strings. The first value of a new field fixes its type.",
        examples=[{"year": 2020}],
    )
    vector: GivenVector | None = Field(
        None,
        description="Its vector, as a list or as base64 of little-endian float32. Left out, the server encodes the "
        "text.",
    )

    def passage(self, place: str) -> PassageWrite:
        """Return the record. Raises InvalidArgument for a vector that is no base64.

        Args:
            place: Of the record in the request, for messages.
        """
        given = getattr(self, "if")
        condition = None if given is None else Condition(None if given.absent else given.position)
        vector = decoded_vector(self.vector, f"{place}.vector") if isinstance(self.vector, str) else self.vector
        return PassageWrite(self.id, self.text, self.title, self.metadata, vector, condition)


_CONDITION: dict[str, Any] = {
    "if": (ConditionFields | None, Field(None, description="If this does not hold, nothing is written."))
}
"""The field whose name is a word of Python."""
PassageFields: Any = create_model(
    "PassageFields",
    __base__=_PassageFields,
    __doc__="A record: a passage, or where the index cuts texts a whole text.",
    **_CONDITION,
)


class UpsertFields(RequestBody):
    """Records, each in the place of the one with its id; `upsert_body` adds a server's limits."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "passages": [
                        {"id": "fish-7", "text": "Most fish rest with open eyes.", "metadata": {"year": 2020}},
                        {"id": "fish-8", "text": "Sharks keep swimming.", "if": {"absent": True}},
                    ]
                }
            ]
        }
    )

    passages: list[PassageFields]
    namespace: str = NAMESPACE

    def request(self, settings: ServeSettings, key: str | None) -> WriteRequest:
        """Return what the engine is asked, from now on. Raises InvalidArgument."""
        passages = [passage.passage(f"passages[{number}]") for number, passage in enumerate(self.passages)]
        return WriteRequest(passages=passages, **_attempt(self, settings, key))


class DeleteFields(RequestBody):
    """Records to delete; `delete_body` adds a server's limits."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"ids": ["fish-7"]}, {"filter": {"year": {"$lt": 2000}}}, {"all": True}]}
    )

    ids: list[str] | None
    filter: dict[str, Any] | None = Field(
        None,
        min_length=1,
        description="Conditions as those of a search: what fulfils them is deleted, 10,000 passages with each call.",
    )
    all: Literal[True] | None = Field(
        None, description="Delete every record of the namespace, 10,000 passages with each call."
    )
    namespace: str = NAMESPACE

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if sum(given is not None for given in (self.ids, self.filter, self.all)) != 1:
            raise ValueError("should have one of ids, filter and all")
        return self

    def request(self, settings: ServeSettings, key: str | None) -> DeleteRequest:
        """Return what the engine is asked, from now on."""
        return DeleteRequest(ids=self.ids, filter=self.filter, **_attempt(self, settings, key))


class UpdateFields(RequestBody):
    """Other metadata of a record."""

    id: str
    metadata: dict[str, Any] = Field(description="Fields and their values; null takes a field away.")
    merge: bool = Field(True, description="Fields that are not named stay; false takes them away.")


class UpdatesFields(RequestBody):
    """Records whose metadata changes; `update_body` adds a server's limits."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"updates": [{"id": "fish-7", "metadata": {"year": 2021, "draft": None}}]}]}
    )

    updates: list[UpdateFields]
    namespace: str = NAMESPACE

    def request(self, settings: ServeSettings, key: str | None) -> UpdateRequest:
        """Return what the engine is asked, from now on."""
        updates = [MetadataUpdate(update.id, update.metadata, update.merge) for update in self.updates]
        return UpdateRequest(updates=updates, **_attempt(self, settings, key))


def upsert_body(settings: ServeSettings) -> type[UpsertFields]:
    """Make the model of the body that writes records, with the limits of the settings."""
    passages = Field(min_length=1, max_length=settings.max_passages, description="Records; all are written, or none.")
    return create_model(
        "UpsertBody",
        __base__=UpsertFields,
        __doc__="Records, each in the place of the one with its id.",
        passages=(list[PassageFields], passages),
    )


def delete_body(settings: ServeSettings) -> type[DeleteFields]:
    """Make the model of the body that deletes records, with the limits of the settings."""
    ids = Field(
        None, min_length=1, max_length=settings.max_passages, description="Ids of records; others are nothing to it."
    )
    return create_model("DeleteBody", __base__=DeleteFields, __doc__="Records to delete.", ids=(list[str] | None, ids))


def update_body(settings: ServeSettings) -> type[UpdatesFields]:
    """Make the model of the body that updates records, with the limits of the settings."""
    updates = Field(min_length=1, max_length=settings.max_passages, description="Records, by their ids, each once.")
    return create_model(
        "UpdateBody",
        __base__=UpdatesFields,
        __doc__="Records whose metadata changes.",
        updates=(list[UpdateFields], updates),
    )


def checked_key(key: str | None) -> str | None:
    """Return an Idempotency-Key. Raises InvalidArgument for what is none."""
    if key is not None and not (key.isascii() and key.isprintable() and 0 < len(key) <= MOST_KEY):
        raise InvalidArgument(
            f"Idempotency-Key should be 1 to {MOST_KEY} printable characters of ASCII", param="Idempotency-Key"
        )
    return key


def decoded_vector(text: str, place: str) -> FloatArray:
    """Return a vector that is base64 of little-endian float32. Raises InvalidArgument."""
    try:
        data = base64.b64decode(text, validate=True)
        return np.frombuffer(data, "<f4")
    except (binascii.Error, ValueError):
        raise InvalidArgument(f"{place} should be base64 of little-endian float32", param=place) from None


def _attempt(
    body: UpsertFields | DeleteFields | UpdatesFields, settings: ServeSettings, key: str | None
) -> dict[str, Any]:
    attempt = Attempt(
        deadline=time.monotonic() + settings.write_timeout_ms / 1000,
        key=key,
        body_digest="" if key is None else _digest(type(body).__name__, body.model_dump(exclude_unset=True)),
        namespace=body.namespace,
    )
    return asdict(attempt)


def _digest(kind: str, body: Mapping[str, Any]) -> str:
    """SHA-256 over what a request asks for, however its JSON was written."""
    try:
        said = orjson.dumps([kind, body], option=orjson.OPT_SORT_KEYS)
    except TypeError:  # integers of more than 64 bits
        said = json.dumps([kind, body], sort_keys=True, separators=(",", ":")).encode()
    return f"sha256:{hashlib.sha256(said).hexdigest()}"
