"""Dify's conditions on metadata as a filter of Shoal's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from shoal.engine.request_body import RequestBody
from shoal.errors import InvalidArgument

OPERATORS: Mapping[str, str] = {
    "is": "$eq",
    "=": "$eq",
    "is not": "$ne",
    "≠": "$ne",
    "in": "$in",
    "not in": "$nin",
    ">": "$gt",
    "<": "$lt",
    "≥": "$gte",
    "≤": "$lte",
    "after": "$gt",
    "before": "$lt",
}
"""Operators of Dify that compare, by what they are in a filter."""
PRESENCE: Mapping[str, bool] = {"empty": False, "null": False, "not empty": True, "not null": True}
"""Operators that ask whether a passage has the field."""
MEMBERSHIP: Mapping[str, str] = {"contains": "$eq", "not contains": "$ne"}
"""Operators that ask for an element of a list."""
_NUMERIC: Mapping[str, Callable[[str], int | float]] = {"integer": int, "number": float}
"""How the text of a value is read where the field holds numbers: Dify sends what its users typed."""


class Condition(RequestBody):
    """A condition on one field of the metadata."""

    name: str | list[str] = Field(description="The field, or several of which one has to fulfil the condition.")
    comparison_operator: str = Field(
        description="is, =, is not, ≠, in, not in, >, <, ≥, ≤, before, after, empty, not empty; of lists of strings "
        "also contains, not contains. start with and end with are refused.",
        examples=["is"],
    )
    value: Annotated[Any, Field(description="A string, a number, or a list of strings.")] = None


class MetadataCondition(RequestBody):
    """Conditions that every record fulfils, or one of them."""

    logical_operator: Literal["and", "or"] = "and"
    conditions: list[Condition]


def filter_of(asked: MetadataCondition | None, types: Mapping[str, str]) -> dict[str, Any]:
    """Return the filter that conditions mean; empty if there are none.

    Raises InvalidArgument for an operator that filters have not. types: of the fields of the index.
    """
    if asked is None or not asked.conditions:
        return {}
    parts = [_part(condition, types, place) for place, condition in enumerate(asked.conditions)]
    return {f"${asked.logical_operator}": parts}


def _part(condition: Condition, types: Mapping[str, str], place: int) -> dict[str, Any]:
    names = [condition.name] if isinstance(condition.name, str) else condition.name
    path = f"metadata_condition.conditions[{place}]"
    if not names:
        raise InvalidArgument(f"{path}.name should name a field", param=f"{path}.name")
    parts = [_of_field(condition, name, types.get(name, ""), path) for name in names]
    return parts[0] if len(parts) == 1 else {"$or": parts}


def _of_field(condition: Condition, name: str, kind: str, path: str) -> dict[str, Any]:
    operator = condition.comparison_operator
    field = f"${name}" if name.startswith("$") else name
    if operator in PRESENCE:
        return {field: {"$exists": PRESENCE[operator]}}
    if operator in MEMBERSHIP and kind == "list":
        return {field: {MEMBERSHIP[operator]: condition.value}}
    if operator not in OPERATORS:
        known = ", ".join([*OPERATORS, *PRESENCE])
        raise InvalidArgument(
            f"{path}.comparison_operator {operator[:40]!r} is none of a field of type {kind or 'unknown'}; these are "
            f"{known}, and of lists contains and not contains",
            param=f"{path}.comparison_operator",
        )
    value = condition.value
    if isinstance(value, list):
        return {field: {OPERATORS[operator]: [_read(one, kind) for one in value]}}
    if operator in ("in", "not in"):  # as in `a, b`, which Dify's users type
        parts: Sequence[Any] = value.split(",") if isinstance(value, str) else [value]
        stripped = [part.strip() if isinstance(part, str) else part for part in parts]
        return {field: {OPERATORS[operator]: [_read(one, kind) for one in stripped]}}
    return {field: {OPERATORS[operator]: _read(value, kind)}}


def _read(value: Any, kind: str) -> Any:
    """A value as its field has it, if its text is one of it; else as it is, for the filter to refuse."""
    if not isinstance(value, str):
        return value
    if kind == "boolean":
        return {"true": True, "false": False}.get(value.strip().lower(), value)
    try:
        return _NUMERIC[kind](value) if kind in _NUMERIC else value
    except ValueError:
        return value
