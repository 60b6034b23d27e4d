"""Parquet files: ranges of rows, streamed out of their row groups.

Strings, numbers, booleans and lists of strings are taken as they are; dates, times and decimals become strings.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from shoal.errors import InvalidArgument
from shoal.settings import SourceSettings
from shoal.sources.files import BLOCK

if TYPE_CHECKING:
    from pyarrow import NativeFile

ROWS = 1024
"""Rows held in memory at once."""


def describe(stream: "NativeFile", name: str, source: SourceSettings) -> tuple[int, list[str], int]:
    """Return the rows of a file, the columns to be read, and the bytes these take in memory.

    Raises InvalidArgument when a column is missing or has a type that can be no part of any passage.
    """
    file = pq.ParquetFile(stream)
    schema = file.schema_arrow
    fields = [source.id_field or "id", source.text_field]
    if source.title_field is not None:
        fields.append(source.title_field)
    if absent := [field for field in fields if field not in schema.names]:
        raise InvalidArgument(
            f"{name} has no column {absent[0]!r} (columns: {', '.join(schema.names)}); set id_field, text_field or title_field"
        )
    others = source.metadata_fields if source.metadata_fields is not None else schema.names
    metadata = [field for field in others if field in schema.names and field not in fields]
    for field in metadata:
        if not _is_metadata(schema.field(field).type) and field != "metadata":
            raise InvalidArgument(
                f"{name}: column {field!r} of type {schema.field(field).type} cannot be metadata (strings, numbers, booleans, "
                "lists of strings); name the columns to keep with metadata_fields"
            )
    columns = fields + metadata
    footer = file.metadata
    chunks = (
        footer.row_group(group).column(column)
        for group in range(footer.num_row_groups)
        for column in range(footer.num_columns)
    )
    size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)
    return footer.num_rows, columns, size


def records(
    stream: "NativeFile", start: int, stop: int, columns: list[str]
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (row, record) or (row, reason why it is none) of rows [start, stop), counted from 1 at `start`.

    The row group that holds `start` is decoded from its beginning, in memory bounded by ROWS rows.
    """
    file = pq.ParquetFile(stream, buffer_size=BLOCK, pre_buffer=False)
    first = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if first < stop and start < first + rows:
            row = first
            for batch in file.iter_batches(ROWS, row_groups=[group], columns=columns):
                low, high = max(start - row, 0), min(stop - row, batch.num_rows)
                if low < high:
                    for offset, record in enumerate(_rows(batch.slice(low, high - low))):
                        yield row + low + offset - start + 1, record
                row += batch.num_rows
                if row >= stop:
                    return
        first += rows


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any] | str]:
    batch = pa.RecordBatch.from_arrays([_plain(column) for column in batch.columns], names=batch.schema.names)
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        return [_row(batch.slice(row, 1)) for row in range(batch.num_rows)]


def _row(batch: pa.RecordBatch) -> dict[str, Any] | str:
    record = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            record[name] = column[0].as_py()
        except UnicodeDecodeError:
            return f"the field {name!r} is not valid UTF-8"
    return record


def _plain(column: pa.Array) -> pa.Array:
    if pt.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.string()) if pt.is_temporal(column.type) or pt.is_decimal(column.type) else column


def _is_metadata(kind: pa.DataType) -> bool:
    if pt.is_dictionary(kind):
        return _is_metadata(kind.value_type)
    if pt.is_list(kind) or pt.is_large_list(kind):
        return _is_text(kind.value_type)
    simple = pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind) or pt.is_null(kind)
    return simple or _is_text(kind) or pt.is_decimal(kind) or (pt.is_temporal(kind) and not pt.is_duration(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))
