"""Parquet files: ranges of rows, streamed out of their row groups.

What becomes of values of each type says `shoal.sources.arrow_values`; vectors become NumPy arrays.
"""

from collections.abc import Iterable, Iterator, Set
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
from shoal.sources.arrow_values import Unfit, Values, is_read_anew, is_vector, mapped, mapped_object
from shoal.sources.files import BLOCK, content

if TYPE_CHECKING:
    from pyarrow import NativeFile

ROWS = 1024
"""Rows held in memory at once."""


_OPTIONS = {"coerce_int96_timestamp_unit": "us", "arrow_extensions_enabled": True}
"""Nanoseconds, in which int96 is read otherwise, end in the year 2262 and begin anew."""


class Description(NamedTuple):
    """rows: of the file, and of its largest group. columns: those to be read. bytes: what they take uncompressed.

    left_out: columns that would be metadata and whose type cannot be. read_anew: whether 0.1.0 made other values of its
    metadata.
    """

    rows: int
    group: int
    columns: list[str]
    bytes: int
    left_out: list[str]
    read_anew: bool


def describe(stream: "NativeFile", name: str, source: SourceSettings) -> Description:
    """Describe a file from its footer.

    Raises InvalidArgument when a column is missing, when it has no vectors, or when it is to be metadata and its type
    cannot be, Damaged when it is no Parquet file.
    """
    with content(stream):
        file = pq.ParquetFile(stream, **_OPTIONS)
    schema = file.schema_arrow
    fields = _required(schema, name, source)
    others = source.metadata_fields if source.metadata_fields is not None else dict.fromkeys(schema.names)
    metadata = [field for field in others if field in schema.names and field not in fields]
    if repeated := [field for field in fields + metadata if schema.names.count(field) > 1]:
        raise InvalidArgument(
            f"{name} has more than one column {repeated[0]!r}; rename them, or leave them out with metadata_fields"
        )
    left_out = [field for field in metadata if not _is_metadata(schema.field(field), name)]
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
    leaves = (file.schema.column(place) for place in range(len(file.schema)))
    wrapped = {leaf.path.split(".")[0] for leaf in leaves if leaf.physical_type == "INT96"}
    anew = any(field in wrapped or is_read_anew(schema.field(field).type) for field in columns[len(fields) :])
    return Description(file.metadata.num_rows, largest, columns, size, left_out, anew)


def _required(schema: pa.Schema, name: str, source: SourceSettings) -> list[str]:
    """The columns without which there is no passage. Raises InvalidArgument where one lacks, or has another type."""
    roles = [(field, "id_field") for field in source.id_fields] + [(source.text_field, "text_field")]
    roles += [(source.title_field, "title_field")] if source.title_field is not None else []
    roles += [(source.vectors_field, "vectors_field")] if source.vectors_field is not None else []
    for field, role in roles:
        if field not in schema.names:
            raise InvalidArgument(
                f"{name} has no column {field!r} (columns: {', '.join(schema.names)}); "
                "set id_field, text_field, title_field or vectors_field"
            )
        if schema.names.count(field) > 1:
            continue  # refused by the caller, with its remedy
        kind = schema.field(field).type
        if role == "vectors_field":
            if not is_vector(kind):
                raise InvalidArgument(
                    f"{name}: column {field!r} of type {kind} holds no vectors (lists of numbers)", param=role
                )
            continue
        gives = None if (found := mapped(kind)) is None else found.gives
        if gives not in (("text", "integer", "nothing") if role == "id_field" else ("text", "nothing")):
            wanted = "ids (strings or integers)" if role == "id_field" else "text"
            raise InvalidArgument(
                f"{name}: column {field!r} of type {kind} holds no {wanted}; name another one with {role}", param=role
            )
    return [field for field, _ in roles]


def _is_metadata(field: pa.Field, name: str) -> bool:
    """Whether a column can be metadata. Raises InvalidArgument for an object that names a field twice."""
    try:
        return mapped(field.type) is not None or (field.name == "metadata" and mapped_object(field.type) is not None)
    except ValueError as error:
        raise InvalidArgument(f"{name}: column {field.name!r} cannot be read: {error}; rename one") from error


def batches(stream: "NativeFile", start: int, stop: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield rows [start, stop) in batches of at most ROWS.

    Parquet has no way into the middle of a row group: the one that holds `start` is decoded from its beginning.
    Raises Damaged, after the rows before the damage.
    """
    with content(stream):
        yield from _batches(stream, start, stop, columns)


def _batches(stream: "NativeFile", start: int, stop: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    file = pq.ParquetFile(stream, buffer_size=BLOCK, pre_buffer=False, page_checksum_verification=True, **_OPTIONS)
    row = 0
    for group in range(file.num_row_groups):
        end = row + file.metadata.row_group(group).num_rows
        if row < stop and start < end:
            for batch in file.iter_batches(ROWS, row_groups=[group], columns=columns):
                low, high = max(start - row, 0), min(stop - row, batch.num_rows)
                if low < high:
                    yield _decoded(batch.slice(low, high - low).select(columns))
                row += batch.num_rows
                if row >= stop:
                    return
        row = end


def records(found: Iterable[pa.RecordBatch], source: SourceSettings) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (row, record) or (row, reason why it is none), rows counted from 1.

    The vectors field of a record is a float32 (n,), or None where it is null. Metadata that cannot be kept as they are
    are `Unfit`.
    """
    required = {*source.id_fields, source.text_field, source.title_field}
    texts = {name for name, kind in declared_types(source.metadata_types).items() if kind == "string"}
    number = 0
    for batch in found:
        names = batch.schema.names
        columns = [
            _vectors(column) if field.name == source.vectors_field else _reader(field, texts)(column)
            for field, column in zip(batch.schema, batch.columns, strict=True)
        ]
        bad = _bad_rows(dict(zip(names, columns, strict=True)), required)
        for row, values in enumerate(zip(*columns, strict=True)):
            yield number + row + 1, (bad and bad.get(row)) or dict(zip(names, values, strict=False))
        number += batch.num_rows


def _reader(field: pa.Field, texts: Set[str]) -> Values:
    """What makes the values of a column; texts: columns of which decimals are kept as text."""
    if field.name == "metadata" and (read := mapped_object(field.type)) is not None:
        return read
    found = mapped(field.type, as_text=field.name in texts)
    assert found is not None, field  # checked when the build was planned
    return found.read


def _bad_rows(columns: dict[str, list[Any]], required: Set[str | None]) -> dict[int, str]:
    """Rows without a readable id, text or title, and why."""
    return {
        row: f"the field {name!r} is {value.reason}"
        for name, values in columns.items()
        if name in required and Unfit in set(map(type, values))
        for row, value in enumerate(values)
        if isinstance(value, Unfit)
    }


def _vectors(column: pa.Array) -> list[FloatArray | None]:
    """The rows of a column of lists, without a Python object for each number; a null within one is not a number."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    present = column.is_valid().to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    ends = np.cumsum(np.where(present, lengths, 0)).tolist()
    rows = zip(present.tolist(), [0, *ends], ends, strict=False)
    return [values[start:end] if there else None for there, start, end in rows]


def _decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch without dictionaries, which would be counted whole in the size of each of its slices."""
    columns = [column.dictionary_decode() if pt.is_dictionary(column.type) else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
