"""Types of metadata fields: what a value is, and what all values of a field have in common.

A field has one type in the whole index: the one that `metadata_types` declares, or else the narrowest that fits every
value of the corpus. Filters compare values of that type (`shoal/filters.py`), columns (`shoal/shard/columns.py`) store
them.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from shoal.records import Metadata, MetadataValue

FieldType = Literal["string", "integer", "number", "boolean", "timestamp", "list"]
"""string: Unicode text. integer: 64 bits. number: a 64-bit float. timestamp: microseconds. list: of strings."""
FieldTypes = Mapping[str, FieldType | Literal["mixed"]]
"""Types of the fields of an index by name; a mixed field has values that no type fits, so it cannot be filtered."""

ObservedType = FieldType | Literal["large integer"]
"""What a value is; a large integer is beyond EXACT_INTEGERS."""

EXACT_INTEGERS = 2**53
"""Integers up to here are exact as 64-bit floats, and their neighbours are other floats."""

MAX_FIELDS = 256
"""Fields whose types are inferred. With more of them names are data, and only declared fields get types."""

LEAST_INTEGER, MOST_INTEGER = -(2**63), 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""What timestamps are counted from."""
_MICROSECOND = timedelta(microseconds=1)
"""The unit in which timestamps are stored."""
_TIMESTAMP = re.compile(
    r"\d{4}-\d{2}-\d{2}([Tt ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?([Zz]|[+-]\d{2}(:?\d{2})?)?)?"
    r"|\d{8}([Tt ]\d{4}(\d{2}([.,]\d{1,9})?)?([Zz]|[+-]\d{2}(:?\d{2})?)?)?",
    re.ASCII,
)
"""ISO 8601 in the extended format, with or without a time and a zone."""
_INTEGER = re.compile(r"[+-]?\d{1,19}", re.ASCII)
"""An integer that may fit into 64 bits."""
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
"""A decimal number, with or without an exponent."""
_WIDENED: list[tuple[set[ObservedType], FieldType]] = [
    ({"integer", "large integer"}, "integer"),
    ({"integer", "number"}, "number"),
    ({"timestamp", "string"}, "string"),
    ({"timestamp", "string", "list"}, "list"),
]
"""Which values of several types have one in common, the first that fits: a string is a list of one."""


class Observed:
    """How many values of each type every field has; small, and the same in whatever order the values come."""

    def __init__(self) -> None:
        self._kinds: dict[str, Counter[ObservedType]] | None = {}

    def see(self, metadata: Metadata) -> None:
        """Take the metadata of one passage into account."""
        for name, value in metadata.items():
            self._add(name, {_kind(value): 1})

    def merge(self, kinds: Mapping[str, Mapping[ObservedType, int]] | None) -> None:
        """Take what another one saw (its `kinds`) into account."""
        if kinds is None:
            self._kinds = None
            return
        for name, counts in kinds.items():
            self._add(name, counts)

    @property
    def kinds(self) -> dict[str, dict[ObservedType, int]] | None:
        """Values of each type by field, both sorted; None when there are more than MAX_FIELDS fields."""
        if self._kinds is None:
            return None
        return {name: dict(sorted(counts.items())) for name, counts in sorted(self._kinds.items())}

    def types(self, declared: Mapping[str, FieldType | None]) -> dict[str, FieldType | Literal["mixed"]]:
        """Decide the type of every field, sorted by name. declared: types that overrule; None for no type at all."""
        inferred = {name: _common(counts.keys()) for name, counts in (self._kinds or {}).items()}
        merged = {**inferred, **declared}
        return {name: kind for name, kind in sorted(merged.items()) if kind is not None}

    def remarks(self, declared: Mapping[str, FieldType | None]) -> list[str]:
        """Say where filters can do less with a field than most of its values promise, one sentence for each field."""
        remarks = []
        for name, counts in sorted((self._kinds or {}).items()):
            if name in declared:
                continue
            if counts.keys() == {"timestamp", "string"} and counts["timestamp"] >= counts["string"]:
                remarks.append(
                    f"{name}: {counts['timestamp']:,} values are dates and {counts['string']:,} are other strings, so "
                    f"that filters compare them as text; --metadata-types {name}:timestamp rejects what is no date"
                )
            elif {"large integer", "number"} <= counts.keys():
                remarks.append(
                    f"{name}: {counts['large integer']:,} integers are beyond 2^53 and {counts['number']:,} values are "
                    "fractions; no type holds both exactly, so that filters do not know the field"
                )
            elif _common(counts.keys()) == "mixed":
                shown = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
                remarks.append(
                    f"{name}: values of several types ({shown}), not to be filtered by; --metadata-types declares one"
                )
        return remarks

    def _add(self, name: str, counts: Mapping[ObservedType, int]) -> None:
        if self._kinds is None:
            return
        known = self._kinds.setdefault(name, Counter())
        for kind, count in counts.items():
            known[kind] += count
        if len(self._kinds) > MAX_FIELDS:
            self._kinds = None


def declared_types(settings: Iterable[str] | None) -> dict[str, FieldType | None]:
    """Read the setting `metadata_types`, items such as `year:integer`; the type `none` means no column."""
    types: dict[str, FieldType | None] = {}
    for item in settings or ():
        name, _, kind = item.rpartition(":")
        types[name] = next((known for known in get_args(FieldType) if known == kind), None)
    return types


def convert(value: MetadataValue, kind: FieldType, separator: str | None = None) -> MetadataValue | None:
    """Return a value as one of a declared type, or None if it does not fit.

    Strings that read as the type fit, because CSV has nothing else: "2020" is an integer, "true" a boolean, "[...]" a
    list if it is JSON. A timestamp stays the string that it is. An integer that 64-bit floats cannot hold is no number.
    A string is a list of what stands between separators, blanks around it removed, or of one.
    """
    match kind:
        case "string":
            return value if isinstance(value, str) else None if isinstance(value, list) else json.dumps(value)
        case "boolean":
            if isinstance(value, str):
                return {"true": True, "false": False}.get(value.strip().lower())
            return value if isinstance(value, bool) else None
        case "timestamp":
            text = str(value) if type(value) is int else value  # 20230719
            return text if isinstance(text, str) and timestamp(text) is not None else None
        case "list":
            return value if isinstance(value, list) else _listed(value, separator) if isinstance(value, str) else None
        case "integer" | "number":
            return _number(value, kind)


def stored(value: MetadataValue, kind: FieldType) -> Any:
    """Return what the column of a type holds for a value that fits it; a timestamp is microseconds since 1970, UTC."""
    match kind:
        case "number":
            return float(value) + 0.0  # type: ignore[arg-type]  # -0.0 becomes 0.0
        case "timestamp":
            return timestamp(value)  # type: ignore[arg-type]
        case "list":
            return value if isinstance(value, list) else [value]
        case _:
            return value


def type_of(value: MetadataValue) -> FieldType:
    """Return the type of a field that has only this value."""
    kind = _kind(value)
    return "integer" if kind == "large integer" else kind


def timestamp(text: str) -> int | None:
    """Return microseconds since 1970, UTC, of an ISO 8601 date or time, or None if it is none.

    A whole date is needed, `2026-01-31` or `2026-01-31T12:00:00.5+01:00`, or in the basic form, `20260131` or
    `20260131T120000Z`; without a zone it is UTC.
    """
    if not _TIMESTAMP.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
        return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        return None


def _kind(value: MetadataValue) -> ObservedType:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer" if -EXACT_INTEGERS <= value <= EXACT_INTEGERS else "large integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, list):
        return "list"
    # The basic form may as well be a number that happens to be a date: it has to be declared.
    return "timestamp" if value[4:5] == "-" and timestamp(value) is not None else "string"


def _common(kinds: Set[ObservedType]) -> FieldType | Literal["mixed"]:
    if len(kinds) == 1 and (kind := next(iter(kinds))) != "large integer":
        return kind
    return next((wider for narrower, wider in _WIDENED if kinds <= narrower), "mixed")


def _listed(text: str, separator: str | None) -> list[str] | None:
    """The list that a string stands for; None for one in brackets that is no JSON list of strings."""
    bare = text.strip()
    if bare.startswith("[") and bare.endswith("]"):
        try:
            items = json.loads(bare)
        except (ValueError, RecursionError):
            return None
        return items if all(isinstance(item, str) for item in items) else None
    if separator is None:
        return [text]
    return [item for part in text.split(separator) if (item := part.strip())]


def _number(value: MetadataValue, kind: FieldType) -> int | float | None:
    if isinstance(value, str):
        text = value.strip()
        if not (_INTEGER if kind == "integer" else _NUMBER).fullmatch(text):
            return None
        value = int(text) if _INTEGER.fullmatch(text) else float(text)
    if isinstance(value, bool | list) or not math.isfinite(value):
        return None
    if isinstance(value, float) and kind == "integer":
        if not value.is_integer():
            return None
        value = int(value)
    if isinstance(value, int) and kind == "number" and int(float(value)) != value:
        return None  # a filter would find its neighbours
    return value if isinstance(value, float) or LEAST_INTEGER <= value <= MOST_INTEGER else None
