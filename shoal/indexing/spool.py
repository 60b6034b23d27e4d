"""The one sequential pass over a file that can be cut no other way.

Compressed files, and Parquet of large row groups, become pieces in staging; CSV is scanned for the ends of its records.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from shoal.index_root import layout
from shoal.index_root.storage import Storage
from shoal.indexing.plan import UNIT_BYTES, Plan
from shoal.sources import parquet
from shoal.sources.csv_framing import Framing
from shoal.sources.files import BLOCK, Damaged, InputFile, decompressed, opened, readable
from shoal.sources.lines import Line, Overlong, behind, is_blank, split_lines
from shoal.sources.reader import record_limit

if TYPE_CHECKING:
    from pyarrow import NativeFile

T = TypeVar("T")


class Cuts(BaseModel):
    """What the pass over one file found; the fields are those of `InputFile`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    offsets: list[int] | None = None
    pieces: int | None = None
    damage: str | None = None
    unreadable: str | None = None


class Cutter:
    """Cuts the lines of one file behind the record that fills a unit.

    Args:
        records, size: How many records or bytes fill it; blank lines are neither, so that they fill no unit however
            many there are.
        limit: Bytes of a line beyond which only its head is kept.
        framing: Tells where records end, if quotes may hold newlines.
    """

    def __init__(self, records: int, size: int, *, limit: int, framing: Framing | None = None) -> None:
        self._records, self._size = records, size
        self._framing = framing
        self._limit = limit
        self.damage: str | None = None

    def parts(self, blocks: Iterable[bytes]) -> Iterator[tuple[list[Line], bool]]:
        """Yield lines of one unit, and whether they complete it. A damaged stream ends at its last whole line."""
        framing = self._framing
        records = size = 0
        try:
            for lines in split_lines(blocks, self._limit):
                start = 0
                if not any(lines) and (framing is None or not framing.is_open):
                    yield lines, False  # a block of nothing but line ends
                    continue
                for end, line in enumerate(lines, 1):
                    if framing is not None and framing.may_hold(line):
                        ended, is_open = sum(not frame.is_blank for frame in framing.add(line)), framing.is_open
                    else:
                        ended, is_open = int(not is_blank(line)), False
                    if ended:
                        records += ended
                        size += 0 if is_open else len(line) + 1
                        if records >= self._records or size >= self._size:
                            # A line that opens a record, and by that ends what was before it, goes to the next unit.
                            full = end - is_open
                            yield lines[start:full], True
                            start, records, size = full, 0, 0
                    size += len(line) + 1 if is_open else 0
                if start < len(lines):
                    yield lines[start:], False
        except Damaged as error:
            self.damage = str(error)


def spool(plan: Plan, storage: Storage) -> Plan:
    """Return the plan with its final units, after a pass over each pending file; none is read twice."""
    cuts = {index: spool_file(plan, index, storage) for index in plan.pending}
    files = [
        file.model_copy(update=cuts[index].model_dump()) if index in cuts else file
        for index, file in enumerate(plan.files)
    ]
    return plan.model_copy(update={"files": files})


def spool_file(plan: Plan, index: int, storage: Storage) -> Cuts:
    """Spool one pending file and commit its cuts to staging, unless that has been done. Safe to run in parallel.

    A compressed file, or Parquet of large row groups, becomes pieces in staging; CSV is only scanned for its records,
    and so is TSV with quotes.
    """
    commit = layout.spool_commit(plan.hash, index)
    if storage.exists(commit):
        cuts = Cuts.model_validate_json(storage.read(commit))
        # Clearing the staging folder may have been interrupted, and removes pieces in any order.
        if all(storage.exists(layout.spool(plan.hash, index, piece)) for piece in range(cuts.pieces or 0)):
            return cuts
    file = plan.files[index]
    limit = record_limit(plan.source)
    quoted = plan.source.format == "csv" or file.quoted
    delimiter = "," if plan.source.format == "csv" else "\t"
    framing = Framing(len(file.columns or []), limit, delimiter) if quoted else None
    cutter = Cutter(plan.unit_records, UNIT_BYTES, limit=limit, framing=framing)
    if file.rows is not None:
        cuts = write_rows(file, index, plan.unit_records, UNIT_BYTES, storage, plan.hash)
    elif file.compression is not None:
        cuts = write_pieces(file, index, cutter, storage, plan.hash)
    else:
        cuts = find_offsets(file, cutter)
    storage.write(commit, cuts.model_dump_json().encode())
    return cuts


@contextmanager
def open_piece(plan_hash: str, file: int, piece: int, storage: Storage) -> Iterator[pa.NativeFile]:
    """Open the content of one piece of a spooled file. Raises what `Storage.errors` raises."""
    path = layout.spool(plan_hash, file, piece)
    with storage.errors(path), storage.open_input(path) as raw, pa.CompressedInputStream(raw, "zstd") as stream:
        yield stream


def find_offsets(file: InputFile, cutter: Cutter) -> Cuts:
    """Find where the units of a plain file start. Raises what `opened` raises."""
    offsets = [file.first]
    position = file.first
    with opened(file) as stream:
        for lines, full in cutter.parts(_blocks(stream, file.first)):
            position += sum(len(line) + 1 for line in lines)
            if full and position < file.bytes:
                offsets.append(position)
    return Cuts(offsets=[*offsets, file.bytes])


def write_pieces(file: InputFile, index: int, cutter: Cutter, storage: Storage, plan_hash: str) -> Cuts:
    """Write the units of a compressed file to staging.

    Raises what `opened` raises; when the file breaks off, everything before that is kept.
    """
    assert file.compression is not None
    with opened(file) as stream:
        parts = _reading(file, cutter.parts(behind(decompressed(stream, file.compression), file.first)))
        pieces = _store(parts, _write_lines, storage, plan_hash, index)
        if cutter.damage is not None and not pieces:
            # The reader of the last piece reports the damage, so there has to be one.
            pieces = _store(iter([([], True)]), _write_lines, storage, plan_hash, index)
    return Cuts(pieces=pieces, damage=cutter.damage)


def write_rows(file: InputFile, index: int, records: int, size: int, storage: Storage, plan_hash: str) -> Cuts:
    """Write the units of a Parquet file to staging as Arrow IPC streams; so many rows or bytes fill one.

    Meant for row groups much larger than a unit, of which every unit would have to decode all rows before its own.
    Raises what `opened` raises; when the file is damaged, everything before that is kept.
    """
    assert file.rows is not None
    with opened(file) as stream:
        damage: list[str] = []
        rows = _rows(parquet.batches(stream, 0, file.rows, file.columns or []), records, size, damage)
        pieces = _store(_reading(file, rows), _write_rows, storage, plan_hash, index)
    if damage and not pieces:
        return Cuts(unreadable=f"is damaged ({damage[0]})")
    return Cuts(pieces=pieces, damage=damage[0] if damage else None)


def _reading(file: InputFile, parts: Iterator[T]) -> Iterator[T]:
    """Tell what goes wrong with the input from what goes wrong with the pieces that are written meanwhile."""
    with readable(file.name):
        yield from parts


def _store(
    parts: Iterator[tuple[T, bool]],
    write: Callable[[pa.NativeFile, Iterator[T]], None],
    storage: Storage,
    plan_hash: str,
    index: int,
) -> int:
    """Write parts to pieces, each through a local file, and return how many pieces that gave.

    Every part says whether it completes its piece.
    """
    pieces = 0
    with storage.scratch(layout.scratch(plan_hash)) as folder:
        while (part := next(parts, None)) is not None:
            path = folder / "piece"
            with pa.CompressedOutputStream(str(path), "zstd") as output:
                write(output, _piece(part, parts))
            storage.put(path, layout.spool(plan_hash, index, pieces))
            pieces += 1
    return pieces


def _piece(part: tuple[T, bool], parts: Iterator[tuple[T, bool]]) -> Iterator[T]:
    for content, full in chain([part], parts):
        yield content
        if full:
            return


def _write_lines(output: pa.NativeFile, parts: Iterator[list[Line]]) -> None:
    for lines in parts:
        output.write(b"".join((line.stand_in() if isinstance(line, Overlong) else line) + b"\n" for line in lines))


def _write_rows(output: pa.NativeFile, parts: Iterator[pa.RecordBatch]) -> None:
    first = next(parts)
    with pa.ipc.new_stream(output, first.schema) as writer:
        for batch in chain([first], parts):
            writer.write_batch(batch)


def _rows(
    batches: Iterable[pa.RecordBatch], records: int, size: int, damage: list[str]
) -> Iterator[tuple[pa.RecordBatch, bool]]:
    """Yield rows of one unit, and whether they complete it. A damaged file ends where it is, and `damage` says why."""
    left, room = records, size
    try:
        for batch in batches:
            start = 0
            while start < batch.num_rows:
                part = batch.slice(start, left)
                while part.nbytes > room and part.num_rows > 1:
                    part = part.slice(0, part.num_rows // 2)
                start, left, room = start + part.num_rows, left - part.num_rows, room - part.nbytes
                full = not left or room <= 0
                yield part, full
                if full:
                    left, room = records, size
    except Damaged as error:
        damage.append(str(error))


def _blocks(stream: "NativeFile", first: int) -> Iterator[bytes]:
    stream.seek(first)
    while block := stream.read(BLOCK):
        yield block
