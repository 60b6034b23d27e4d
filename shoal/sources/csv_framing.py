"""Where the records of quoted text (CSV, and TSV with quotes) end, and where reading goes on behind a stray quote.

A record ends at a newline outside quotes. A quote that opens a value by mistake would swallow all records up to the
next one, so what it opened has to prove itself: it is a record if it closes as RFC 4180 has it and gives a value for
each column, unless it swallowed lines whose ids are numbered on from its own. If not, the lines that it swallowed are
looked at one by one: where most of them are records by themselves, the quote was stray, and only its own line is lost.
"""

import csv
import re
from typing import NamedTuple

from shoal.sources.lines import Line, Overlong, too_long

# The module's own limit of 128 KiB would make a long field an error; the lines that reach it are bounded already.
csv.field_size_limit(2**31 - 1)


NOT_CLOSED = "a quoted value opens here and is not closed as it should be"
"""Why a line with a stray quote is no record."""
_QUOTED = rb'"[^"]*(?:""[^"]*)*'
"""A quoted value without the quote that closes it."""
_VALUE = rb"(?:" + _QUOTED + rb'"|[^",]*)'
"""A value, quoted or not."""
_STRICT = _VALUE + rb"(?:," + _VALUE + rb")*\r?"
"""A line that is a record as RFC 4180 has it."""
_OPENING = rb"(?:" + _VALUE + rb",)*" + _QUOTED
"""A line in which a quoted value begins, behind whole values."""

_NUMBERED = re.compile(rb"(.*?)([0-9]{1,18})")
"""A value that ends with a number, such as an id."""


class Frame(NamedTuple):
    """Lines that belong together.

    lines: those of one record, to be parsed; none when they are no record. line_count: how many lines they are. reason:
    why they are no record, or None.
    """

    lines: list[bytes]
    line_count: int
    reason: str | None = None

    @property
    def is_blank(self) -> bool:
        """Whether it is neither a record nor a rejected one: a blank line."""
        return self.reason is None and not any(map(bytes.strip, self.lines))


class Framing:
    """Follows the lines of a file and puts those of one record together.

    It holds the lines of a record that is not complete, at most `limit` bytes, and looks at each line a few times at
    most, whatever the file holds. Behind a frame it begins anew, so that a file may be cut there.

    Args:
        columns: Values of a record.
        limit: Bytes of a record beyond which it is rejected.
        delimiter: What separates values.
    """

    def __init__(self, columns: int, limit: int, delimiter: str = ",") -> None:
        self._columns, self._limit, self._delimiter = columns, limit, delimiter
        self._strict = re.compile(_STRICT.replace(b",", re.escape(delimiter.encode())))
        self._opening = re.compile(_OPENING.replace(b",", re.escape(delimiter.encode())))
        self._held: list[bytes] = []
        self._length = 0
        self._passed_over = 0  # lines of a record beyond the limit, which are not held
        self._inside = False
        self.is_open = False
        """Whether the line that came last belongs to a record that is not complete."""

    def may_hold(self, line: Line) -> bool:
        """Whether the next line has to be added; if not, it is a record or a blank line by itself."""
        if self.is_open or not isinstance(line, bytes):
            return True
        return b'"' in line and self.parse(line) is None

    def add(self, line: Line) -> list[Frame]:
        """Take the next line. Returns the frames that are complete: they end with it or, if it `is_open`, before it."""
        frames = self._frames(line)
        self.is_open = bool(self._held or self._passed_over)
        return frames

    def _frames(self, line: Line) -> list[Frame]:
        if self._passed_over:
            return self._pass_over(line)
        if not self._held:
            return self._begin(line)
        self._length += len(line) + 1
        if isinstance(line, Overlong) or self._length > self._limit:
            return self._exceed(line)
        if b'"' not in line or self.parse(b'"' + line) is None:
            self._held.append(line)
            return []
        return self._close(line)

    def end(self) -> list[Frame]:
        """Return the frames of what is not complete at the end of the file."""
        if self._passed_over:
            count, self._passed_over = self._passed_over, 0
            return [Frame([], count, self._beyond)]
        if not self._held:
            return []
        held = self._take()
        if not any(map(bytes.strip, held[1:])) or self._is_stray(held[1:]):
            return self._resynchronised(held)
        return [Frame([], len(held), f"a quoted value is not closed before the end of the file {_lines(len(held))}")]

    def parse(self, text: bytes) -> list[str] | str | None:
        """Return the values of a record (in Latin-1), or what is wrong with it, or None when it ends inside quotes."""
        return parse(text.decode("latin-1"), self._delimiter)

    def is_strict(self, text: bytes) -> bool:
        """Whether quotes stand only around values."""
        return self._strict.fullmatch(text) is not None

    @property
    def _beyond(self) -> str:
        return f"{too_long(self._limit)}; or is a quote missing?"

    def _begin(self, line: Line) -> list[Frame]:
        if isinstance(line, Overlong):
            self._passed_over, self._inside = 0, False
            return self._pass_over(line)
        if b'"' not in line or self.parse(line) is not None:
            return [Frame([line], 1)]
        self._held, self._length = [line], len(line) + 1
        return []

    def _close(self, line: bytes) -> list[Frame]:
        """Take the line in which the quoted value ends, well or not."""
        held = self._take()
        values = self.parse(b"\n".join((*held, line)))
        if isinstance(values, list) and len(values) == self._columns:
            if self._count_on(held):
                return [*self._resynchronised(held), *self._begin(line)]
            return [Frame([*held, line], len(held) + 1)]
        inner = held[1:]
        broken = isinstance(values, str) and self._starts(line)
        if self._is_stray(inner) if any(map(bytes.strip, inner)) else broken:
            return [*self._resynchronised(held), *self._begin(line)]
        reason = values if isinstance(values, str) else miscounted(values or [], self._columns)
        return [Frame([], len(held) + 1, f"{reason} {_lines(len(held) + 1)}")]

    def _exceed(self, line: Line) -> list[Frame]:
        """Take the line that makes the record longer than the limit."""
        held = self._take()
        if self._is_stray(held[1:]):
            return [*self._resynchronised(held), *self._begin(line)]
        self._passed_over, self._inside = len(held), True
        return self._pass_over(line)

    def _pass_over(self, line: Line) -> list[Frame]:
        """Take a line of a record that is too long, up to where its quoted value ends."""
        self._passed_over += 1
        if isinstance(line, Overlong):
            self._inside ^= line.quotes % 2 == 1
        elif b'"' in line:
            # To continue inside quotes is the same as to start with one.
            self._inside = self.parse(b'"' + line) is None
        if self._inside:
            return []
        count, self._passed_over = self._passed_over, 0
        return [Frame([], count, self._beyond)]

    def _take(self) -> list[bytes]:
        held, self._held, self._length = self._held, [], 0
        return held

    def _is_stray(self, inner: list[bytes]) -> bool:
        """Whether most of the lines that a quote swallowed are records by themselves."""
        lines = [line for line in inner if line.strip()]
        return bool(lines) and 2 * sum(map(self._is_record, lines)) >= len(lines)

    def _count_on(self, lines: list[bytes]) -> bool:
        """Whether the first values of three lines or more are numbered one after another, which no text would be.

        Then even a quote that closes as it should was stray: the other one is part of a value, such as `19"`.
        """
        before: tuple[bytes, int] | None = None
        for line in lines:
            match = _NUMBERED.fullmatch(line.partition(self._delimiter.encode())[0])
            if match is None or (before is not None and before != (match[1], int(match[2]) - 1)):
                return False
            before = match[1], int(match[2])
        return len(lines) > 2 and all(map(self._is_record, lines[1:]))

    def _is_record(self, line: bytes) -> bool:
        """Whether a line is a whole record as RFC 4180 has it, with quotes only around values."""
        if b'"' not in line:
            return line.count(self._delimiter.encode()) + 1 == self._columns
        values = self.parse(line)
        return isinstance(values, list) and len(values) == self._columns and self.is_strict(line)

    def _starts(self, line: bytes) -> bool:
        """Whether a record may begin with a line: it is one, or opens a quoted value in its proper place."""
        return self._is_record(line) or self._opening.fullmatch(line) is not None

    def _resynchronised(self, held: list[bytes]) -> list[Frame]:
        """Give up the first line and all up to the next that is a record; from there every line stands for itself."""
        lost = next((number for number, line in enumerate(held[1:], 1) if self._is_record(line)), len(held))
        passed = f" {_lines(lost)}" if lost > 1 else ""
        frames = [Frame([], lost, f"{NOT_CLOSED}{passed}")]
        for line in held[lost:]:
            frames.append(Frame([line], 1) if self.parse(line) is not None else Frame([], 1, NOT_CLOSED))
        return frames


def parse(text: str, delimiter: str = ",") -> list[str] | str | None:
    """Return the values of a record, or what is wrong with it, or None when it ends inside quotes."""
    if '"' not in text and "\r" not in text:
        return text.split(delimiter)
    try:
        return next(csv.reader([text], strict=True, delimiter=delimiter), [])
    except csv.Error as error:
        return None if str(error) == "unexpected end of data" else f"broken CSV: {error}"


def miscounted(values: list[str], columns: int) -> str:
    """Say that a record has another number of values than there are columns."""
    return f"the record has {len(values)} values for {columns} columns"


def _lines(count: int) -> str:
    return f"({count:,} lines)"
