"""The file of an embedded unit: Arrow IPC, record batch s holds the passages and vectors of shard s, in input order."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shoal.index_root import layout
from shoal.index_root.arrow_files import checked
from shoal.index_root.storage import Storage
from shoal.late.writer import COLUMN
from shoal.records import FloatArray
from shoal.shard.passages import PASSAGE_SCHEMA

_COLUMNS = [*PASSAGE_SCHEMA.names, "record", "vector", COLUMN.name]
"""Columns of a unit's file."""
KNOWN = pa.field("known", pa.bool_(), nullable=False)
"""Column of a unit file: whether the base of the build holds a passage of this id."""
REUSED = pa.field("reused", pa.bool_(), nullable=False)
"""Column of a unit file: whether the vector of the passage was copied from there."""


_CODEC = b"codec"
"""Key of the schema's metadata under which the digest of the token codec lies."""


def unit_schema(dim: int, codec: str | None = None, further: Sequence[pa.Field] = ()) -> pa.Schema:
    """Columns of a passage, the place of its record within the unit, its vector and, if kept, its reduced tokens.

    Args:
        codec: Digest of what has reduced the tokens, which the file names; None without tokens.
        further: Columns behind.
    """
    record = pa.field("record", pa.int64(), nullable=False)
    vector = pa.field("vector", pa.list_(pa.float32(), dim), nullable=False)
    if codec is None:
        return pa.schema([*PASSAGE_SCHEMA, record, vector, *further])
    return pa.schema([*PASSAGE_SCHEMA, record, vector, COLUMN, *further], metadata={_CODEC: codec})


def write_unit(
    path: Path,
    batch: pa.RecordBatch,
    records: NDArray[np.int64],
    vectors: FloatArray,
    rows: NDArray[np.int64],
    tokens: pa.LargeBinaryArray | None = None,
    codec: str | None = None,
) -> None:
    """Write a unit to a local file.

    Args:
        batch: Passages (n,) ordered by shard, which may have further columns behind those of PASSAGE_SCHEMA.
        records: int64 (n,).
        vectors: float32 (n, dim).
        rows: int64 (shards,), how many of the n belong to each shard.
        tokens, codec: The column of their reduced token vectors, if these are kept, and the digest of what has reduced
            them.
    """
    dim = vectors.shape[1]
    vector = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).reshape(-1)), dim)
    own = len(PASSAGE_SCHEMA)
    passages, further = batch.columns[:own], batch.columns[own:]
    columns = [*passages, pa.array(records), vector, *([] if tokens is None else [tokens]), *further]
    whole = pa.RecordBatch.from_arrays(columns, schema=unit_schema(dim, codec, list(batch.schema)[own:]))
    with pa.ipc.new_file(str(path), whole.schema) as writer:
        start = 0
        for count in rows.tolist():
            writer.write_batch(whole.slice(start, count))
            start += count


class UnitFile:
    """An opened unit file; a context manager. `columns` limits what is read to the named columns."""

    def __init__(self, storage: Storage, plan_hash: str, unit: int, columns: list[str] | None = None) -> None:
        self._storage, self._path = storage, layout.unit_data(plan_hash, unit)
        self._source = storage.open_input(self._path)
        fields = None if columns is None else [_COLUMNS.index(name) for name in columns]
        with storage.errors(self._path):
            self._reader = pa.ipc.open_file(self._source, options=pa.ipc.IpcReadOptions(included_fields=fields))

    def __enter__(self) -> "UnitFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self._source.close()

    @property
    def codec(self) -> str | None:
        """Digest of what has reduced the token vectors; None without these."""
        name = (self._reader.schema.metadata or {}).get(_CODEC)
        return None if name is None else name.decode()

    def shard(self, shard: int) -> pa.RecordBatch:
        """The rows of one shard, with the columns asked for."""
        with self._storage.errors(self._path):
            return checked(self._reader.get_batch(shard))


def vectors_of(batch: pa.RecordBatch) -> FloatArray:
    """The vector column as float32 (n, dim), without copying."""
    column = batch.column("vector")
    flat: FloatArray = column.flatten().to_numpy(zero_copy_only=True)
    return flat.reshape(len(column), column.type.list_size)
