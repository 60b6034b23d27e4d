"""Vectors as requests bring them: lists of numbers, or base64 of float32 numbers, least byte first."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Discriminator, Field, Tag

from shoal.errors import InvalidArgument
from shoal.records import FloatArray

MAX_DIMENSIONS = 65_536
"""Dimensions of a vector, at most."""
UNIT_ROUNDING = 1e-6
"""By how much the length of a vector that was normalised in float32 may differ from 1."""
_NUMBER_BYTES = 4
"""Bytes of a number in base64."""
_FORMS = "a list of numbers, base64 of float32 numbers with the least byte first, or a list of these"
"""What a vector of a request may be, in messages."""

GivenVector = list[float] | str
"""A vector as a request brings it."""


def vector_type(most: int) -> Any:
    """The type of a field that holds a vector, or so many at most."""
    numbers = Annotated[list[float], Field(min_length=1, max_length=MAX_DIMENSIONS, fail_fast=True)]
    packed = Annotated[
        str,
        Field(
            min_length=1,
            max_length=4 * (_NUMBER_BYTES * MAX_DIMENSIONS // 3 + 1),
            json_schema_extra={"contentEncoding": "base64"},
        ),
    ]
    one = Annotated[Annotated[numbers, Tag("<numbers>")] | Annotated[packed, Tag("<base64>")], _by(_tag)]
    several = Annotated[list[one], Field(min_length=1, max_length=most, fail_fast=True)]
    return Annotated[
        Annotated[numbers, Tag("<numbers>")]
        | Annotated[packed, Tag("<base64>")]
        | Annotated[several, Tag("<vectors>")],
        _by(_tag_of_several),
    ]


def read_vector(given: GivenVector, param: str = "vector") -> FloatArray:
    """Return a vector as the index compares it: float32 (dim,), L2-normalised.

    Args:
        given: Numbers, or base64 of float32 numbers.
        param: The field that holds it, for messages.

    Raises:
        InvalidArgument: It is no base64 of such numbers, a number is not finite, or all are zero.
    """
    # What is no finite number, or too large for float32, which no index holds, is told to the client alone.
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = _unpacked(given, param) if isinstance(given, str) else np.array(given, np.float64)
        finite = np.isfinite(numbers.astype(np.float32)).all()
    if not finite:
        raise InvalidArgument(f"{param} should have finite numbers only, within float32", param=param)
    length = np.linalg.norm(numbers)
    if not length:
        raise InvalidArgument(f"{param} should not have zeros only: it has no direction", param=param)
    # What an encoder normalised is taken as it is: normalised again it would differ by rounding, and so would ties.
    return np.asarray(numbers if abs(length - 1) <= UNIT_ROUNDING else numbers / length, np.float32)


def read_vectors(given: GivenVector | Sequence[GivenVector], param: str = "vector") -> tuple[list[FloatArray], bool]:
    """Return the vectors of a field, and whether it holds a list of them. Raises as `read_vector`."""
    if isinstance(given, str) or not holds_several(given):
        return [read_vector(given, param)], False  # type: ignore[arg-type]
    vectors = [read_vector(each, f"{param}[{place}]") for place, each in enumerate(given)]  # type: ignore[arg-type]
    for place, vector in enumerate(vectors):
        if len(vector) != len(vectors[0]):
            path = f"{param}[{place}]"
            raise InvalidArgument(
                f"{path} should have {len(vectors[0])} numbers, as the first vector has, not {len(vector)}", param=path
            )
    return vectors, True


def holds_several(given: Sequence[Any]) -> bool:
    """Whether a list holds vectors rather than numbers."""
    return bool(given) and isinstance(given[0], list | str)


def _unpacked(text: str, param: str) -> np.ndarray[Any, Any]:
    """The numbers that base64 holds, float64 (dim,). Raises InvalidArgument."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgument(f"{param} should be {_FORMS}: this text is no base64", param=param) from None
    if not content or len(content) % _NUMBER_BYTES:
        raise InvalidArgument(
            f"{param} should be base64 of float32 numbers, {_NUMBER_BYTES} bytes each: it has {len(content)} bytes",
            param=param,
        )
    return np.frombuffer(content, "<f4").astype(np.float64)


def _by(tag: Any) -> Discriminator:
    return Discriminator(tag, custom_error_type="vector", custom_error_message=f"should be {_FORMS}")


def _tag(value: Any) -> str | None:
    return "<base64>" if isinstance(value, str) else "<numbers>" if isinstance(value, list) else None


def _tag_of_several(value: Any) -> str | None:
    return "<vectors>" if isinstance(value, list) and holds_several(value) else _tag(value)
