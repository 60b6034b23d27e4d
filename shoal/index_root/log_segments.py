"""Segments: copies of many consecutive entries of the log in one file, so that who is far behind reads few files.

A segment is a pure function of its entries, so that whoever writes it writes the same. It adds nothing to them.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from shoal.errors import CorruptIndex
from shoal.index_root import layout
from shoal.index_root.arrow_files import checked, uncompressed
from shoal.index_root.entry_store import EntryStore

SEGMENT_ENTRIES = 1000
"""Entries of a segment, at most; the first of a thousand begins one."""
SEGMENT_BYTES = 2**26
"""Bytes of the entries of a segment, at most: it is read into memory. A larger entry lies in no segment."""
SEGMENT_SCHEMA = pa.schema(
    [pa.field("position", pa.int64(), nullable=False), pa.field("entry", pa.large_binary(), nullable=False)]
)
"""Columns of a segment: the file of each entry as it is."""
_SEGMENT = re.compile(rf"{layout.LOG_SEGMENTS}(\d{{20}})-(\d{{20}})\.arrow")
"""Names of segments."""


def segment_ranges(store: EntryStore) -> list[tuple[int, int]]:
    """Look for all segments: positions of the first and last entry of each, ascending."""
    names = store.names(layout.LOG_SEGMENTS)
    return [(int(found[1]), int(found[2])) for name in names if (found := _SEGMENT.fullmatch(name))]


def write_thousand(
    store: EntryStore, number: int, is_wanted: Callable[[], bool] = lambda: True
) -> list[tuple[int, int]]:
    """Write the segments of a thousand of entries, counted from 0; return their positions, up to an entry that is gone.

    Memory: the entries of one segment, and as many more as are read at once. Asks before each entry whether segments
    are still wanted, and returns without one that is not complete where they are not.
    """
    begin, end = number * SEGMENT_ENTRIES + 1, (number + 1) * SEGMENT_ENTRIES
    ranges: list[tuple[int, int]] = []
    first, files, size = begin, list[bytes](), 0
    for position, data in enumerate(_read(store, begin, end), begin):
        if not is_wanted():
            return ranges
        if size + len(data) > SEGMENT_BYTES:
            ranges += _write(store, first, files)
            first, files, size = position, [], 0
        if len(data) > SEGMENT_BYTES:
            first = position + 1
        else:
            files.append(data)
            size += len(data)
    return ranges + _write(store, first, files)


def _read(store: EntryStore, begin: int, end: int) -> Iterator[bytes]:
    """Read the files of entries, until one is gone."""
    with ThreadPoolExecutor(store.read_ahead) as pool:
        for start in range(begin, end + 1, store.read_ahead):
            positions = range(start, min(start + store.read_ahead, end + 1))
            for data in pool.map(store.read, map(layout.log_entry, positions)):
                if data is None:
                    return
                yield data


def _write(store: EntryStore, first: int, files: Sequence[bytes]) -> list[tuple[int, int]]:
    """Write a segment of several entries; one entry alone needs none."""
    if len(files) < 2:
        return []
    last = first + len(files) - 1
    store.create(layout.log_segment(first, last), encode_segment(first, files))
    return [(first, last)]


def encode_segment(first: int, files: Sequence[bytes]) -> bytes:
    """Return the segment of entries whose positions follow each other."""
    columns = [pa.array(range(first, first + len(files)), pa.int64()), pa.array(files, pa.large_binary())]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SEGMENT_SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SEGMENT_SCHEMA))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_segment(data: bytes, first: int, last: int, place: str) -> list[bytes]:
    """Return the files of the entries of a segment, which have checksums of their own.

    Raises CorruptIndex, which names the place, for what is no segment of these positions.
    """
    try:
        buffer = pa.py_buffer(data)
        reader = pa.ipc.open_file(buffer)
        if not reader.schema.equals(SEGMENT_SCHEMA) or reader.num_record_batches != 1:
            raise ValueError("it has other columns")
        batch = uncompressed(checked(reader.get_batch(0)), buffer)
        # Counted first: the numbers are those of a file's name, which may say anything.
        if batch.num_rows != last + 1 - first or batch.column("position").to_pylist() != list(range(first, last + 1)):
            raise ValueError("it has other positions")
        files: list[bytes] = batch.column("entry").to_pylist()
    except (pa.ArrowException, ValueError, OSError, MemoryError) as error:
        raise CorruptIndex(
            f"{place} is not a segment of the log as it was written ({error}); remove this file: it only repeats "
            f"entries that lie in {layout.LOG_ENTRIES}"
        ) from error
    return files
