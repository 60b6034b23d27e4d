"""From the fields of a record to a passage: the one place where outside values are checked."""

import math
import re
from collections import Counter
from typing import Any

import numpy as np

from shoal.extraction.places import TITLE_FIELD
from shoal.metadata import LEAST_INTEGER, MOST_INTEGER, FieldType, convert, declared_types
from shoal.namespaces import MARK
from shoal.records import FloatArray, MetadataValue, Passage
from shoal.settings import SourceSettings
from shoal.sources.arrow_values import Unfit

MAX_ID_BYTES = 512
"""Bytes of an id in UTF-8, at most."""
MAX_METADATA = 1_000_000
"""Characters of all metadata of a passage, names included, and one for each item: they travel with every hit."""

MAX_LEFT_OUT = 256
"""Fields and reasons for which values that were left out are counted apart."""
_MISSING = object()
"""Stands for a field that a record does not have."""
_SEPARATORS = re.compile("[;|]")
"""What stands between the items of a list in most CSV files, other than commas."""


class BadRecord(Exception):
    """A record that gives no passage: why, and its id if that much is known."""

    def __init__(self, reason: str, passage_id: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.id = passage_id


class FieldMapping:
    """Makes passages of records.

    * The id is a string or an integer (which becomes a string), not blank, at most 512 bytes. That of several fields is
      their values with `#` between them; the fields stay metadata.
    * The text is a string, not blank, with `limit_text` at most `max_passage_bytes` long; the title a string of that
      length or null. A record with a title may do without a text.
    * Metadata are strings, finite numbers, booleans and lists of strings, together at most MAX_METADATA long; null is
      dropped. An object in a field named `metadata` stands for its own fields, so that records with a metadata object
      keep what is in it. A value of a field whose type is declared (`metadata_types`) becomes one of that type. Any
      other value is left out of its passage and counted in `left_out`.
    * A vector (`vectors_field`) is a list of `dim` numbers.

    left_out: how many values were left out, by field and reason, such as `references: nested`.
    """

    def __init__(self, source: SourceSettings, dim: int, *, limit_text: bool) -> None:
        self.left_out: Counter[str] = Counter()
        self._vectors, self._dim = source.vectors_field, dim
        self._ids, self._text = source.id_fields, source.text_field
        self._title = TITLE_FIELD if source.format == "text" else source.title_field
        self._chosen = source.metadata_fields
        self._types = {name: kind for name, kind in declared_types(source.metadata_types).items() if kind is not None}
        self._separator = source.list_separator
        # CSV and TSV have no lists, and leave out what is empty.
        self._is_delimited = source.format in ("csv", "tsv")
        self._limit = source.max_passage_bytes
        self._text_limit = self._limit if limit_text else None

    def passage(self, record: dict[str, Any]) -> Passage:
        """Return the passage of a record, which is used up. Raises BadRecord."""
        identity = self._identity(record)
        try:
            has_text = self._is_delimited or self._text in record
            text = record.pop(self._text, None)
            title = self._checked_title(record)
            if title and not title.isspace() and has_text and _is_blank(text):
                text = ""
            elif type(text) is not str:
                raise BadRecord(_not_a_string("text", self._text, text))
            elif not text or text.isspace():
                raise BadRecord(f"the text field {self._text!r} is empty")
            self._check_length(self._text, text, self._text_limit)
            vector = None if self._vectors is None else self._vector(self._vectors, record.pop(self._vectors, None))
            return Passage(identity, text, title, self._metadata(record), vector)
        except BadRecord as bad:
            bad.id = identity
            raise

    def _checked_title(self, record: dict[str, Any]) -> str | None:
        """The title of a record, None where it has none or a blank one."""
        if self._title is None or (title := record.pop(self._title, None)) is None:
            return None
        if type(title) is not str:
            raise BadRecord(_not_a_string("title", self._title, title))
        self._check_length(self._title, title, self._limit)
        return title or None

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
        if len(self._ids) == 1:
            (field,) = self._ids
            return check_id(_id_part(record, field, record.pop(field, _MISSING)), field)
        parts = []
        for field in self._ids:
            part = _id_part(record, field, record.get(field, _MISSING))
            if not part or part.isspace():
                raise BadRecord(f"the id field {field!r} is empty")
            parts.append(part)
        return check_id("#".join(parts), ",".join(self._ids))

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
        unfit: list[str] = []
        size = 0
        for name, value in record.items():
            kind = type(value)
            size += len(name)
            if kind is str:
                size += len(value)
                if not value.isascii():
                    _encodable(name, value)
            elif kind is int:
                if not LEAST_INTEGER <= value <= MOST_INTEGER:
                    raise BadRecord(f"the metadata field {_shown(name)} is an integer beyond 64 bits")
            elif kind is list and all(type(item) is str for item in value):
                size += _list_size(name, value)
            elif kind is not bool and (kind is not float or not math.isfinite(value)):
                unfit.append(name)
            if not name.isascii():
                _encodable(name, name)
        for name in unfit:
            size += self._reduce(record, name)
        if size > MAX_METADATA:
            raise BadRecord(
                f"the metadata are {size:,} characters long, more than {MAX_METADATA:,}; "
                "choose the fields to keep with metadata_fields"
            )
        for name, declared in self._types.items():
            if name in record:
                record[name] = self._declared(name, record[name], declared)
        return record

    def _reduce(self, record: dict[str, Any], name: str) -> int:
        """Take a value that cannot be metadata, or what of it cannot, out of a record, and count it.

        Returns the characters of what stays. Raises BadRecord for a field whose type is declared.
        """
        value = record.pop(name)
        if value is None:
            return 0
        if type(value) is list and (items := _present_strings(value)) is not None:
            self._count(name, "items that are null or NaN")
            record[name] = items
            return _list_size(name, items)
        if name in self._types:
            raise BadRecord(
                f"the metadata field {_shown(name)} is {_kind(value)}, which is no {self._types[name]} (metadata_types)"
            )
        unfit = value.reason if isinstance(value, Unfit) else None
        self._count(name, unfit or ("not finite" if type(value) is float else "nested"))
        return 0

    def _count(self, name: str, reason: str) -> None:
        key = f"{_shown(name)[1:-1]}: {reason}"
        if key not in self.left_out and len(self.left_out) >= MAX_LEFT_OUT:
            key = f"other fields: {reason}"
        self.left_out[key] += 1

    def _declared(self, name: str, value: MetadataValue, kind: FieldType) -> MetadataValue:
        fitting = convert(value, kind, self._separator)
        if fitting is None:
            raise BadRecord(
                f"the metadata field {_shown(name)} is {_quoted(value)}, which is no {kind} (metadata_types)"
            )
        if self._is_delimited and self._separator is None and fitting == [value] and _SEPARATORS.search(str(value)):
            raise BadRecord(
                f"the metadata field {_shown(name)} is {_quoted(value)}, which may be one value or several; "
                "say what stands between them with list_separator"
            )
        return fitting


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
    if identity.startswith(MARK):
        raise BadRecord(f"the id field {field!r} begins with U+10FFFF, which is no character")
    return identity


def _encodable(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(f"the metadata field {_shown(name)} holds a lone surrogate") from error


def _shown(name: str) -> str:
    return ascii(name) if len(name) <= 64 else ascii(name[:64]) + "..."


def _id_part(record: dict[str, Any], field: str, value: object) -> str:
    """The value of a field of the id as a string. Raises BadRecord."""
    if value is _MISSING:
        found = ", ".join(_shown(name) for name in sorted(record)[:8]) or "none"
        raise BadRecord(f"the id field {field!r} is missing (fields: {found})")
    if type(value) is int:
        return str(value)
    if type(value) is not str:
        raise BadRecord(f"the id field {field!r} is {_kind(value)}; it must be a string or an integer")
    return value


def _is_blank(value: object) -> bool:
    """Whether a value is no text: null, empty or white space."""
    return value is None or (type(value) is str and (not value or value.isspace()))


def _list_size(name: str, items: list[str]) -> int:
    """Characters of a list of strings, and one for each, or empty ones would be for nothing.

    Raises BadRecord for one that UTF-8 cannot hold.
    """
    for item in items:
        _encodable(name, item)
    return sum(map(len, items)) + len(items)


def _present_strings(items: list[Any]) -> list[str] | None:
    """The strings of a list whose other items are null or NaN; None for a list that holds anything else."""
    if any(type(item) is not str and item is not None and item == item for item in items):
        return None
    return [item for item in items if type(item) is str]


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
        case Unfit():
            return value.reason
        case _:
            return f"of type {type(value).__name__}"
