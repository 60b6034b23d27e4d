"""The rows of one shard in the order of a metadata field, those of a filter or all, from any place on."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shoal.filters import Filter, Value
from shoal.records import RowArray
from shoal.shard.arrays import to_mask, to_numbers
from shoal.shard.cut import best

if TYPE_CHECKING:
    from shoal.shard.live import LiveShard
    from shoal.shard.reader import Shard
    from shoal.shard.selection import Selection

Keys = NDArray[np.int64]
"""Places of the values of rows among all different values, in the order asked; rows without a value come last."""


@dataclass(frozen=True, slots=True)
class OrderedRow:
    """A row, its passage's id, and its value; None without one, a timestamp in microseconds since 1970."""

    value: Value | None
    id: str
    row: int


@dataclass(frozen=True, slots=True)
class OrderRows:
    """Asks a shard for its first rows by the value of a field; equal values stand by id, rows without one come last.

    filter: which rows; None for all.
    field: its name; under one that no row has all stand by their ids alone.
    after: value and id of the row behind which to begin; None for the beginning.
    """

    field: str
    descending: bool
    filter: Filter | None
    limit: int
    after: tuple[Value | None, str] | None

    def answer(self, shard: "Shard | LiveShard") -> list[OrderedRow]:
        """Order the rows of an opened shard. Raises InvalidArgument for a version without metadata."""
        rows = [row for part, alive, start in shard.parts() for row in self._first(part, alive, start)]
        return in_order(rows, self.descending)[: self.limit]

    def _first(self, shard: "Shard", alive: "Selection | None", start: int) -> list[OrderedRow]:
        rows = shard.rows(self.filter, alive)
        keys, values = _keys(shard.values(self.field, self.filter, alive), self.descending)
        positions = np.arange(len(rows))
        if self.after is not None:
            positions = self._behind(shard, rows, keys, values, self.after)
        chosen = positions[best(-keys[positions].astype(np.float64), rows[positions], self.limit, shard.ids_of)]
        return [
            OrderedRow(values[key] if key < len(values) else None, shard.id(row), start + row)
            for key, row in zip(keys[chosen].tolist(), rows[chosen].tolist(), strict=True)
        ]

    def _behind(
        self, shard: "Shard", rows: RowArray, keys: Keys, values: Sequence[Value], after: tuple[Value | None, str]
    ) -> NDArray[np.intp]:
        """Positions of the rows that come behind a value and id."""
        value, id_ = after
        low, high = len(values), len(values) + 1
        if value is not None:
            ascending = values[::-1] if self.descending else values
            low, high = bisect_left(ascending, value), bisect_right(ascending, value)
            if self.descending:
                low, high = len(values) - high, len(values) - low
        behind = keys >= high
        equal = np.flatnonzero((keys >= low) & ~behind)
        later = to_mask(pc.greater(shard.ids_of(rows[equal]), pa.scalar(id_, pa.string())))
        behind[equal[later]] = True
        return np.flatnonzero(behind)


def in_order(rows: list[OrderedRow], descending: bool) -> list[OrderedRow]:
    """Sort rows by value, equal ones by id, those without a value last."""
    rows = sorted(rows, key=lambda row: row.id)
    valued = [row for row in rows if row.value is not None]
    valued.sort(key=lambda row: row.value, reverse=descending)  # type: ignore[arg-type, return-value]  # of one type
    return valued + [row for row in rows if row.value is None]


def _keys(column: pa.ChunkedArray, descending: bool) -> tuple[Keys, list[Value]]:
    """The key of each row of a column, and the values by key."""
    if pa.types.is_null(column.type) or not len(column):
        return np.zeros(len(column), np.int64), []
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    encoded = pa.concat_arrays(column.chunks).dictionary_encode()
    order = to_numbers(pc.sort_indices(encoded.dictionary)).astype(np.int64)
    if descending:
        order = order[::-1]
    keys_of_codes = np.empty(len(order) + 1, np.int64)
    keys_of_codes[order] = np.arange(len(order))
    keys_of_codes[-1] = len(order)  # of the code -1, which stands for no value
    values = encoded.dictionary.to_pylist()
    codes = to_numbers(pc.fill_null(encoded.indices, -1)).astype(np.int64)
    return keys_of_codes[codes], [values[code] for code in order.tolist()]
