"""CSV and TSV. Every value is a string, whatever it looks like, and an empty one counts as absent.

CSV is RFC 4180: commas, and double quotes around values that hold commas, quotes (doubled) or newlines; what broken
quotes cost says `shoal.sources.csv_framing`. TSV comes in two kinds. In one, MS MARCO's, a value holds neither tabs nor
newlines, and quotes are part of it. In the other, that of pandas, it is CSV with tabs; `looks_quoted` tells them apart.
The first line names the columns unless the `columns` setting does.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import dropwhile
from typing import Any

from shoal.errors import InvalidArgument
from shoal.sources.csv_framing import NOT_CLOSED, Frame, Framing, miscounted, parse
from shoal.sources.files import BYTE_ORDER_MARK
from shoal.sources.lines import Line, Overlong

_NEEDS_QUOTES = re.compile(rb'(?:^|\t)"[^"]*(?:""|\t|\n)')
"""A quoted value with something in it that cannot stand in a value without quotes."""


def csv_records(
    blocks: Iterable[list[Line]], columns: list[str], limit: int, delimiter: str = ","
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (line it starts at, record) or (line, reason why it is none), lines counted from 1.

    Args:
        limit: Bytes of a whole record beyond which it is rejected; no more of it is held.
    """
    framing = Framing(len(columns), limit, delimiter)
    number = 1
    for lines in blocks:
        if not any(lines) and not framing.is_open:  # a block of nothing but line ends
            number += len(lines)
            continue
        for line in lines:
            # Nearly every record is one whole line, which need not be parsed twice.
            if type(line) is bytes and not framing.is_open:
                if not line.strip():
                    number += 1
                    continue
                if (record := _csv_record(line, columns, delimiter)) is not None:
                    yield number, record
                    number += 1
                    continue
            for frame in framing.add(line):
                yield from _framed(frame, number, columns, delimiter)
                number += frame.line_count
    for frame in framing.end():
        yield from _framed(frame, number, columns, delimiter)
        number += frame.line_count


def _framed(
    frame: Frame, number: int, columns: list[str], delimiter: str
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    if frame.reason is not None:
        yield number, frame.reason
    elif frame.line_count > 1 or frame.lines[0].strip():
        yield number, _csv_record(b"\n".join(frame.lines), columns, delimiter) or NOT_CLOSED


def tsv_records(blocks: Iterable[list[Line]], columns: list[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (line, record) or (line, reason why it is none), lines counted from 1."""
    number = 0
    for lines in blocks:
        if not any(lines):
            number += len(lines)
            continue
        for line in lines:
            number += 1
            if isinstance(line, Overlong):
                yield number, line.reason
            elif line.strip():
                try:
                    yield number, _named(line.rstrip(b"\r").decode().split("\t"), columns)
                except UnicodeDecodeError as error:
                    yield number, f"the line is not valid UTF-8 (byte {error.start + 1})"


def looks_quoted(head: bytes, whole: bool, has_header: bool = True) -> bool:
    """Whether a TSV file has quotes as CSV has them, by how those in its first bytes (all of it if `whole`) stand.

    Quotes speak for it that stand around a value which needs them (it holds a tab, a newline or doubled quotes), or
    around the name of a column. Quotes elsewhere speak against it, and so does a quoted value that does not end.
    """
    lines = head.split(b"\n")
    if not whole:
        lines.pop()
    lines = list(dropwhile(lambda line: not line.strip(b"\r"), lines))
    if b'"' not in head or not lines:
        return False
    first = lines[0].removeprefix(BYTE_ORDER_MARK)
    framing = Framing(first.count(b"\t") + 1, len(head) + 1, "\t")
    frames = [frame for line in [first, *lines[1:]] for frame in framing.add(line)]
    votes = 0
    for place, frame in enumerate(frames + (framing.end() if whole else [])):
        text = b"\n".join(frame.lines)
        if frame.reason is not None or not framing.is_strict(text):
            votes -= 1
        elif b'"' in text and ((has_header and place == 0) or _NEEDS_QUOTES.search(text)):
            votes += 1
    return votes > 0


def header(head: bytes, whole: bool, name: str, delimiter: str, *, quoted: bool) -> tuple[list[str], int, int]:
    """Return the column names of a header line, the offset of the first record and its line.

    Args:
        head: The first bytes of the file, all of it if `whole`.
        quoted: Whether names may stand in quotes.

    Raises:
        InvalidArgument: A header that cannot be read.
    """
    lines: list[bytes] = []
    inside = False
    for line in head.split(b"\n"):
        lines.append(line)
        # To continue inside quotes is the same as to start with one.
        inside = quoted and parse(('"' if inside else "") + line.decode("latin-1"), delimiter) is None
        if not inside and line.strip(b"\r"):
            break
    text = b"\n".join(lines)
    if len(text) == len(head) and not whole:
        raise InvalidArgument(
            f"{name} has a header line of more than {len(head):,} bytes; name its columns with columns"
        )
    if b"\r" in text.rstrip(b"\r") and b"\n" not in head:
        raise InvalidArgument(
            f"{name} ends its lines with carriage returns; convert it, for example with tr '\\r' '\\n'"
        )
    if b"\0" in text:
        raise InvalidArgument(f"{name} is UTF-16; convert it, for example with iconv -f UTF-16 -t UTF-8")
    try:
        names = text.decode("utf-8-sig").lstrip("\r\n").rstrip("\r")
        columns = next(csv.reader([names], strict=True, delimiter=delimiter), []) if quoted else names.split(delimiter)
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"{name} is not UTF-8 (byte {error.start + 1} of its header line); convert it, for example with iconv "
            "-f WINDOWS-1252 -t UTF-8"
        ) from error
    except csv.Error as error:
        raise InvalidArgument(f"{name} has no readable header line ({error}); name its columns with columns") from error
    if len(set(columns)) < len(columns):
        raise InvalidArgument(f"{name} names a column twice ({', '.join(columns)[:500]}); correct its header line")
    return columns, min(len(text) + 1, len(head)), len(lines) + 1


def delimiter_remedy(columns: list[str], delimiter: str) -> str | None:
    """What to do about a header line that is one column because other characters stand between the names, or None."""
    if len(columns) != 1:
        return None
    found = next((other for other in ("\t", ",", ";", "|") if other != delimiter and other in columns[0]), None)
    match found:
        case None:
            return None
        case "\t":
            return "its values are separated by tabs: set format to tsv"
        case ",":
            return "its values are separated by commas: set format to csv"
        case _:
            return (
                f"its values are separated by {found!r}; convert it to commas, or to tabs with a name that ends in .tsv"
            )


def _csv_record(text: bytes, columns: list[str], delimiter: str) -> dict[str, Any] | str | None:
    """Return a record, or why it is none, or None if it ends inside quotes."""
    try:
        values = parse(text.decode(), delimiter)
    except UnicodeDecodeError as error:
        # Whether it ends inside quotes does not depend on what is between them.
        whole = parse(text.decode("latin-1"), delimiter) is not None
        return f"the record is not valid UTF-8 (byte {error.start + 1})" if whole else None
    return values if values is None or isinstance(values, str) else _named(values, columns)


def _named(values: list[str], columns: list[str]) -> dict[str, Any] | str:
    if len(values) != len(columns):
        return f"{miscounted(values, len(columns))} ({', '.join(columns)[:200]})"
    return {name: value for name, value in zip(columns, values, strict=True) if value}
