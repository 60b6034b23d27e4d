"""What tests of filters share: random metadata, random filters, and what a filter means in plain Python."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from shoal.metadata import FieldTypes

TYPES: FieldTypes = {
    "at": "timestamp",
    "lang": "string",
    "ok": "boolean",
    "price": "number",
    "tags": "list",
    "year": "integer",
}
POOLS: dict[str, list[Any]] = {
    "at": [
        "2026-01-31",
        "2026-01-31T00:00:00Z",
        "2026-01-31T01:00:00+01:00",
        "2026-01-31 12:30",
        "2026-02-01T00:00:00.000001Z",
        "0001-01-01",
        "9999-12-31",
    ],
    "lang": ["", "en", "de", "EN", "größe", "日本", "\U0001f41f"],
    "ok": [True, False],
    "price": [0, -0.0, 1, 1.5, 2.5, -3.25, 1e300, float(2**53), float(2**53 + 2), float(2**53 + 4)],
    "tags": ["a", "b", "c", ""],
    "year": [1999, 2020, 2021, -5, 0, 2**63 - 1, -(2**63)],
}
BEYOND = [2020.0, 2020.5, 1e300, -1e300, 2**70, -(2**70)]
"""What may be compared with an integer field, though none of its values is like that."""


NO_FLOATS = [2**53 + 1, 2**53 + 3, -(2**53) - 1, 10**300]
"""Integers that may be compared with a field of 64-bit floats, though none of these is like that."""


def metadata() -> st.SearchStrategy[dict[str, Any]]:
    values: dict[str, st.SearchStrategy[Any]] = {name: st.sampled_from(pool) for name, pool in POOLS.items()}
    values["tags"] = st.lists(st.sampled_from(POOLS["tags"]), max_size=3)
    return st.fixed_dictionaries({}, optional=values)


def _operand(name: str) -> st.SearchStrategy[Any]:
    return st.sampled_from([*POOLS[name], *{"year": BEYOND, "price": NO_FLOATS}.get(name, [])])


def _condition(name: str) -> st.SearchStrategy[Any]:
    one, many = _operand(name), st.lists(_operand(name), max_size=3)
    ordered = () if name == "ok" else ("$gt", "$gte", "$lt", "$lte")
    operators = st.one_of(
        st.tuples(st.sampled_from(("$eq", "$ne", *ordered)), one),
        st.tuples(st.sampled_from(("$in", "$nin")), many),
        st.tuples(st.just("$exists"), st.booleans()),
    )
    several = st.lists(operators, min_size=1, max_size=2).map(dict)
    return st.one_of(one, several, several.map(lambda inner: {"$not": inner}))


def documents() -> st.SearchStrategy[dict[str, Any]]:
    field = st.one_of(*(st.tuples(st.just(name), _condition(name)) for name in TYPES))
    fields = st.lists(field, max_size=2).map(dict)

    def joined(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
        some = st.lists(inner, min_size=1, max_size=2)
        part = st.tuples(st.sampled_from(["$and", "$or"]), some) | st.tuples(st.just("$not"), inner)
        return st.lists(part, min_size=1, max_size=2).map(dict)

    return st.recursive(fields, joined, max_leaves=4)


def matches(document: dict[str, Any], passage: dict[str, Any]) -> bool:
    """Whether a passage's metadata fulfil a filter, read off the definition of each operator."""
    return all(_part(key, value, passage) for key, value in document.items())


def _part(key: str, value: Any, passage: dict[str, Any]) -> bool:
    if key == "$and":
        return all(matches(part, passage) for part in value)
    if key == "$or":
        return any(matches(part, passage) for part in value)
    if key == "$not":
        return not matches(value, passage)
    return _field(key, value, passage)


def _field(name: str, value: Any, passage: dict[str, Any]) -> bool:
    conditions = value if isinstance(value, dict) else {"$eq": value}
    return all(_holds(name, op, operand, passage) for op, operand in conditions.items())


def _holds(name: str, op: str, operand: Any, passage: dict[str, Any]) -> bool:
    if op == "$not":
        return not _field(name, operand, passage)
    if op == "$exists":
        return (name in passage) is operand
    found = passage.get(name, [])
    elements = [_value(name, element) for element in (found if isinstance(found, list) else [found])]
    if op in ("$in", "$nin"):
        wanted = [_value(name, one) for one in operand]
        return any(element in wanted for element in elements) is (op == "$in")
    wanted = _value(name, operand)
    match op:
        case "$eq":
            return wanted in elements
        case "$ne":
            return wanted not in elements
        case "$gt":
            return any(element > wanted for element in elements)
        case "$gte":
            return any(element >= wanted for element in elements)
        case "$lt":
            return any(element < wanted for element in elements)
        case "$lte":
            return any(element <= wanted for element in elements)
    raise AssertionError(op)


def _value(name: str, value: Any) -> Any:
    if name == "at":
        moment = datetime.fromisoformat(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return value  # Python compares an integer with a float exactly
