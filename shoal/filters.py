"""Filters on metadata: the operators of MongoDB, checked against the types of the fields, in one canonical form.

    {"year": {"$gte": 2020}, "$or": [{"lang": "en"}, {"tags": {"$in": ["reef", "coral"]}}]}

A bare value means $eq; conditions side by side must all hold. A list matches if one of its elements does. A passage
without the field fulfils $ne, $nin, $not and `$exists: false`, and nothing else: as in MongoDB these are the exact
opposites of $eq, $in, the inner condition and `$exists: true`. A field whose name begins with `$` stands as it is, or
with another `$` before it where an operator has that name.
"""

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

from shoal.errors import InvalidArgument
from shoal.metadata import LEAST_INTEGER, MOST_INTEGER, FieldType, FieldTypes, timestamp

OPERATORS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$not")
"""Operators of a field; $and, $or and $not join whole filters."""

Value = str | int | float | bool
"""What is compared: of the type of the field, a timestamp in microseconds since 1970."""
SIZE_OF_WIDTH = 10
"""All conditions, listed values and nested filters of one filter may be so many times its `max_width`: checking them
takes time, and messages to shards carry them."""
_NANOSECONDS = re.compile(r"[.,][0-9]{6}[0-9]*[1-9]")
"""The fraction of a second that is finer than a microsecond."""
_SHOWN_FIELDS = 20
"""Fields that a message lists."""
_SHOWN_LETTERS = 64
"""Characters of a value that a message repeats."""


@dataclass(frozen=True, slots=True)
class In:
    """The field has one of these values, sorted and without repetition; with none of them it matches nothing."""

    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """The field lies beyond, or on the right side of, a value."""

    field: str
    op: Literal["gt", "gte", "lt", "lte"]
    value: Value


@dataclass(frozen=True, slots=True)
class Exists:
    """The passage has the field."""

    field: str


@dataclass(frozen=True, slots=True)
class Not:
    """The inner filter does not match."""

    part: "Filter"


@dataclass(frozen=True, slots=True)
class And:
    """All parts match; without parts, everything does. Sorted and without repetition, as in `Or`."""

    parts: "tuple[Filter, ...]"


@dataclass(frozen=True, slots=True)
class Or:
    """At least one part matches."""

    parts: "tuple[Filter, ...]"


@dataclass(frozen=True, slots=True)
class InNamespace:
    """The passage lies in a namespace, and matches the part if there is one. Never inside of another filter.

    A shard that is asked for a filter without it takes the default namespace.
    """

    namespace: str
    part: "Filter | None" = None


Filter: TypeAlias = In | Compare | Exists | Not | And | Or | InNamespace
"""A checked filter. Equal filters, however they were written, are mostly equal trees; equal trees are equal filters."""


def in_namespace(namespace: str, tree: Filter | None) -> Filter | None:
    """Return the filter of a namespace, where one is named: "" is the default one, which shards take by themselves."""
    return InNamespace(namespace, tree) if namespace else tree


def conditions(tree: Filter | None) -> Filter | None:
    """Return what a filter asks of the metadata of passages, wherever they lie; None if that is nothing."""
    return tree.part if isinstance(tree, InNamespace) else tree


def parse(document: object, types: FieldTypes, max_width: int, max_depth: int) -> Filter | None:
    """Check a filter against the fields of an index; None if it lets everything through.

    Args:
        document: What the JSON of a filter parses to.
        max_width: Conditions of the whole filter, and values of one $in or $nin; SIZE_OF_WIDTH bounds all together.
        max_depth: Levels of $and, $or and $not, its own included.

    Raises:
        InvalidArgument: The filter is wrong; the message begins with the path, `filter.$and[1].year.$gt: ...`.
    """
    tree = _Parser(types, max_width, max_depth).filter(document, "filter", 1)
    return None if tree == And(()) else tree


def field_type(types: FieldTypes, field: str, path: str, purpose: str = "filter by") -> FieldType:
    """Return the type of a field of an index.

    Args:
        types: Of all its fields.
        field: Its name.
        path: Where a request names it.
        purpose: What it is for, as a verb.

    Raises:
        InvalidArgument: There is no such field, or it holds values of several types.
    """
    kind = types.get(field)
    if kind is None:
        if not types:
            _fail(path, f"this index has no metadata to {purpose}; build it with metadata fields, anew if it is old")
        known = [f"{name} ({kind})" for name, kind in types.items()]
        if len(known) > _SHOWN_FIELDS:
            known[_SHOWN_FIELDS:] = [f"and {len(known) - _SHOWN_FIELDS} more, see /v1/index"]
        _fail(path, f"this index has no such field; its fields are {', '.join(known)}")
    if kind == "mixed":
        _fail(
            path,
            f"this field holds values of several types; build the index with --metadata-types {field}:TYPE "
            f"(string fits numbers too) to {purpose} it",
        )
    return kind


class _Parser:
    def __init__(self, types: FieldTypes, max_width: int, max_depth: int) -> None:
        self._types = types
        self._max_width = max_width
        self._max_depth = max_depth
        self._conditions = 0
        self._size = 0

    def _grow(self, by: int, path: str) -> None:
        self._size += by
        if self._size > (most := SIZE_OF_WIDTH * self._max_width):
            _fail(path, f"the filter has more than {most:,} conditions, values and nested filters in all; shorten it")

    def filter(self, document: object, path: str, depth: int) -> Filter:
        if not isinstance(document, dict):
            _fail(path, f"should be an object of conditions, not {_shown(document)}")
        if depth > self._max_depth:
            _fail(path, f"is nested more than {self._max_depth} levels deep; write it flatter")
        return _and(self._part(key, value, _below(path, key), depth) for key, value in document.items())

    def _part(self, key: str, value: object, path: str, depth: int) -> Filter:
        match key:  # an operator, whatever the fields are called
            case "$and":
                return _and(self._list(value, path, depth))
            case "$or":
                return _or(self._list(value, path, depth))
            case "$not":
                return _not(self.filter(value, path, depth + 1))
        if key.startswith("$") and key not in self._types:
            if key.startswith("$$") and key[1:] in self._types:
                return self._field(key[1:], field_type(self._types, key[1:], path), value, path, depth)
            known = f"{', '.join(OPERATORS)} stand inside a field, $and, $or and $not around fields"
            _fail(path, f"{_shown(key)} is no operator here; {known}")
        return self._field(key, field_type(self._types, key, path), value, path, depth)

    def _list(self, value: object, path: str, depth: int) -> list[Filter]:
        if not isinstance(value, list) or not value:
            _fail(path, f"should be a list of at least one filter, not {_shown(value)}")
        self._grow(len(value), path)
        return [self.filter(part, f"{path}[{place}]", depth + 1) for place, part in enumerate(value)]

    def _field(self, field: str, kind: FieldType, value: object, path: str, depth: int) -> Filter:
        """Conditions of one field: a bare value, or an object of operators."""
        if not isinstance(value, dict):
            if isinstance(value, list):
                _fail(path, 'a list of values to choose from is written {"$in": [...]}')
            return self._condition(field, kind, "$eq", value, path, depth)
        if not value:
            _fail(path, f"has no condition; operators are {', '.join(OPERATORS)}")
        if depth > self._max_depth:
            _fail(path, f"is nested more than {self._max_depth} levels deep; write it flatter")
        return _and(self._condition(field, kind, op, operand, _below(path, op), depth) for op, operand in value.items())

    def _condition(self, field: str, kind: FieldType, op: str, operand: object, path: str, depth: int) -> Filter:  # noqa: C901 - a case for each operator and type
        if op == "$not":
            if not isinstance(operand, dict):
                _fail(path, f'should be an object of operators, such as {{"$gt": 1}}, not {_shown(operand)}')
            return _not(self._field(field, kind, operand, path, depth + 1))
        self._grow(1, path)
        self._conditions += 1
        if self._conditions > self._max_width:
            _fail(path, f"the filter has more than {self._max_width} conditions; $in takes many values in one")
        match op:
            case "$eq":
                return _in(field, [_value(operand, kind, path)], kind)
            case "$ne":
                return _not(_in(field, [_value(operand, kind, path)], kind))
            case "$in":
                return _in(field, self._values(operand, kind, path), kind)
            case "$nin":
                return _not(_in(field, self._values(operand, kind, path), kind))
            case "$gt" | "$gte" | "$lt" | "$lte":
                if kind == "boolean":
                    _fail(path, f"{field} is true or false, which has no order; use $eq or $ne")
                return _compare(field, op, _value(operand, kind, path), kind)
            case "$exists":
                if not isinstance(operand, bool):
                    _fail(path, f"should be true or false, not {_shown(operand)}")
                return Exists(field) if operand else _not(Exists(field))
        _fail(path, f"{_shown(op)} is no operator; operators are {', '.join(OPERATORS)}")

    def _values(self, operand: object, kind: FieldType, path: str) -> list[Value]:
        if not isinstance(operand, list):
            _fail(path, f"should be a list of values, not {_shown(operand)}")
        if len(operand) > self._max_width:
            _fail(path, f"has {len(operand):,} values, more than {self._max_width:,}")
        self._grow(len(operand), path)
        return [_value(value, kind, f"{path}[{place}]") for place, value in enumerate(operand)]


def _value(value: object, kind: FieldType, path: str) -> Value:
    """Check the type of a value; a timestamp becomes microseconds."""
    if value is None:
        _fail(path, 'null matches nothing; whether a passage has the field is asked by {"$exists": false}')
    match kind:
        case "string" | "list" if isinstance(value, str):
            if not value.isascii():
                try:
                    value.encode()
                except UnicodeEncodeError:
                    _fail(path, "holds a lone surrogate, which no passage does")
            return value
        case "boolean" if isinstance(value, bool):
            return value
        case "integer" | "number" if isinstance(value, int | float) and not isinstance(value, bool):
            return _number(value, kind, path)
        case "timestamp" if isinstance(value, str):
            if _NANOSECONDS.search(value):
                _fail(path, f"{_shown(value)} is finer than a microsecond, to which timestamps are compared; round it")
            if (moment := timestamp(value)) is None:
                _fail(
                    path,
                    f"{_shown(value)} is no ISO 8601 date or time, such as 2026-01-31 or 2026-01-31T12:00:00Z; "
                    "the field is a timestamp",
                )
            return moment
    wanted = {
        "list": "a string, as the elements of the list are",
        "boolean": "true or false",
        "integer": "a number",
        "timestamp": "a timestamp, such as 2026-01-31T12:00:00Z",
    }.get(kind, f"a {kind}")
    _fail(path, f"should be {wanted}, not {_shown(value)}")


def _number(value: int | float, kind: FieldType, path: str) -> Value:
    """Check a number. An integer that no 64-bit float is stays one, for a field of such: it is compared exactly."""
    if value != value:
        _fail(path, "is NaN, which is no number and matches nothing")
    try:
        exact = float(value)
    except OverflowError:
        exact = math.inf
    if math.isinf(exact):
        _fail(path, "is too large; numbers are 64-bit floats")
    return value if kind == "integer" or exact != value else exact + 0.0


def _in(field: str, values: Iterable[Value], kind: FieldType) -> Filter:
    if kind == "integer":  # 2020.0 is 2020; 2020.5 and what 64 bits cannot hold is the value of no passage
        whole = [int(value) for value in values if value == math.floor(value)]  # type: ignore[arg-type]
        values = [value for value in whole if LEAST_INTEGER <= value <= MOST_INTEGER]
    if kind == "number":  # what is still an integer is the value of no passage
        values = [value for value in values if isinstance(value, float)]
    return In(field, tuple(sorted(set(values))))


def _compare(field: str, op: str, value: Value, kind: FieldType) -> Filter:
    if kind == "number" and isinstance(value, int):
        nearest = float(value)  # no passage lies between the two, so that only the side of it counts
        above = op in ("$gt", "$gte")
        op = ("$gte" if above else "$lt") if nearest > value else ("$gt" if above else "$lte")
        return Compare(field, op[1:], nearest)  # type: ignore[arg-type]
    if kind != "integer":
        return Compare(field, op[1:], value)  # type: ignore[arg-type]
    # The nearest integer that gives the same answer, which may lie beyond all of them.
    bound = math.floor(value) if op in ("$gt", "$lte") else math.ceil(value)  # type: ignore[arg-type]
    least = bound + 1 if op == "$gt" else bound
    if op in ("$gt", "$gte"):
        if least > MOST_INTEGER:
            return In(field, ())
        return Exists(field) if least <= LEAST_INTEGER else Compare(field, "gte", least)
    most = bound - 1 if op == "$lt" else bound
    if most < LEAST_INTEGER:
        return In(field, ())
    return Exists(field) if most >= MOST_INTEGER else Compare(field, "lte", most)


def _not(part: Filter) -> Filter:
    return part.part if isinstance(part, Not) else Not(part)


def _and(parts: Iterable[Filter]) -> Filter:
    return _joined(And, parts)


def _or(parts: Iterable[Filter]) -> Filter:
    return _joined(Or, parts)


def _joined(kind: Callable[[tuple[Filter, ...]], Filter], parts: Iterable[Filter]) -> Filter:
    """Join parts: what is joined in the same way is taken apart, repetitions go, and one part is itself."""
    flat: dict[Filter, None] = {}
    for part in parts:
        same: Any = part
        flat.update(dict.fromkeys(same.parts if isinstance(part, And | Or) and type(part) is kind else (part,)))
    if len(flat) == 1:
        return next(iter(flat))
    return kind(tuple(sorted(flat, key=repr)))


def _below(path: str, key: str) -> str:
    plain = re.fullmatch(r"\$?\w{1,64}", key)
    return f"{path}.{key}" if plain else f"{path}[{_shown(key)}]"


def _shown(value: object) -> str:
    if isinstance(value, dict | list):  # which may be as large and as deep as a body can be
        kind = "object" if isinstance(value, dict) else "list"
        return f"{'an' if kind == 'object' else 'a'} {kind}" if value else f"an empty {kind}"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_LETTERS else f"{text[:_SHOWN_LETTERS]}..."


def _fail(path: str, problem: str) -> NoReturn:
    raise InvalidArgument(f"{path}: {problem}", param=path)
