"""Reads one part of the input: the records of a byte range, a row range, a spooled piece or a group of text files."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from shoal.records import Passage
from shoal.settings import SourceSettings
from shoal.sources import delimited, documents, json_lines, parquet
from shoal.sources.fields import BadRecord, FieldMapping
from shoal.sources.files import BLOCK, BYTE_ORDER_MARK, Damaged, InputFile, decompressed, opened
from shoal.sources.lines import Line, behind, range_blocks, split_lines
from shoal.sources.pieces import PassageCutter


@dataclass(frozen=True, slots=True)
class InputPart:
    """What is read in one go: a range of one file, or some whole text files.

    files: the file, or the text files, in order.
    start, stop: half-open range: bytes of a plain file, rows of Parquet, or one piece of a spooled file (pieces count
    from 0). Not looked at where whole files are read: text files, and a compressed file that is not spooled.
    open_piece: opens the content of that piece, of a file that was spooled; None to read the file itself.
    """

    files: Sequence[InputFile]
    start: int
    stop: int
    open_piece: Callable[[], AbstractContextManager[pa.NativeFile]] | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that gives no passage.

    record: its place within the part, counted from 1: the line it starts at, its row (Parquet) or its file (text).
    reason: why, in plain words, naming the field.
    id: its id, when that much could be read.
    records: how many it stands for, where what follows it cannot be read either.
    """

    record: int
    reason: str
    id: str | None = None
    records: int = 1


def record_limit(source: SourceSettings) -> int:
    """Bytes of one raw record beyond which it is not read; always room for a text of `max_passage_bytes`.

    JSON may take 6 bytes to escape one. A text that is to be cut into passages may be longer than a passage.
    """
    limit = 6 * source.max_passage_bytes + BLOCK
    return limit if source.chunk_characters is None else max(limit, documents.MAX_BYTES)


class PassageReader:
    """Iterates once over a part, in input order: `(record, Passage)` for each passage, `Rejected` for each bad record.

    `record` is the place of the record within the part, as in `Rejected`; passages cut from one record share it.
    After the iteration `lines` is how many places the part has (lines, blank ones included; rows; files), and
    `left_out` how many metadata values its passages lack, by field and reason.
    Never raises for a bad record or a damaged file, of which everything before the damage is kept; raises
    InvalidArgument for a file that may not be read or is not the one that was listed, and Unavailable for one that
    cannot be reached at the moment.

    Args:
        part: What is read.
        source: How it is read, resolved: the format and the fields stand as they are used.
        dim: Numbers of a vector, for records that bring theirs.
        limit_text: Whether a text that is not cut here is at most `max_passage_bytes` long.
    """

    def __init__(self, part: InputPart, source: SourceSettings, dim: int, *, limit_text: bool = True) -> None:
        self.lines = 0
        self._part, self._source = part, source
        self._file = part.files[0]
        self._cutter = PassageCutter(source) if source.chunk_characters else None
        self._mapping = FieldMapping(source, dim, limit_text=limit_text and self._cutter is None)

    @property
    def left_out(self) -> Counter[str]:
        """Metadata values that were left out so far, as in `FieldMapping`."""
        return self._mapping.left_out

    def __iter__(self) -> Iterator[tuple[int, Passage] | Rejected]:
        if self._file.unreadable is not None and self._source.format != "text":
            self.lines = 1
            yield Rejected(1, f"the file {self._file.unreadable}")
            return
        try:
            yield from self._items()
        except Damaged as error:
            # A damaged page of Parquet. The next part may lie in a row group that is whole.
            first, self.lines = self.lines + 1, self._part.stop - self._part.start
            rows = self.lines - first + 1
            yield Rejected(
                first, f"the file is damaged ({error}): {rows} rows cannot be read from here on", records=max(rows, 1)
            )
        damage = self._file.damage
        if damage is not None and self._part.start + 1 == self._file.pieces:
            self.lines += 1
            yield Rejected(self.lines, f"the file is damaged ({damage}): nothing can be read from here on")

    def records(self) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """Yield each record as it stands in the part, with its place, or why it is none. Raises Damaged."""
        with self._opened() as records:
            yield from self._placed(records)

    def _items(self) -> Iterator[tuple[int, Passage] | Rejected]:
        with self._opened() as records:
            for record, fields in self._placed(records):
                if isinstance(fields, str):
                    yield Rejected(record, fields)
                    continue
                try:
                    passage = self._mapping.passage(fields)
                    if self._cutter is None:
                        yield record, passage
                    else:
                        for piece in self._cutter.cut(passage):
                            yield record, piece
                except BadRecord as bad:
                    yield Rejected(record, bad.reason, bad.id)

    @contextmanager
    def _opened(self) -> Iterator[Iterable[tuple[int, dict[str, Any] | str]]]:
        part, file = self._part, self._file
        if self._source.format == "text":
            self.lines = len(part.files)
            yield documents.records(part.files)
        elif part.open_piece is not None:
            with part.open_piece() as stream:
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
                    yield self._from_lines(range_blocks(stream, part.start, part.stop, file.first))
                else:
                    yield self._from_rows(parquet.batches(stream, part.start, part.stop, file.columns or []))

    def _placed(
        self, records: Iterable[tuple[int, dict[str, Any] | str]]
    ) -> Iterable[tuple[int, dict[str, Any] | str]]:
        """Add what the path of the file says of its records, where they do not say it themselves."""
        partition = self._file.partition
        if not partition or self._source.format == "text":
            return records
        return ((record, {**partition, **fields} if isinstance(fields, dict) else fields) for record, fields in records)

    def _from_rows(self, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, dict[str, Any] | str]]:
        for row, record in parquet.records(batches, self._source):
            self.lines = row
            yield row, record

    def _from_lines(self, blocks: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any] | str]]:
        limit = record_limit(self._source)
        if self._part.start == 0:
            blocks = _without_mark(blocks)
        lines = self._counted(split_lines(blocks, limit))
        columns = self._file.columns or []
        match self._source.format:
            case "csv":
                return delimited.csv_records(lines, columns, limit)
            case "tsv" if self._file.quoted:
                return delimited.csv_records(lines, columns, limit, "\t")
            case "tsv":
                return delimited.tsv_records(lines, columns)
            case _:
                return json_lines.records(lines)

    def _counted(self, blocks: Iterable[list[Line]]) -> Iterator[list[Line]]:
        for lines in blocks:
            self.lines += len(lines)
            yield lines


def _without_mark(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = iter(blocks)
    if (block := next(rest, None)) is not None:
        yield block.removeprefix(BYTE_ORDER_MARK)
        yield from rest
