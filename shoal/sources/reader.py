"""Reads one unit of a plan: the records of a byte range, a row range, a spooled piece or a group of text files."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from shoal.index_root import layout
from shoal.records import Passage
from shoal.sources import delimited, documents, json_lines, parquet
from shoal.sources.chunking import Chunker
from shoal.sources.fields import BadRecord, FieldMapping, check_id
from shoal.sources.files import BLOCK, BYTE_ORDER_MARK, Damaged, decompressed, opened
from shoal.sources.lines import Line, behind, range_blocks, split_lines

if TYPE_CHECKING:
    from shoal.index_root.storage import Storage
    from shoal.indexing.plan import Plan, Unit
    from shoal.settings import SourceSettings


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that gives no passage.

    record: its place within the unit, counted from 1: the line it starts at, its row (Parquet) or its file (text).
    reason: why, in plain words, naming the field.
    id: its id, when that much could be read.
    """

    record: int
    reason: str
    id: str | None = None


def record_limit(source: "SourceSettings") -> int:
    """Bytes of one raw record beyond which it is not read; always room for a text of `max_passage_bytes`.

    JSON may take 6 bytes to escape one. A text that is to be cut into passages may be longer than a passage.
    """
    limit = 6 * source.max_passage_bytes + BLOCK
    return limit if source.chunk_characters is None else max(limit, documents.MAX_BYTES)


class UnitReader:
    """Iterates once over a unit, in input order: `(record, Passage)` for each passage, `Rejected` for each bad record.

    `record` is the place of the record within the unit, as in `Rejected`; passages cut from one record share it.
    After the iteration `lines` is how many places the unit has (lines, blank ones included; rows; files). `Plan.place`
    turns a place into a file and a line.
    Never raises for a bad record or a damaged file, of which everything before the damage is kept; raises
    InvalidArgument for a file that may not be read or has changed since the plan, and Unavailable for one that cannot
    be reached at the moment.
    """

    def __init__(self, plan: "Plan", unit: "Unit", staging: "Storage") -> None:
        self.lines = 0
        self._plan, self._unit, self._staging = plan, unit, staging
        self._file = plan.files[unit.file]
        source = plan.source
        self._chunker = Chunker(source.chunk_characters, source.chunk_overlap) if source.chunk_characters else None
        self._mapping = FieldMapping(source, plan.encoder.dim, limit_text=self._chunker is None)

    def __iter__(self) -> Iterator[tuple[int, Passage] | Rejected]:
        if self._file.unreadable is not None and self._plan.source.format != "text":
            self.lines = 1
            yield Rejected(1, f"the file {self._file.unreadable}")
            return
        try:
            yield from self._items()
        except Damaged as error:
            # A damaged page of Parquet. The next unit may lie in a row group that is whole.
            first, self.lines = self.lines + 1, self._unit.stop - self._unit.start
            yield Rejected(
                first, f"the file is damaged ({error}): {self.lines - first + 1} rows cannot be read from here on"
            )
        damage = self._file.damage
        if damage is not None and self._unit.start + 1 == self._file.pieces:
            self.lines += 1
            yield Rejected(self.lines, f"the file is damaged ({damage}): nothing can be read from here on")

    def _items(self) -> Iterator[tuple[int, Passage] | Rejected]:
        with self._opened() as found:
            for record, fields in found:
                if isinstance(fields, str):
                    yield Rejected(record, fields)
                    continue
                try:
                    passage = self._mapping.passage(fields)
                    if self._chunker is None:
                        yield record, passage
                    else:
                        for piece in list(self._pieces(passage)):
                            yield record, piece
                except BadRecord as bad:
                    yield Rejected(record, bad.reason, bad.id)

    @contextmanager
    def _opened(self) -> Iterator[Iterable[tuple[int, dict[str, Any] | str]]]:
        unit, file = self._unit, self._file
        if self._plan.source.format == "text":
            self.lines = unit.stop - unit.start
            yield documents.records(self._plan.files[unit.start : unit.stop])
        elif file.pieces is not None:
            path = layout.spool(self._plan.hash, unit.file, unit.start)
            with (
                self._staging.errors(path),
                self._staging.open_input(path) as raw,
                pa.CompressedInputStream(raw, "zstd") as stream,
            ):
                if file.rows is None:
                    yield self._from_lines(iter(lambda: stream.read(BLOCK), b""))
                else:
                    yield self._from_rows(pa.ipc.open_stream(stream))
        elif file.compression is not None:
            with opened(file) as stream, suppress(Damaged):
                yield self._from_lines(behind(decompressed(stream, file.compression), file.first))
        else:
            with opened(file) as stream:
                if file.rows is None:
                    yield self._from_lines(range_blocks(stream, unit.start, unit.stop, file.first))
                else:
                    yield self._from_rows(parquet.batches(stream, unit.start, unit.stop, file.columns or []))

    def _from_rows(self, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, dict[str, Any] | str]]:
        for row, record in parquet.records(batches, self._plan.source.vectors_field):
            self.lines = row
            yield row, record

    def _from_lines(self, blocks: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any] | str]]:
        limit = record_limit(self._plan.source)
        if self._unit.start == 0:
            blocks = _without_mark(blocks)
        lines = self._counted(split_lines(blocks, limit))
        columns = self._file.columns or []
        match self._plan.source.format:
            case "csv":
                return delimited.csv_records(lines, columns, limit)
            case "tsv":
                return delimited.tsv_records(lines, columns)
            case _:
                return json_lines.records(lines)

    def _counted(self, blocks: Iterable[list[Line]]) -> Iterator[list[Line]]:
        for lines in blocks:
            self.lines += len(lines)
            yield lines

    def _pieces(self, passage: Passage) -> Iterator[Passage]:
        assert self._chunker is not None
        markdown = self._plan.source.format == "text" and passage.id.lower().endswith(documents.MARKDOWN)
        for number, text in enumerate(self._chunker.chunks(passage.text, markdown=markdown), 1):
            identity = check_id(f"{passage.id}#{number}", "id")
            yield Passage(identity, text, passage.title, passage.metadata)


def _without_mark(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = iter(blocks)
    if (block := next(rest, None)) is not None:
        yield block.removeprefix(BYTE_ORDER_MARK)
        yield from rest


def read_unit(plan: "Plan", unit: "Unit", staging: "Storage") -> UnitReader:
    """Read a unit. `staging` is the index root, where spooled pieces lie below `layout.staging_dir(plan.hash)`."""
    return UnitReader(plan, unit, staging)
