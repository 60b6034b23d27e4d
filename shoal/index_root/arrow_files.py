"""Arrow files that are opened as if a stranger had written them.

Arrow takes lengths and offsets on trust: a file with others would have it read beyond the file, which ends the process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from shoal.errors import CorruptIndex


def open_batches(path: Path, schema: pa.Schema) -> list[pa.RecordBatch]:
    """Map the record batches of an IPC file and look at every value of them.

    Raises:
        CorruptIndex: The file does not have these columns, or its values are not what their lengths and types say.
    """
    try:
        file = pa.memory_map(str(path))
        reader = pa.ipc.open_file(file)
        if reader.schema.equals(schema):
            mapped = file.read_buffer(file.size()) if reader.num_record_batches else None
            batches = (checked(reader.get_batch(number)) for number in range(reader.num_record_batches))
            return [uncompressed(batch, mapped) for batch in batches]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptIndex(f"{path} is not an Arrow file ({error}); restore it or activate another version") from error
    raise CorruptIndex(f"{path} does not have the columns {', '.join(schema.names)}; build the index again")


@contextmanager
def damage_of(place: str) -> Iterator[None]:
    """Turn what Arrow says of the content of a file into CorruptIndex, which names its place.

    A disk or a network that fails stays what it is.
    """
    try:
        yield
    except pa.ArrowInvalid as error:
        raise CorruptIndex(
            f"{place} is not an Arrow file that a build writes ({error}); restore it or activate another version"
        ) from error


def checked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a record batch as it is. Raises pyarrow.ArrowInvalid where its values are not what they should be."""
    batch.validate(full=True)
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if column.null_count and not field.nullable:
            raise pa.ArrowInvalid(f"column {field.name} has missing values")
    return batch


def uncompressed(batch: pa.RecordBatch, file: pa.Buffer) -> pa.RecordBatch:
    """Return a record batch whose values all lie in the bytes of its file. Raises ValueError where one was unpacked."""
    end = file.address + file.size
    if not all(file.address <= buffer.address <= buffer.address + buffer.size <= end for buffer in _buffers(batch)):
        raise ValueError("it is compressed")
    return batch


def _buffers(batch: pa.RecordBatch) -> Iterator[pa.Buffer]:
    # An empty buffer may lie anywhere.
    return (buffer for column in batch.columns for buffer in column.buffers() if buffer is not None and buffer.size)
