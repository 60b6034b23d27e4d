"""What is wrong with a request, in words: the fields at fault and why, from the errors of pydantic."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

MAX_NAME = 64
"""Characters of a field's name that a message repeats."""
MAX_MISTAKES = 10
"""Wrong fields that a message explains."""


class UnknownField(NamedTuple):
    """Stands in the place of a value whose name is none of the fields, so that an error can name these."""

    fields: tuple[str, ...]


def explain_mistakes(mistakes: Sequence[Mapping[str, Any]], body: Any) -> tuple[str, str | None]:
    """Return a message that names every field at fault, up to MAX_MISTAKES, and the path of the first of them.

    The first field that is unknown is followed by those that exist.

    Args:
        mistakes: Pydantic's errors, at least one, with locations inside the body.
        body: What was to be read.
    """
    problems = [_explain(mistake, body) for mistake in mistakes[:MAX_MISTAKES]]
    messages = [message for _, message in problems]
    for position, mistake in enumerate(mistakes[:MAX_MISTAKES]):
        if isinstance(unknown := mistake.get("input"), UnknownField):  # the first one says it for all
            fields = f"the fields are {', '.join(unknown.fields)}" if unknown.fields else "there are no fields"
            messages[position] += f" ({fields})"
            break
    message = "; ".join(messages) + ("; and more" if len(mistakes) > MAX_MISTAKES else "")
    return message, problems[0][0]


def _explain(problem: Mapping[str, Any], body: Any) -> tuple[str | None, str]:
    """Name the field and what is wrong with it, from one of pydantic's errors."""
    kind, message = problem["type"], str(problem["msg"])
    if kind == "json_invalid":
        context, location = problem["ctx"], problem["loc"]
        return None, f"the body is not JSON: {context['error']} at character {location[-1]}"
    path = _field_path(problem["loc"], body, missing=kind == "missing")
    if not path and kind == "value_error":  # of the body as a whole
        return None, f"the body {message.removeprefix('Value error, ')}"
    if not path:
        return None, "the body should be a JSON object" if body is not None else "the body is empty; send a JSON object"
    if kind == "missing":
        return path, f"{path} is required"
    if kind == "extra_forbidden":
        return path, f"{path} is not a known field"
    for prefix in ("Input ", "String ", "List ", "Value error, "):
        message = message.removeprefix(prefix)
    return path, f"{path} {message.replace(' after validation', '')}"


def _field_path(location: Sequence[int | str], body: Any, *, missing: bool) -> str:
    """Turn pydantic's location into a path like `query[3]`, without its names for the branches of unions."""
    path = ""
    for depth, part in enumerate(location):
        if isinstance(body, list) and isinstance(part, int):
            path, body = f"{path}[{part}]", body[part]
        elif isinstance(body, dict) and (part in body or (missing and depth == len(location) - 1)):
            name = str(part) if len(str(part)) <= MAX_NAME else f"{str(part)[:MAX_NAME]}..."
            path, body = f"{path}.{name}" if path else name, body.get(part)
    return path
