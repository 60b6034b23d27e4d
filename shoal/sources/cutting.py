"""Cuts documents into passages that know where they stand: under which headings, on which page or line.

A passage is a part of its document, at most `characters` long. A section that fits is one passage, and short ones that
follow one another share one; what does not fit is cut at the headings below, then between blocks, and only a block that
is too long by itself is cut inside. So what is inserted somewhere changes the passages of its own section, and not of
those behind it.
"""

import itertools
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from shoal.sources.chunking import Chunker
from shoal.sources.structure import Block, markdown_blocks, rst_blocks

SEPARATOR = " > "
"""What stands between the headings of a title."""
_LONGEST_TITLE = 200
"""Characters of a title, beyond which its outer headings are left out."""
_MARKDOWN = (".md", ".markdown")
"""Endings of files whose lines are those of the Markdown that is cut."""
_RST = (".rst", ".rest")
"""Endings of files in reStructuredText."""
_PAGED = (".pdf", ".pptx")
"""Endings of files of pages, which a form feed ends in their text."""
_EXTRACTED = (".html", ".htm", ".xhtml", ".docx", ".epub", *_PAGED)
"""Endings of files that Markdown is made of: their lines are not those of the file."""
_NO_HEADING = 1000
"""Level of what begins without a heading."""


class Piece(NamedTuple):
    """A part of a document. title: the headings above it, or None. page, line: where it begins, counted from 1."""

    text: str
    title: str | None = None
    page: int | None = None
    line: int | None = None


class Cutter:
    """Cuts documents by their names: `.md` and what Markdown is made of, `.rst`, and plain text, which has no headings.

    Args:
        characters: The most of one passage.
        overlap: Characters that passages share which are cut out of one block or one plain text.
    """

    def __init__(self, characters: int, overlap: int) -> None:
        self._characters = characters
        self._chunker = cache(lambda most: Chunker(most, min(overlap, most - 1)))

    def pieces(self, name: str, text: str, title: str | None = None) -> list[Piece]:
        """Return the passages of a document; empty for a blank one.

        Args:
            name: Of the document; its ending says how it is read.
            text: Of the document: of files that are not text themselves the Markdown that is made of them.
            title: Of the whole document, which the headings are below.
        """
        name = name.lower()
        if name.endswith(_PAGED):
            return self._pages(text, title)
        if name.endswith(_RST):
            return self._located(text, self._sections(text, rst_blocks(text), _Headings(title)))
        if name.endswith((*_MARKDOWN, *_EXTRACTED)):
            spans = self._sections(text, markdown_blocks(text), _Headings(title))
            if name.endswith(_EXTRACTED):
                return [Piece(text[start:stop], path) for start, stop, path in spans]
            return self._located(text, spans)
        plain = self._chunker(self._characters).pieces(text)
        return self._located(text, ((start, start + len(piece), title) for start, piece in plain))

    def _pages(self, text: str, title: str | None) -> list[Piece]:
        headings = _Headings(title)
        pieces: list[Piece] = []
        start = 0
        for number, page in enumerate(text.split("\f"), 1):
            stop = start + len(page)
            spans = self._sections(text, markdown_blocks(text, start, stop), headings)
            pieces += [Piece(text[first:last], path, number) for first, last, path in spans]
            start = stop + 1
        return pieces

    def _located(self, text: str, spans: "Iterator[_Span]") -> list[Piece]:
        """Pieces of a file of text, with their lines."""
        pieces = []
        place, line = 0, 1
        for start, stop, path in spans:
            # Pieces that overlap begin before the one that came last has ended.
            passed = text.count("\n", place, start) if start >= place else -text.count("\n", start, place)
            place, line = start, line + passed
            pieces.append(Piece(text[start:stop], path, line=line))
        return pieces

    def _sections(self, text: str, blocks: list[Block], headings: "_Headings") -> "Iterator[_Span]":
        """Yield the spans of passages, and below which headings they are."""
        units = _units(blocks, headings)
        for first, last in self._packed(units, 0, len(units)):
            if last - first == 1 and not self._fits(units, first, last):
                for start, stop in self._cut(text, units[first]):
                    yield start, stop, units[first].title
            else:
                yield units[first].start, units[last - 1].stop, _title(_common(units[first:last]))

    def _fits(self, units: "list[_Unit]", first: int, last: int) -> bool:
        return units[last - 1].stop - units[first].start <= self._characters

    def _packed(self, units: "list[_Unit]", first: int, last: int) -> list[tuple[int, int]]:
        """Half-open ranges of units that share a passage, out of a range of them."""
        if first == last:
            return []
        if self._fits(units, first, last):
            return [(first, last)]
        level = min((unit.level for unit in units[first + 1 : last]), default=_NO_HEADING)
        if level == _NO_HEADING:
            return self._filled(units, first, last)
        edges = [first, *(place for place in range(first + 1, last) if units[place].level == level), last]
        packed: list[tuple[int, int]] = []
        for start, stop in itertools.pairwise(edges):
            section = self._packed(units, start, stop)
            if packed and len(section) == 1 and self._may_share(units, packed[-1], section[0]):
                packed[-1] = (packed[-1][0], stop)
            else:
                packed += section
        return packed

    def _may_share(self, units: "list[_Unit]", one: tuple[int, int], other: tuple[int, int]) -> bool:
        """Whether sections are short. A longer one begins anew, so that what is inserted moves nothing behind it."""
        half = self._characters // 2
        short = all(units[last - 1].stop - units[first].start <= half for first, last in (one, other))
        return short and self._fits(units, one[0], other[1])

    def _filled(self, units: "list[_Unit]", first: int, last: int) -> list[tuple[int, int]]:
        packed = []
        start = first
        for place in range(first + 1, last):
            if not self._fits(units, start, place + 1):
                packed.append((start, place))
                start = place
        return [*packed, (start, last)]

    def _cut(self, text: str, unit: "_Unit") -> Iterator[tuple[int, int]]:
        """Cut what is too long for one passage; the headings before it stay with its beginning."""
        start = unit.start
        lead = unit.content - start
        if 0 < lead <= self._characters // 2:
            room = self._characters - lead
            head = self._chunker(room).pieces(text[unit.content : unit.content + 4 * room])
            stop = unit.content + head[0].start + len(head[0].text)
            yield start, stop
            start = stop
        for piece in self._chunker(self._characters).pieces(text[start : unit.stop]):
            yield start + piece.start, start + piece.start + len(piece.text)


_Span = tuple[int, int, str | None]
"""Half-open range of characters, and the title of the passage."""


class _Unit(NamedTuple):
    """Headings and the block that follows on them, which are never in two passages unless they do not fit into one.

    content: where the block begins behind the headings. level: the highest of the headings.
    """

    start: int
    content: int
    stop: int
    level: int
    path: tuple[str, ...]

    @property
    def title(self) -> str | None:
        return _title(self.path)


class _Headings:
    """The headings above a place of a document."""

    def __init__(self, title: str | None) -> None:
        self._open: list[tuple[int, str]] = [(0, title)] if title else []

    def enter(self, level: int, title: str) -> None:
        """Pass a heading."""
        self._open = [(above, text) for above, text in self._open if above < level]
        if title:
            self._open.append((level, title))

    @property
    def path(self) -> tuple[str, ...]:
        """From the outermost heading to the innermost."""
        return tuple(text for _, text in self._open)


def _units(blocks: list[Block], headings: _Headings) -> list[_Unit]:
    units: list[_Unit] = []
    leading: list[Block] = []
    for block in blocks:
        if block.level:
            headings.enter(block.level, block.title)
            leading.append(block)
            continue
        level = min((heading.level for heading in leading), default=_NO_HEADING)
        units.append(_Unit((leading or [block])[0].start, block.start, block.stop, level, headings.path))
        leading = []
    if leading:  # headings at the end, with nothing below them
        level = min(heading.level for heading in leading)
        units.append(_Unit(leading[0].start, leading[0].start, leading[-1].stop, level, headings.path))
    return units


def _common(units: list[_Unit]) -> tuple[str, ...]:
    """The headings that all have above them; where they have none in common, those of the first that has any."""
    paths = [unit.path for unit in units if unit.path] or [()]
    depth = 0
    while all(len(path) > depth and path[depth] == paths[0][depth] for path in paths):
        depth += 1
    return paths[0][:depth] or paths[0]


def _title(path: tuple[str, ...]) -> str | None:
    while len(path) > 1 and len(SEPARATOR.join(path)) > _LONGEST_TITLE:
        path = path[1:]
    return SEPARATOR.join(path)[:_LONGEST_TITLE] or None
