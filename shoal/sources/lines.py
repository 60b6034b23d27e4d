"""Lines of byte ranges and streams, in lists of a block each, in bounded memory however long a line is."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.sources.files import BLOCK

if TYPE_CHECKING:
    from pyarrow import NativeFile


@dataclass(frozen=True, slots=True)
class Overlong:
    """A line beyond the limit, of which only the head was kept.

    head: its first bytes, just more than the limit. length, quotes: bytes and double quotes of the whole line.
    """

    head: bytes
    length: int
    quotes: int

    def __len__(self) -> int:
        return self.length

    @property
    def reason(self) -> str:
        """Why there is no record."""
        return too_long(len(self.head) - 1)

    def stand_in(self) -> bytes:
        """Return a line that is overlong again when read, and as balanced in quotes as the whole one."""
        return self.head + (b'"' if (self.quotes - self.head.count(b'"')) % 2 else b"")


def too_long(limit: int) -> str:
    """Say why a record was not even read."""
    return f"the record is longer than {limit:,} bytes, more than max_passage_bytes allows for"


Line = bytes | Overlong
_TAIL = 2**16
"""Bytes read beyond a range to find the end of its last line, so that most ranges need no further read."""


def is_blank(line: Line) -> bool:
    """Whether a line holds nothing but white space."""
    return isinstance(line, bytes) and (not line or line.isspace())


def range_blocks(stream: "NativeFile", start: int, stop: int, first: int) -> Iterator[bytes]:
    """Yield the blocks of those lines of a file that start in bytes [start, stop); no line starts before `first`.

    Ranges that follow one another give every line exactly once, wherever they are cut.
    """
    position = max(start - 1, first)  # if the byte before is a newline, a line starts at `start` itself
    skipping = start > first
    stream.seek(position)
    while position < stop or not skipping:
        block = stream.read(min(BLOCK, max(stop - position, 0) + _TAIL))
        if not block:
            return
        if skipping:
            newline = block.find(b"\n")
            if newline < 0:
                position += len(block)
                continue
            skipping = False
            block = block[newline + 1 :]
            position += newline + 1
            if position >= stop:
                return
        # The last line of the range is the one that holds byte stop - 1.
        end = block.find(b"\n", max(0, stop - 1 - position))
        if end >= 0:
            yield block[: end + 1]
            return
        yield block
        position += len(block)


def behind(blocks: Iterable[bytes], first: int) -> Iterator[bytes]:
    """Leave out the first bytes of a stream."""
    for block in blocks:
        yield block[first:]
        first = max(first - len(block), 0)


def split_lines(blocks: Iterable[bytes], limit: int) -> Iterator[list[Line]]:
    """Yield the lines of a stream without their newlines, those that end in one block together.

    Memory: one block and one limit.

    Args:
        limit: Bytes of a line beyond which it becomes an `Overlong`; at least BLOCK.
    """
    parts: list[bytes] = []
    length = quotes = 0

    def line() -> Line:
        return b"".join(parts) if length <= limit else Overlong(b"".join(parts)[: limit + 1], length, quotes)

    for block in blocks:
        lines: list[Line] = list(block.split(b"\n"))
        head = lines[0]
        assert isinstance(head, bytes)
        if length <= limit:
            parts.append(head)
        length += len(head)
        quotes += head.count(b'"')
        if len(lines) == 1:
            continue
        lines[0] = line()
        tail = lines.pop()
        assert isinstance(tail, bytes)
        parts, length, quotes = [tail], len(tail), tail.count(b'"')
        yield lines
    if length:
        yield [line()]
