"""From the fields of a record to a passage: the one place where outside values are checked."""

import math
from typing import Any

import numpy as np

from shoal.metadata import FieldType, convert, declared_types
from shoal.records import FloatArray, MetadataValue, Passage
from shoal.settings import SourceSettings

MAX_ID_BYTES = 512
"""Bytes of an id in UTF-8, at most."""
MAX_METADATA = 1_000_000
"""Characters of all metadata of a passage, names included: they travel with every hit."""


class BadRecord(Exception):
    """A record that gives no passage: why, and its id if that much is known."""

    def __init__(self, reason: str, passage_id: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.id = passage_id


class FieldMapping:
    """Makes passages of records.

    * The id is a string or an integer (which becomes a string), not blank, at most 512 bytes.
    * The text is a string, not blank, with `limit_text` at most `max_passage_bytes` long; the title a string of that
      length or null.
    * Metadata are strings, finite numbers, booleans and lists of strings, together at most MAX_METADATA long; null is
      dropped. An object in a field named `metadata` stands for its own fields, so that records with a metadata object
      keep what is in it. A value of a field whose type is declared (`metadata_types`) becomes one of that type.
    * A vector (`vectors_field`) is a list of `dim` numbers.
    """

    def __init__(self, source: SourceSettings, dim: int, *, limit_text: bool) -> None:
        self._vectors, self._dim = source.vectors_field, dim
        self._id, self._text, self._title = source.id_field or "id", source.text_field, source.title_field
        self._chosen = source.metadata_fields
        self._types = {name: kind for name, kind in declared_types(source.metadata_types).items() if kind is not None}
        self._limit = source.max_passage_bytes
        self._text_limit = self._limit if limit_text else None

    def passage(self, record: dict[str, Any]) -> Passage:
        """Return the passage of a record, which is used up. Raises BadRecord."""
        identity = self._identity(record)
        try:
            text = record.pop(self._text, None)
            if type(text) is not str:
                raise BadRecord(_not_a_string("text", self._text, text))
            if not text or text.isspace():
                raise BadRecord(f"the text field {self._text!r} is empty")
            self._check_length(self._text, text, self._text_limit)
            title = None
            if self._title is not None and (title := record.pop(self._title, None)) is not None:
                if type(title) is not str:
                    raise BadRecord(_not_a_string("title", self._title, title))
                self._check_length(self._title, title, self._limit)
            vector = None if self._vectors is None else self._vector(self._vectors, record.pop(self._vectors, None))
            return Passage(identity, text, title or None, self._metadata(record), vector)
        except BadRecord as bad:
            bad.id = identity
            raise

    def _check_length(self, field: str, text: str, limit: int | None) -> None:
        """Raise BadRecord for a text that is longer than a passage may be or that UTF-8 cannot hold."""
        if text.isascii():
            length = len(text)
        else:
            try:
                length = len(text.encode())
            except UnicodeEncodeError as error:
                raise BadRecord(f"the field {field!r} holds a lone surrogate (character {error.start + 1})") from error
        if limit is not None and length > limit:
            raise BadRecord(
                f"the field {field!r} is {length:,} bytes long, more than max_passage_bytes ({limit:,}); "
                "cut it into passages with chunk_characters"
            )

    def _identity(self, record: dict[str, Any]) -> str:
        try:
            identity = record.pop(self._id)
        except KeyError:
            found = ", ".join(_shown(name) for name in sorted(record)[:8]) or "none"
            raise BadRecord(f"the id field {self._id!r} is missing (fields: {found})") from None
        if type(identity) is int:
            identity = str(identity)
        if type(identity) is not str:
            raise BadRecord(f"the id field {self._id!r} is {_kind(identity)}; it must be a string or an integer")
        return check_id(identity, self._id)

    def _vector(self, field: str, value: object) -> FloatArray:
        if value is None:
            raise BadRecord(f"the vector field {field!r} is missing or null")
        if isinstance(value, list):
            if other := [item for item in value if type(item) not in (int, float)]:
                raise BadRecord(f"the vector field {field!r} holds {_kind(other[0])}; it must be a list of numbers")
        elif not isinstance(value, np.ndarray):
            raise BadRecord(f"the vector field {field!r} is {_kind(value)}; it must be a list of numbers")
        if len(value) != self._dim:
            raise BadRecord(
                f"the vector field {field!r} has {len(value):,} numbers, the encoder's vectors have {self._dim:,}; "
                "name the encoder that made these vectors"
            )
        try:
            with np.errstate(over="ignore"):  # beyond float32 a number is infinite, and the vector refused
                return np.asarray(value, np.float32)
        except OverflowError:
            raise BadRecord(f"the vector field {field!r} holds a number beyond float32") from None

    def _metadata(self, record: dict[str, Any]) -> dict[str, MetadataValue]:  # noqa: C901 - a case for each type
        if type(nested := record.get("metadata")) is dict:
            del record["metadata"]
            record = {**nested, **record}
        if self._chosen is not None:
            record = {name: record[name] for name in self._chosen if name in record}
        dropped = False
        size = 0
        for name, value in record.items():
            kind = type(value)
            size += len(name)
            if kind is str:
                size += len(value)
                if not value.isascii():
                    _encodable(name, value)
            elif value is None:
                dropped = True
            elif kind is int:
                if not -(2**63) <= value < 2**63:
                    raise BadRecord(f"the metadata field {_shown(name)} is an integer beyond 64 bits")
            elif kind is float:
                if not math.isfinite(value):
                    raise BadRecord(f"the metadata field {_shown(name)} is {value}; numbers must be finite")
            elif kind is list and all(type(item) is str for item in value):
                for item in value:
                    size += len(item)
                    _encodable(name, item)
            elif kind is not bool:
                raise BadRecord(
                    f"the metadata field {_shown(name)} is {_kind(value)}; metadata are strings, numbers, "
                    "booleans or lists of strings (metadata_fields chooses which fields are kept)"
                )
            if not name.isascii():
                _encodable(name, name)
        if size > MAX_METADATA:
            raise BadRecord(
                f"the metadata are {size:,} characters long, more than {MAX_METADATA:,}; "
                "choose the fields to keep with metadata_fields"
            )
        if dropped:
            record = {name: value for name, value in record.items() if value is not None}
        for name, declared in self._types.items():
            if name in record:
                record[name] = _declared(name, record[name], declared)
        return record


def check_id(identity: str, field: str) -> str:
    """Return an id that may be indexed. Raises BadRecord."""
    if not identity or identity.isspace():
        raise BadRecord(f"the id field {field!r} is empty")
    try:
        length = len(identity.encode())
    except UnicodeEncodeError as error:
        raise BadRecord(f"the id field {field!r} holds a lone surrogate") from error
    if length > MAX_ID_BYTES:
        raise BadRecord(
            f"the id field {field!r} is {length:,} bytes long, more than {MAX_ID_BYTES}", identity[:64] + "..."
        )
    return identity


def _encodable(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(f"the metadata field {_shown(name)} holds a lone surrogate") from error


def _shown(name: str) -> str:
    return ascii(name) if len(name) <= 64 else ascii(name[:64]) + "..."


def _declared(name: str, value: MetadataValue, kind: FieldType) -> MetadataValue:
    fitting = convert(value, kind)
    if fitting is None:
        raise BadRecord(f"the metadata field {_shown(name)} is {_quoted(value)}, which is no {kind} (metadata_types)")
    return fitting


def _quoted(value: MetadataValue) -> str:
    return _shown(value) if isinstance(value, str) else "a list" if isinstance(value, list) else str(value)


def _not_a_string(role: str, field: str, value: object) -> str:
    if value is None:
        return f"the {role} field {field!r} is missing or empty"
    return f"the {role} field {field!r} is {_kind(value)}; it must be a string"


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case float() if not math.isfinite(value):
            return str(value)
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list of other things than strings" if any(type(item) is not str for item in value) else "a list"
        case dict():
            return "an object"
        case _:
            return f"of type {type(value).__name__}"
