"""Reads one unit of a plan: the records of a byte range, a row range, a spooled piece or a group of text files."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from shoal import layout
from shoal.chunking import Chunker
from shoal.records import Passage
from shoal.sources import delimited, documents, json_lines, parquet
from shoal.sources.fields import BadRecord, FieldMapping, check_id
from shoal.sources.files import BLOCK, opened, readable
from shoal.sources.lines import Line, range_blocks, split_lines

if TYPE_CHECKING:
    from shoal.plan import Plan, Unit
    from shoal.settings import SourceSettings
    from shoal.storage import Storage


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
    """Bytes of one raw record beyond which it is not read: room for JSON's escapes (6 bytes for 1) and other fields.

    A text that is to be cut may be longer than a passage.
    """
    longest = source.max_passage_bytes if source.chunk_characters is None else max(source.max_passage_bytes, documents.MAX_BYTES)
    return 6 * longest + BLOCK


class UnitReader:
    """Iterates once over a unit, in input order: `(record, Passage)` for each passage, `Rejected` for each bad record.

    `record` is the place of the record within the unit, as in `Rejected`; passages cut from one record share it.
    After the iteration `lines` is how many places the unit has (lines, blank ones included; rows; files) and `records`
    how many of them were records. `Plan.place` turns a place into a file and a line.
    Never raises for a bad record; raises InvalidArgument for a file that cannot be read or has changed since the plan.
    """

    def __init__(self, plan: "Plan", unit: "Unit", staging: "Storage") -> None:
        self.lines = 0
        self.records = 0
        self._plan, self._unit, self._staging = plan, unit, staging
        self._file = plan.files[unit.file]
        source = plan.source
        self._chunker = Chunker(source.chunk_characters, source.chunk_overlap) if source.chunk_characters else None
        self._mapping = FieldMapping(source, limit_text=self._chunker is None)

    def __iter__(self) -> Iterator[tuple[int, Passage] | Rejected]:
        with self._opened() as found:
            for record, fields in found:
                self.records += 1
                if isinstance(fields, str):
                    yield Rejected(record, fields)
                    continue
                try:
                    passage = self._mapping.passage(fields)
                    if self._chunker is None:
                        yield record, passage
                    else:
                        for piece in self._pieces(passage):
                            yield record, piece
                except BadRecord as bad:
                    yield Rejected(record, bad.reason, bad.id)
        damage = self._file.damage
        if damage is not None and self._unit.start + 1 == self._file.pieces:
            self.lines += 1
            self.records += 1
            yield Rejected(self.lines, f"the file is damaged ({damage}): nothing can be read from here on")

    @contextmanager
    def _opened(self) -> Iterator[Iterable[tuple[int, dict[str, Any] | str]]]:
        unit, file = self._unit, self._file
        if self._plan.source.format == "text":
            self.lines = unit.stop - unit.start
            yield documents.records(self._plan.files[unit.start : unit.stop])
        elif file.pieces is not None:
            path = layout.spool(self._plan.hash, unit.file, unit.start)
            with self._staging.open_input(path) as raw, pa.CompressedInputStream(raw, "zstd") as stream:
                yield self._from_lines(iter(lambda: stream.read(BLOCK), b""))
        else:
            with opened(file) as stream:
                if file.rows is not None:
                    self.lines = unit.stop - unit.start
                    yield parquet.records(stream, unit.start, unit.stop, file.columns or [])
                else:
                    yield self._from_lines(range_blocks(stream, unit.start, unit.stop, file.first))

    def _from_lines(self, blocks: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any] | str]]:
        limit = record_limit(self._plan.source)
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
        markdown = self._plan.source.format == "text" and self._file.name.endswith(documents.MARKDOWN)
        for number, text in enumerate(self._chunker.chunks(passage.text, markdown=markdown), 1):
            identity = check_id(f"{passage.id}#{number}", "id")
            yield Passage(identity, text, passage.title, passage.metadata)


def read_unit(plan: "Plan", unit: "Unit", staging: "Storage") -> UnitReader:
    """Read a unit. `staging` is the index root, where spooled pieces lie below `layout.staging_dir(plan.hash)`."""
    return UnitReader(plan, unit, staging)
