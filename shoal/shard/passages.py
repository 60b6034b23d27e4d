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


def to_passage(batch: pa.RecordBatch, row: int) -> Passage:
    """Return one row of a record batch of PASSAGE_SCHEMA as a passage."""
    metadata = batch.column(3)[row].as_py()
    return Passage(
        id=batch.column(0)[row].as_py(),
        text=batch.column(1)[row].as_py(),
        title=batch.column(2)[row].as_py(),
        metadata={} if metadata is None else json.loads(metadata),
    )


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

    @property
    def count(self) -> int:
        """Number of passages."""
        return int(self._starts[-1])

    def id(self, row: int) -> str:
        """Return the id of a row."""
        batch, offset = self._locate(row)
        return str(batch.column(0)[offset].as_py())

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
        borders = np.searchsorted(rows, self._starts)
        return [
            (batch, from_numbers(rows[low:high] - start))
            for batch, start, low, high in zip(self._batches, self._starts, borders, borders[1:], strict=False)
            if low < high
        ]

    def size(self, row: int) -> int:
        """Return the UTF-8 bytes of text, title and metadata of a row."""
        batch, offset = self._locate(row)
        buffers = (batch.column(number)[offset].as_buffer() for number in (1, 2, 3))
        return sum(buffer.size for buffer in buffers if buffer is not None)

    def passage(self, row: int) -> Passage:
        """Return the passage of a row."""
        return to_passage(*self._locate(row))

    def _locate(self, row: int) -> tuple[pa.RecordBatch, int]:
        number = bisect_right(self._starts, row) - 1
        return self._batches[number], row - self._starts[number]


def _to_json(passage: Passage) -> str | None:
    return _METADATA_ENCODER.encode(dict(passage.metadata)) if passage.metadata else None
