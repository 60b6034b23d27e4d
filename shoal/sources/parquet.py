"""Parquet files: ranges of rows, streamed out of their row groups.

Strings, numbers, booleans and lists of strings are taken as they are; dates, times and decimals become strings, and
vectors NumPy arrays.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from shoal.errors import InvalidArgument
from shoal.metadata import declared_types
from shoal.records import FloatArray
from shoal.settings import SourceSettings
from shoal.sources.files import BLOCK, content

if TYPE_CHECKING:
    from pyarrow import NativeFile

ROWS = 1024
"""Rows held in memory at once."""


class Description(NamedTuple):
    """rows: of the file, and of its largest group. columns: those to be read. bytes: what they take uncompressed.

    left_out: columns that would be metadata and whose type cannot be.
    """

    rows: int
    group: int
    columns: list[str]
    bytes: int
    left_out: list[str]


def describe(stream: "NativeFile", name: str, source: SourceSettings) -> Description:
    """Describe a file from its footer.

    Raises InvalidArgument when a column is missing, when it has no vectors, or when it is to be metadata and its type
    cannot be, Damaged when it is no Parquet file.
    """
    with content(stream):
        file = pq.ParquetFile(stream)
    schema = file.schema_arrow
    fields = [*source.id_fields, source.text_field]
    if source.title_field is not None:
        fields.append(source.title_field)
    if source.vectors_field is not None:
        fields.append(source.vectors_field)
    if absent := [field for field in fields if field not in schema.names]:
        raise InvalidArgument(
            f"{name} has no column {absent[0]!r} (columns: {', '.join(schema.names)}); "
            "set id_field, text_field, title_field or vectors_field"
        )
    if source.vectors_field is not None and not _is_vector(kind := schema.field(source.vectors_field).type):
        raise InvalidArgument(
            f"{name}: column {source.vectors_field!r} of type {kind} holds no vectors (lists of numbers)",
            param="vectors_field",
        )
    others = source.metadata_fields if source.metadata_fields is not None else schema.names
    metadata = [field for field in others if field in schema.names and field not in fields]
    left_out = [field for field in metadata if not _is_metadata(schema.field(field).type) and field != "metadata"]
    wanted = declared_types(source.metadata_types).keys() | {*(source.metadata_fields or ())}
    if refused := [field for field in left_out if field in wanted]:
        raise InvalidArgument(
            f"{name}: column {refused[0]!r} of type {schema.field(refused[0]).type} cannot be metadata (strings, "
            "numbers, booleans, lists of strings); leave it out of metadata_fields and metadata_types"
        )
    columns = fields + [field for field in metadata if field not in left_out]
    groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
    chunks = (group.column(column) for group in groups for column in range(group.num_columns))
    size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)
    largest = max((group.num_rows for group in groups), default=0)
    return Description(file.metadata.num_rows, largest, columns, size, left_out)


def batches(stream: "NativeFile", start: int, stop: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield rows [start, stop) in batches of at most ROWS.

    Parquet has no way into the middle of a row group: the one that holds `start` is decoded from its beginning.
    Raises Damaged, after the rows before the damage.
    """
    with content(stream):
        yield from _batches(stream, start, stop, columns)


def _batches(stream: "NativeFile", start: int, stop: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    file = pq.ParquetFile(stream, buffer_size=BLOCK, pre_buffer=False, page_checksum_verification=True)
    row = 0
    for group in range(file.num_row_groups):
        end = row + file.metadata.row_group(group).num_rows
        if row < stop and start < end:
            for batch in file.iter_batches(ROWS, row_groups=[group], columns=columns):
                low, high = max(start - row, 0), min(stop - row, batch.num_rows)
                if low < high:
                    yield _plain(batch.slice(low, high - low))
                row += batch.num_rows
                if row >= stop:
                    return
        row = end


def records(
    found: Iterable[pa.RecordBatch], vectors_field: str | None = None
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (row, record) or (row, reason why it is none), rows counted from 1.

    vectors_field: the column of which each record gets a float32 (n,), or None where it is null.
    """
    number = 0
    for batch in found:
        vectors = None
        if vectors_field is not None:
            vectors, batch = _vectors(batch.column(vectors_field)), batch.drop_columns(vectors_field)
        for row, record in enumerate(_rows(batch)):
            if vectors_field is not None and vectors is not None and isinstance(record, dict):
                record[vectors_field] = vectors[row]
            yield number + row + 1, record
        number += batch.num_rows


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any] | str]:
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        return [_row(batch.slice(row, 1)) for row in range(batch.num_rows)]


def _vectors(column: pa.Array) -> list[FloatArray | None]:
    """The rows of a column of lists, without a Python object for each number; a null within one is not a number."""
    present = column.is_valid().to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    ends = np.cumsum(np.where(present, lengths, 0)).tolist()
    rows = zip(present.tolist(), [0, *ends], ends, strict=False)
    return [values[start:end] if there else None for there, start, end in rows]


def _row(batch: pa.RecordBatch) -> dict[str, Any] | str:
    record = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            record[name] = column[0].as_py()
        except UnicodeDecodeError:
            return f"the field {name!r} is not valid UTF-8"
    return record


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch with its dictionaries, dates and decimals made plain."""
    columns = []
    for column in batch.columns:
        plain = column.dictionary_decode() if pt.is_dictionary(column.type) else column
        is_text = pt.is_temporal(plain.type) or pt.is_decimal(plain.type)
        columns.append(plain.cast(pa.string()) if is_text else plain)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _is_metadata(kind: pa.DataType) -> bool:
    if pt.is_dictionary(kind):
        return _is_metadata(kind.value_type)
    if pt.is_list(kind) or pt.is_large_list(kind):
        return _is_text(kind.value_type)
    simple = pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind) or pt.is_null(kind)
    return simple or _is_text(kind) or pt.is_decimal(kind) or (pt.is_temporal(kind) and not pt.is_duration(kind))


def _is_vector(kind: pa.DataType) -> bool:
    is_list = pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)
    return bool(is_list and (pt.is_floating(kind.value_type) or pt.is_integer(kind.value_type)))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))
