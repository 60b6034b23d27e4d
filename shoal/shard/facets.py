"""How often each value of a metadata field occurs among the rows of one shard, all of them or those of a filter."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shoal.filters import Filter, Value
from shoal.shard.arrays import to_numbers
from shoal.shard.messages import MESSAGE_BYTES

if TYPE_CHECKING:
    from shoal.shard.live import LiveShard
    from shoal.shard.reader import Shard

ValueCounts = dict[Value, int]
"""Rows by value; a timestamp is microseconds since 1970, UTC."""


@dataclass(frozen=True, slots=True)
class CountValues:
    """Asks a shard for the values of some fields and how many rows have each, those of a filter or all.

    The answer has, for each field in turn, None where there are more than `max_values` of them, or where they would not
    fit into a message.
    """

    fields: tuple[str, ...]
    filter: Filter | None
    max_values: int

    def answer(self, shard: "Shard | LiveShard") -> list[ValueCounts | None]:
        """Count in an opened shard. Raises InvalidArgument for a version without metadata."""
        return [self._count(shard.values(field, self.filter)) for field in self.fields]

    def _count(self, column: pa.ChunkedArray) -> ValueCounts | None:
        counts = count_values(column)
        if len(counts) > self.max_values:
            return None
        size = sum(len(value) for value in counts if isinstance(value, str))
        return None if 4 * size > MESSAGE_BYTES else counts


def count_values(column: pa.ChunkedArray) -> ValueCounts:
    """Count the rows of a column of metadata.arrow by their values; a row of a list counts once for each of them."""
    if pa.types.is_large_list(column.type):
        counts: Counter[Any] = Counter()
        for chunk in column.chunks:
            counts.update(_count_elements(chunk))
        return dict(counts)
    column = pc.drop_null(column)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    counted = pc.value_counts(column)
    return dict(zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True))


def _count_elements(lists: pa.LargeListArray) -> ValueCounts:
    """Count the lists that hold each value."""
    encoded = lists.flatten().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    if not values:
        return {}
    parents = to_numbers(pc.list_parent_indices(lists)).astype(np.int64)
    # A list that names a value twice is one row all the same.
    pairs = np.sort(parents * len(values) + to_numbers(encoded.indices))
    different = np.concatenate([pairs[:1], pairs[1:][pairs[1:] != pairs[:-1]]])
    return dict(zip(values, np.bincount(different % len(values), minlength=len(values)).tolist(), strict=True))
