"""CSV and TSV. Every value is a string, whatever it looks like, and an empty one counts as absent.

CSV is RFC 4180: commas, and double quotes around values that hold commas, quotes (doubled) or newlines. TSV has no
quoting: a value holds neither tabs nor newlines. The first line names the columns unless the `columns` setting does.
"""

import csv
from collections.abc import Iterable, Iterator
from typing import Any

from shoal.errors import InvalidArgument
from shoal.sources.lines import Line, Overlong, too_long

# The module's own limit of 128 KiB would make a long field an error; the lines that reach it are bounded already.
csv.field_size_limit(2**31 - 1)


class Framing:
    """Follows the lines of a CSV file and knows where records end: at newlines outside quotes."""

    def __init__(self) -> None:
        self._inside = False

    def ends_record(self, line: Line) -> bool:
        """Whether the record that holds this line ends with it. To be called for every line, in order."""
        if isinstance(line, Overlong):
            self._inside ^= line.quotes % 2 == 1
        elif b'"' in line:
            # To continue inside quotes is the same as to start with one.
            text = line.decode("latin-1")
            self._inside = _parse('"' + text if self._inside else text) is None
        return not self._inside


def csv_records(
    blocks: Iterable[list[Line]], columns: list[str], limit: int
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (line it starts at, record) or (line, reason why it is none), lines counted from 1.

    limit: bytes of a whole record beyond which it is rejected; no more of it is held.
    """
    framing = Framing()
    held: list[bytes] = []
    number = start = length = 0
    for lines in blocks:
        for line in lines:
            number += 1
            if not start and isinstance(line, bytes):
                if not line.strip():
                    continue
                # Nearly every record is one whole line, which need not be parsed twice.
                if (record := _csv_record(line, columns)) is not None:
                    yield number, record
                    continue
            start = start or number
            length += len(line) + 1
            if length > limit:
                held.clear()
            elif isinstance(line, bytes):
                held.append(line)
            if framing.ends_record(line):
                record = _csv_record(b"\n".join(held), columns) if length <= limit else None
                yield start, record or f"{too_long(limit)}; or is a quote missing?"
                held, start, length = [], 0, 0
    if start:
        yield start, "a quoted value is not closed before the end of the file"


def tsv_records(blocks: Iterable[list[Line]], columns: list[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (line, record) or (line, reason why it is none), lines counted from 1."""
    number = 0
    for lines in blocks:
        for line in lines:
            number += 1
            if isinstance(line, Overlong):
                yield number, line.reason
            elif line.strip():
                try:
                    yield number, _named(line.rstrip(b"\r").decode().split("\t"), columns)
                except UnicodeDecodeError as error:
                    yield number, f"the line is not valid UTF-8 (byte {error.start + 1})"


def header(head: bytes, whole: bool, name: str, *, quoted: bool) -> tuple[list[str], int, int]:
    """Return the column names of a header line, the offset of the first record and its line.

    head: the first bytes of the file, all of it if `whole`. Raises InvalidArgument for a header that cannot be read.
    """
    framing = Framing()
    lines: list[bytes] = []
    for line in head.split(b"\n"):
        lines.append(line)
        if not quoted or framing.ends_record(line):
            break
    text = b"\n".join(lines)
    if len(text) == len(head) and not whole:
        raise InvalidArgument(
            f"{name} has a header line of more than {len(head):,} bytes; name its columns with columns"
        )
    try:
        names = text.decode("utf-8-sig").rstrip("\r")
        columns = next(csv.reader([names], strict=True), []) if quoted else names.split("\t")
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidArgument(f"{name} has no readable header line ({error}); name its columns with columns") from error
    if len(set(columns)) < len(columns):
        raise InvalidArgument(f"{name} names a column twice ({', '.join(columns)[:500]}); correct its header line")
    return columns, min(len(text) + 1, len(head)), len(lines) + 1


def _csv_record(text: bytes, columns: list[str]) -> dict[str, Any] | str | None:
    """Return a record, or why it is none, or None if it ends inside quotes."""
    try:
        values = _parse(text.decode())
    except UnicodeDecodeError as error:
        # Whether it ends inside quotes does not depend on what is between them.
        whole = _parse(text.decode("latin-1")) is not None
        return f"the record is not valid UTF-8 (byte {error.start + 1})" if whole else None
    return values if values is None or isinstance(values, str) else _named(values, columns)


def _parse(text: str) -> list[str] | str | None:
    """Return the values of a record, or what is wrong with it, or None when it ends inside quotes."""
    if '"' not in text and "\r" not in text:
        return text.split(",")
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        return None if str(error) == "unexpected end of data" else f"broken CSV: {error}"


def _named(values: list[str], columns: list[str]) -> dict[str, Any] | str:
    if len(values) != len(columns):
        return f"the record has {len(values)} values for {len(columns)} columns ({', '.join(columns)[:200]})"
    return {name: value for name, value in zip(columns, values, strict=True) if value}
