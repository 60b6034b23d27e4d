"""What values of Arrow types become: one mapping, recursive, by which columns are checked and values are made.

docs/input.md has it as a table. Nothing is narrowed silently: a value that has no exact counterpart becomes `Unfit`.
"""

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

Values = Callable[[pa.Array], list[Any]]
"""Makes Python values of an array, None of a null."""

_EXACT_DIGITS = 15
"""Decimal digits that a 64-bit float always holds."""
_SECONDS = (-62_135_596_800, 253_402_300_800)
"""Half-open range of seconds since 1970 in which years have four digits: the years 1 to 9999."""
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Steps of a second, by unit."""


class Unfit:
    """A value that cannot be kept as it is; the reason completes `the value is ...`."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unfit) and other.reason == self.reason

    def __hash__(self) -> int:
        return hash(self.reason)

    def __repr__(self) -> str:
        return f"Unfit({self.reason!r})"


Result = Literal["text", "integer", "number", "boolean", "list", "nothing"]
"""What values of a type become; `nothing` where all of them are null."""


class Mapped(NamedTuple):
    """What the values of a type become, and what makes them."""

    gives: Result
    read: Values


def mapped(kind: pa.DataType, *, as_text: bool = False) -> Mapped | None:
    """Return how values of a type are read, or None for one whose values are neither text nor metadata.

    Args:
        as_text: Decimal numbers are kept as text, with all of their digits.
    """
    if (wrapped := _unwrapped(kind)) is not None:
        inner_kind, unwrap = wrapped
        inner = mapped(inner_kind, as_text=as_text)
        return None if inner is None else Mapped(inner.gives, lambda array: inner.read(unwrap(array)))
    if pt.is_decimal(kind):
        return _decimal(kind, as_text)
    if _is_list(kind):
        item = mapped(kind.value_type)
        fits = item is not None and item.gives in ("text", "nothing")
        return Mapped("list", lambda array: _lists(array, item.read)) if fits and item is not None else None
    return next((Mapped(gives, read) for matches, gives, read in _SIMPLE if matches(kind)), None)


def mapped_object(kind: pa.DataType) -> Values | None:
    """Return how a struct or a map is read as an object of fields, or None for another type.

    Fields whose type cannot be metadata are kept as plain Python values. Raises ValueError when a field is named twice.
    """
    if pt.is_map(kind):
        return lambda array: _maps(array, kind)
    if not pt.is_struct(kind):
        return None
    fields = [kind.field(place) for place in range(kind.num_fields)]
    names = [field.name for field in fields]
    if len(set(names)) < len(names):
        raise ValueError(f"a field is named twice ({', '.join(names)[:200]})")
    readers = [_any(field.type) for field in fields]

    def read(array: pa.Array) -> list[Any]:
        children = [reader(child) for reader, child in zip(readers, array.flatten(), strict=True)]
        rows = zip(*children, strict=True) if children else ((),) * len(array)
        valid = array.is_valid().to_pylist()
        return [dict(zip(names, row, strict=True)) if there else None for there, row in zip(valid, rows, strict=True)]

    return read


def is_read_anew(kind: pa.DataType) -> bool:
    """Whether 0.1.0 made other values of a type: what it built of them is told from what is built now."""
    if (wrapped := _unwrapped(kind)) is not None:
        return is_read_anew(wrapped[0])
    if pt.is_struct(kind):
        types = [kind.field(place).type for place in range(kind.num_fields)]
        return any(pt.is_temporal(child) or is_read_anew(child) for child in types)
    is_short = pt.is_float16(kind) or pt.is_float32(kind)
    return bool(is_short or pt.is_decimal(kind) or (pt.is_timestamp(kind) and kind.tz not in (None, "UTC")))


def is_vector(kind: pa.DataType) -> bool:
    """Whether the values of a type are lists of numbers."""
    if isinstance(kind, pa.BaseExtensionType):
        return is_vector(kind.storage_type)
    return bool(_is_list(kind) and (pt.is_floating(kind.value_type) or pt.is_integer(kind.value_type)))


def _is_list(kind: pa.DataType) -> bool:
    kinds = (pt.is_list, pt.is_large_list, pt.is_fixed_size_list, pt.is_list_view, pt.is_large_list_view)
    return any(matches(kind) for matches in kinds)


def _unwrapped(kind: pa.DataType) -> tuple[pa.DataType, Callable[[pa.Array], pa.Array]] | None:
    """The type within an encoding or an extension, and how an array of it is had; None for a type that is neither."""
    if pt.is_dictionary(kind):
        return kind.value_type, lambda array: array.dictionary_decode()
    if pt.is_run_end_encoded(kind):
        return kind.value_type, pc.run_end_decode
    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name != "arrow.uuid":
        return kind.storage_type, lambda array: array.storage
    return None


def _any(kind: pa.DataType) -> Values:
    found = mapped(kind)
    return _plain if found is None else found.read


def _plain(array: pa.Array) -> list[Any]:
    return list(array.to_pylist())


def _shortest(array: pa.Array) -> list[Any]:
    """The decimal numbers that short floats are written as: 0.1, which is 0.10000000149 with all digits of 64 bits."""
    if pt.is_float32(array.type):
        return _plain(array.cast(pa.string()).cast(pa.float64()))
    numbers = array.to_numpy(zero_copy_only=False).astype("U").astype(np.float64).tolist()
    return [number if there else None for number, there in zip(numbers, array.is_valid().to_pylist(), strict=True)]


def _decimal(kind: pa.DataType, as_text: bool) -> Mapped:
    def each(convert: Callable[[Decimal], Any]) -> Values:
        return lambda array: [None if value is None else convert(value) for value in array.to_pylist()]

    if as_text:
        return Mapped("text", each(lambda value: format(value, "f")))
    if kind.scale <= 0:
        return Mapped("integer", each(int))
    return Mapped("number", each(float if kind.precision <= _EXACT_DIGITS else _exact))


def _exact(value: Decimal) -> float | Unfit:
    number = float(value)
    return number if Decimal(repr(number)) == value else Unfit("a decimal of more digits than a number holds")


def _times(array: pa.Array) -> list[Any]:
    """Moments as ISO 8601, those of a zone in UTC: what a zone is called need not be known for that."""
    kind = array.type
    if kind.tz is not None:
        array = array.cast(pa.timestamp(kind.unit, "UTC"))
    low, high = (seconds * _UNITS[kind.unit] for seconds in _SECONDS)
    return _within(array, array.cast(pa.int64()), low, high)


def _days(array: pa.Array) -> list[Any]:
    per_day = 1 if pt.is_date32(array.type) else 86_400_000
    low, high = (seconds // 86_400 * per_day for seconds in _SECONDS)
    return _within(array, array.cast(pa.int32() if per_day == 1 else pa.int64()), low, high)


def _within(array: pa.Array, steps: pa.Array, low: int, high: int) -> list[Any]:
    texts = _plain(array.cast(pa.string()))
    return [
        text if step is None or low <= step < high else Unfit("a time beyond the years 1 to 9999")
        for text, step in zip(texts, steps.to_pylist(), strict=True)
    ]


def _clock(array: pa.Array) -> list[Any]:
    return _plain(array.cast(pa.string()))


def _texts(array: pa.Array) -> list[Any]:
    try:
        return _plain(array)
    except UnicodeDecodeError:
        return _bytes(array.cast(pa.large_binary()))


def _bytes(array: pa.Array) -> list[Any]:
    texts: list[Any] = []
    for value in array.to_pylist():
        try:
            texts.append(None if value is None else value.decode())
        except UnicodeDecodeError:
            texts.append(Unfit("not valid UTF-8"))
    return texts


def _identifiers(array: pa.Array) -> list[Any]:
    return [None if value is None else str(value) for value in array.to_pylist()]


def _lists(array: pa.Array, read_items: Values) -> list[Any]:
    items = read_items(array.flatten())
    return [items[start:stop] if there else None for there, start, stop in _bounds(array)]


def _maps(array: pa.Array, kind: pa.MapType) -> list[Any]:
    pair = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
    array = array.cast(pa.list_(pair))
    keys, values = array.flatten().flatten()
    pairs = list(zip(_any(kind.key_type)(keys), _any(kind.item_type)(values), strict=True))
    return [dict(pairs[start:stop]) if there else None for there, start, stop in _bounds(array)]


def _bounds(array: pa.Array) -> Iterator[tuple[bool, int, int]]:
    """Of each list whether it is there, and where its items lie in the flattened array."""
    present = array.is_valid().to_pylist()
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    ends = [0, *np.cumsum(lengths).tolist()]
    return zip(present, ends[:-1], ends[1:], strict=True)


_SIMPLE: list[tuple[Callable[[pa.DataType], bool], Result, Values]] = [
    (pt.is_null, "nothing", _plain),
    (pt.is_boolean, "boolean", _plain),
    (pt.is_integer, "integer", _plain),
    (pt.is_float64, "number", _plain),
    (pt.is_floating, "number", _shortest),
    (lambda kind: pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind), "text", _texts),
    (lambda kind: pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind), "text", _bytes),
    (pt.is_fixed_size_binary, "text", _bytes),
    (pt.is_timestamp, "text", _times),
    (pt.is_date, "text", _days),
    (pt.is_time, "text", _clock),
    (lambda kind: isinstance(kind, pa.BaseExtensionType), "text", _identifiers),  # of those only UUIDs are left
]
"""Types without types inside, the first that matches."""
