"""The typed metadata columns of one shard: written beside its passages, mapped, and turned into masks by filters."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shoal.filters import And, Compare, Exists, Filter, In, InNamespace, Not, Or
from shoal.index_root.arrow_files import open_batches
from shoal.metadata import LEAST_INTEGER, MOST_INTEGER, FieldType, FieldTypes, stored
from shoal.records import RowArray
from shoal.shard.arrays import from_numbers, to_mask, to_numbers

Mask = NDArray[np.bool_]

# Offsets have 64 bits, as in passages.arrow.
ARROW_TYPES: dict[FieldType, pa.DataType] = {
    "string": pa.large_string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "list": pa.large_list(pa.large_string()),
}
"""Types of the columns of metadata.arrow; all are null where a passage has no such field."""

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "gt": pc.greater,
    "gte": pc.greater_equal,
    "lt": pc.less,
    "lte": pc.less_equal,
}
"""How the conditions of a range compare a column."""


def column_types(types: FieldTypes) -> dict[str, FieldType]:
    """The fields that have a column: all but the mixed ones."""
    return {name: kind for name, kind in types.items() if kind != "mixed"}


class ColumnWriter:
    """Writes metadata.arrow from the metadata of passages, block by block; a context manager.

    Equal blocks give equal bytes. Without any field nothing is written.
    """

    def __init__(self, path: Path, types: FieldTypes) -> None:
        self._types = column_types(types)
        self._schema = _schema(self._types)
        self._writer = pa.ipc.new_file(str(path), self._schema) if self._types else None

    def __enter__(self) -> "ColumnWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, metadata: pa.LargeStringArray) -> None:
        """Append rows; metadata: JSON objects as in passages.arrow, null for none. Values must fit their types."""
        if self._writer is None:
            return
        self._writer.write_batch(_batch(metadata, self._types, self._schema))


class Columns:
    """A mapped metadata.arrow. Safe for concurrent calls."""

    def __init__(self, path: Path, types: FieldTypes) -> None:
        """Open. Raises CorruptIndex unless the columns are those of the types, and whole."""
        schema = _schema(column_types(types))
        self._table = pa.Table.from_batches(open_batches(path, schema), schema)
        self._count = int(self._table.num_rows)

    @classmethod
    def of_metadata(cls, metadata: pa.LargeStringArray, types: FieldTypes) -> "Columns":
        """Those that `ColumnWriter` writes of such rows, which stay in memory."""
        own = column_types(types)
        if not own:
            return cls.empty(len(metadata))
        schema = _schema(own)
        return cls._of_table(pa.Table.from_batches([_batch(metadata, own, schema)], schema), len(metadata))

    @classmethod
    def joined(cls, parts: Sequence[tuple["Columns", RowArray]], types: FieldTypes) -> "Columns | None":
        """Join rows of several, int64 (n,) each, one after the other; None unless all have columns of these types."""
        schema, count = _schema(column_types(types)), sum(len(rows) for _, rows in parts)
        if any(not columns._table.schema.equals(schema) for columns, _ in parts):
            return None
        if not schema.names:
            return cls.empty(count)
        tables = [columns._table.take(from_numbers(rows)) for columns, rows in parts]
        return cls._of_table(pa.concat_tables(tables).combine_chunks(), count)

    @classmethod
    def _of_table(cls, table: pa.Table, count: int) -> "Columns":
        columns = cls.__new__(cls)
        columns._table, columns._count = table, count
        return columns

    @classmethod
    def empty(cls, count: int) -> "Columns":
        """The columns of so many rows without any field."""
        return cls._of_table(pa.table({}), count)

    @property
    def count(self) -> int:
        """Number of rows."""
        return self._count

    def column(self, field: str) -> pa.ChunkedArray:
        """Return the values of a field in all rows, null where there is none."""
        if field not in self._table.schema.names:  # documents that came later brought it
            return pa.chunked_array([pa.nulls(self.count)])
        return self._table.column(field)

    def part(self, tree: Filter, rows: RowArray) -> "Columns":
        """Return what a filter reads of some rows, int64 (n,)."""
        columns = Columns.empty(len(rows))
        if names := sorted(_fields_of(tree) & set(self._table.schema.names)):
            columns._table = self._table.select(names).take(from_numbers(rows))
        return columns

    def mask(self, tree: Filter) -> Mask:
        """Return bool (count,): which rows a filter lets through."""
        match tree:
            case And(parts) | Or(parts):
                combine = np.logical_and if isinstance(tree, And) else np.logical_or
                found = np.full(self.count, isinstance(tree, And))
                for part in parts:
                    combine(found, self.mask(part), out=found)
                return found
            case Not(part):
                return ~self.mask(part)
            case InNamespace():
                raise ValueError("a namespace is no matter of columns")
            case Exists(field):
                return _flags(pc.is_valid(self.column(field)))
            case In(field, _) | Compare(field, _, _) if field not in self._table.schema.names:
                return np.zeros(self.count, np.bool_)
            case In(field, values):
                return self._matching(field, lambda column, kind: _is_in(column, _array(values, kind)))
            case Compare(field, op, value):
                return self._matching(field, lambda column, kind: _compared(column, op, value, kind))

    def _matching(self, field: str, test: Callable[[Any, pa.DataType], Any]) -> Mask:
        """Rows whose value, or one of whose values, passes a test of a column of plain values; no value passes none."""
        column = self._table.column(field)
        if not pa.types.is_large_list(column.type):
            return _flags(test(column, column.type))
        found, start = np.zeros(self.count, np.bool_), 0
        for chunk in column.chunks:
            hits = _flags(test(chunk.flatten(), column.type.value_type))
            found[start + to_numbers(pc.list_parent_indices(chunk))[hits]] = True
            start += len(chunk)
        return found


def _batch(metadata: pa.LargeStringArray, types: Mapping[str, FieldType], schema: pa.Schema) -> pa.RecordBatch:
    """The columns of rows whose metadata are JSON objects, null for none."""
    rows = [{} if text is None else orjson.loads(text) for text in metadata.to_pylist()]
    columns = [
        pa.array([stored(row[name], kind) if name in row else None for row in rows], ARROW_TYPES[kind])
        for name, kind in types.items()
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _fields_of(tree: Filter) -> set[str]:
    match tree:
        case And(parts) | Or(parts):
            return set().union(*map(_fields_of, parts))
        case Not(part):
            return _fields_of(part)
        case InNamespace(_, part):
            return set() if part is None else _fields_of(part)
        case In(field, _) | Compare(field, _, _) | Exists(field):
            return {field}


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Values to look for in a column; those that none of its values can equal are left out."""
    if pa.types.is_integer(kind):  # of a field that became one of numbers when documents came later
        values = [value for value in values if value == math.floor(value) and LEAST_INTEGER <= value <= MOST_INTEGER]
        values = [int(value) for value in values]
    return pa.array(values, kind)


def _compared(column: Any, op: str, value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_integer(kind) and isinstance(value, float):
        return pc.fill_null(_COMPARISONS[op](pc.cast(column, pa.float64(), safe=False), pa.scalar(value)), False)
    return _COMPARISONS[op](column, pa.scalar(value, kind))


def _is_in(column: Any, values: pa.Array) -> Any:
    return pc.equal(column, values[0]) if len(values) == 1 else pc.is_in(column, values)


def _flags(tested: Any) -> Mask:
    filled = pc.fill_null(tested, False)
    chunks = filled.chunks if isinstance(filled, pa.ChunkedArray) else [filled]
    return np.concatenate([to_mask(chunk) for chunk in chunks] or [np.empty(0, np.bool_)])


def _schema(types: Mapping[str, FieldType]) -> pa.Schema:
    return pa.schema([pa.field(name, ARROW_TYPES[kind]) for name, kind in types.items()])
