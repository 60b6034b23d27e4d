"""The passages of one shard in Arrow: how they lie in record batches, and the mapped file that is read."""

import json
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa

from shoal.index_root.arrow_files import open_batches
from shoal.records import Passage, RowArray
from shoal.shard.arrays import from_numbers
from shoal.shard.text_column import TextColumn

# Texts have 64-bit offsets: a few thousand passages of a megabyte do not fit into Arrow's 2 GiB `string` arrays.
PASSAGE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("title", pa.large_string()),
        pa.field("metadata", pa.large_string()),
    ]
)
"""Columns of passages.arrow. `metadata` is a JSON object with sorted keys, null when it is empty."""

_METADATA_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
"""Writes metadata, so that equal values give equal bytes."""


def to_batch(passages: Sequence[Passage]) -> pa.RecordBatch:
    """Return passages as a record batch of PASSAGE_SCHEMA. Texts must be valid Unicode (no lone surrogates)."""
    columns = [
        [passage.id for passage in passages],
        [passage.text for passage in passages],
        [passage.title for passage in passages],
        [_to_json(passage) for passage in passages],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, PASSAGE_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=PASSAGE_SCHEMA)


class Passages:
    """A mapped passages.arrow: finding a row is a binary search over the batches, and only its own bytes are read.

    Opening it reads all of it once. Raises CorruptIndex for a file that is not what a build writes.
    """

    def __init__(self, path: Path) -> None:
        self._hold(open_batches(path, PASSAGE_SCHEMA))

    @classmethod
    def of_batch(cls, batch: pa.RecordBatch) -> "Passages":
        """Those of a record batch of PASSAGE_SCHEMA, which stays in memory."""
        passages = cls.__new__(cls)
        passages._hold([batch])
        return passages

    def _hold(self, batches: Sequence[pa.RecordBatch]) -> None:
        self._batches = batches
        # First row of each batch, and the end.
        self._starts = list(accumulate((batch.num_rows for batch in batches), initial=0))
        self._start_rows = np.array(self._starts, np.int64)
        self._columns: list[tuple[TextColumn, ...] | None] = [None] * len(batches)

    @property
    def count(self) -> int:
        """Number of passages."""
        return int(self._starts[-1])

    def id(self, row: int) -> str:
        """Return the id of a row."""
        columns, place = self._locate(row)
        return str(columns[0][place])

    def ids_in_order(self, rows: RowArray) -> list[str]:
        """Return the ids of rows, int64 (n,), in the order asked."""
        numbers = np.searchsorted(self._start_rows, rows, side="right") - 1
        places = rows - self._start_rows[numbers]
        ids = [self._columns_of(number)[0] for number in numbers.tolist()]
        return [str(column[place]) for column, place in zip(ids, places.tolist(), strict=True)]

    def id_column(self) -> pa.ChunkedArray:
        """Return the ids of all rows, in their order."""
        return pa.chunked_array([batch.column(0) for batch in self._batches], pa.string())

    def ids(self, rows: RowArray) -> pa.StringArray:
        """Return the ids of rows, int64 (n,) ascending."""
        parts = [batch.column(0).take(places) for batch, places in self._by_batch(rows)]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.string())

    def batches(self, rows: RowArray) -> list[pa.RecordBatch]:
        """Return rows, int64 (n,) ascending, as record batches of PASSAGE_SCHEMA."""
        return [batch.take(places) for batch, places in self._by_batch(rows)]

    def _by_batch(self, rows: RowArray) -> list[tuple[pa.RecordBatch, pa.Int64Array]]:
        """Each batch in which some of ascending rows lie, and where."""
        borders = np.searchsorted(rows, self._start_rows)
        return [
            (batch, from_numbers(rows[low:high] - start))
            for batch, start, low, high in zip(self._batches, self._starts, borders, borders[1:], strict=False)
            if low < high
        ]

    def size(self, row: int) -> int:
        """Return the UTF-8 bytes of text, title and metadata of a row."""
        columns, place = self._locate(row)
        return sum(column.size(place) for column in columns[1:])

    def within(self, rows: Sequence[int], most_bytes: int) -> list[Passage] | None:
        """Return the passages of rows, in the order asked; None where they have more bytes, as `size` counts them."""
        passages: list[Passage] = []
        for row in rows:
            columns, place = self._locate(row)
            _, text, title, metadata = columns
            most_bytes -= text.size(place) + title.size(place) + metadata.size(place)
            if most_bytes < 0:
                return None
            passages.append(_passage(columns, place))
        return passages

    def all(self) -> list[Passage]:
        """Return the passages of all rows, in their order."""
        return [self.passage(row) for row in range(self.count)]

    def passage(self, row: int) -> Passage:
        """Return the passage of a row."""
        return _passage(*self._locate(row))

    def _locate(self, row: int) -> tuple[tuple[TextColumn, ...], int]:
        """The columns of the batch of a row, and its place there."""
        number = bisect_right(self._starts, row) - 1
        return self._columns_of(number), row - self._starts[number]

    def _columns_of(self, number: int) -> tuple[TextColumn, ...]:
        """The columns of a batch, in the order of PASSAGE_SCHEMA."""
        columns = self._columns[number]
        if columns is None:
            columns = self._columns[number] = tuple(map(TextColumn, self._batches[number].columns))
        return columns


def _passage(columns: tuple[TextColumn, ...], place: int) -> Passage:
    ids, texts, titles, metadata = columns
    fields = metadata[place]
    return Passage(ids[place] or "", texts[place] or "", titles[place], {} if fields is None else json.loads(fields))


def _to_json(passage: Passage) -> str | None:
    return _METADATA_ENCODER.encode(dict(passage.metadata)) if passage.metadata else None
