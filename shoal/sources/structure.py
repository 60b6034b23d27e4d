"""The blocks of Markdown and reStructuredText: headings, paragraphs, items of lists, tables, code; line by line.

Nothing is rendered. A passage is a part of a file as it stands, so that all that is looked for is where a text may be
cut, and under which headings it is.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple


class Block(NamedTuple):
    """A part of a text that is cut only if it must be. start, stop: half-open range of its characters.

    level: of a heading, from 1; 0 for any other block. title: what the heading says, without markup.
    """

    start: int
    stop: int
    level: int = 0
    title: str = ""


class _Line(NamedTuple):
    """A line. stop: behind the last of its characters that is no white space."""

    start: int
    stop: int
    text: str


_LINE = re.compile(r"[^\n]*\n|[^\n]+\Z")
"""A line with its end."""
_FENCE = re.compile(r"[\s>]*(?:[-*+]\s+|\d{1,9}[.)]\s+)?(`{3,}(?=[^`]*$)|~{3,})")
"""What opens code, also in an item of a list or in a quotation."""
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$")
"""A heading behind number signs."""
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
"""What makes a heading of the paragraph before it."""
_ITEM = re.compile(r" {0,3}(?:[-*+]|\d{1,9}[.)])[ \t]+\S")
"""The first line of an item of a list."""
_DELIMITER_ROW = re.compile(r"[ \t]*+\|?[ \t]*+:?-++:?[ \t]*+(?:\|[ \t]*+:?-++:?[ \t]*+)*+\|?[ \t]*+$")
"""The second line of a table. It gives nothing back that it has taken, or a long line would take time by its square."""
_LONGEST_ROW = 2000
"""Characters beyond which a line is not taken for such a row."""
_ADORNMENT = re.compile(r"([!-/:-@[-`{-~])\1*\s*$")
"""A line of one sign of punctuation, above or below a title of reStructuredText."""
_LEAST_ADORNMENT = 4
"""Signs of an adornment that may be shorter than its title."""
_EXPLICIT = re.compile(r"\.\.(?:\s|$)")
"""How directives, comments, footnotes and targets of reStructuredText begin."""
_MARKUP = [
    (re.compile(r"!?\[([^\]]*)\]\([^)]*\)"), r"\1"),
    (re.compile(r"\s*\{[#.:][^}]*\}\s*$"), ""),
    (re.compile(r":[\w:.+-]+:`([^`<]*?)(?:\s*<[^>]*>)?`"), r"\1"),
    (re.compile(r"[`*]|(?<!\w)_+|_+(?!\w)"), ""),
]
"""Markup in headings, and what it becomes."""
_LONGEST_HEADING = 300
"""Characters beyond which a line that looks like a heading is a paragraph."""


def markdown_blocks(text: str, start: int = 0, stop: int | None = None) -> list[Block]:
    """Return the blocks of a part of a Markdown text, in order; only white space lies between them."""
    return list(_Markdown(_lines(text, start, stop)).blocks())


def rst_blocks(text: str) -> list[Block]:
    """Return the blocks of a text in reStructuredText, in order; only white space lies between them."""
    return list(_Restructured(_lines(text, 0, None)).blocks())


def plain_heading(title: str) -> str:
    """Return a heading without markup, its white space collapsed."""
    for pattern, replacement in _MARKUP:
        title = pattern.sub(replacement, title)
    return " ".join(title.rstrip("¶").split())


def _lines(text: str, start: int, stop: int | None) -> list[_Line]:
    found = _LINE.finditer(text, start, len(text) if stop is None else stop)
    return [_Line(match.start(), match.start() + len(match[0].rstrip()), match[0].rstrip("\r\n")) for match in found]


class _Markdown:
    """Follows the lines of a Markdown text."""

    def __init__(self, lines: list[_Line]) -> None:
        self._lines = lines
        self._place = 0

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks."""
        if (front := self._front_matter()) is not None:
            yield front
        while self._place < len(self._lines):
            line = self._lines[self._place]
            if not line.text.strip():
                self._place += 1
            elif fence := _FENCE.match(line.text):
                yield self._code(fence[1])
            elif (heading := _heading(line)) is not None:
                self._place += 1
                yield heading
            else:
                yield self._paragraph()

    def _front_matter(self) -> Block | None:
        if not self._lines or self._lines[0].start or self._lines[0].text.rstrip() != "---":
            return None
        for place in range(1, len(self._lines)):
            if self._lines[place].text.rstrip() in ("---", "..."):
                self._place = place + 1
                return Block(0, self._lines[place].stop)
        return None

    def _code(self, fence: str) -> Block:
        """Code up to its closing fence, or to the end."""
        first = self._lines[self._place]
        closing = re.compile(rf"[\s>]*{re.escape(fence[0])}{{{len(fence)},}}\s*$")
        self._place += 1
        while self._place < len(self._lines):
            self._place += 1
            if closing.match(self._lines[self._place - 1].text):
                break
        return Block(first.start, self._lines[self._place - 1].stop)

    def _paragraph(self) -> Block:
        """Lines up to a blank one or to the beginning of another block, or a heading of lines with a line below."""
        first = self._lines[self._place]
        starts_item = bool(_ITEM.match(first.text))
        self._place += 1
        while self._place < len(self._lines):
            line = self._lines[self._place]
            is_plain = not starts_item and first.text.lstrip()[:1] not in (">", "|")
            if is_plain and (match := _SETEXT.match(line.text)) and self._place_length(first) <= _LONGEST_HEADING:
                self._place += 1
                words = " ".join(each.text for each in self._since(first)[:-1])
                return Block(first.start, line.stop, 1 if match[1][0] == "=" else 2, plain_heading(words))
            if self._ends_paragraph(line):
                break
            self._place += 1
        return Block(first.start, self._lines[self._place - 1].stop)

    def _ends_paragraph(self, line: _Line) -> bool:
        if not line.text.strip() or _FENCE.match(line.text) or _ITEM.match(line.text) or _heading(line) is not None:
            return True
        follows = self._lines[self._place + 1].text if self._place + 1 < len(self._lines) else ""
        # A table begins with its header, which a delimiter row follows.
        may_be = "|" in line.text and "|" in follows and len(follows) <= _LONGEST_ROW
        return may_be and bool(_DELIMITER_ROW.match(follows))

    def _place_length(self, first: _Line) -> int:
        return self._lines[self._place].start - first.start

    def _since(self, first: _Line) -> list[_Line]:
        count = self._place
        while self._lines[count - 1].start > first.start:
            count -= 1
        return self._lines[count - 1 : self._place]


def _heading(line: _Line) -> Block | None:
    if len(line.text) > _LONGEST_HEADING or (match := _ATX.match(line.text)) is None:
        return None
    return Block(line.start, line.stop, len(match[1]), plain_heading(match[2] or ""))


class _Restructured:
    """Follows the lines of a text in reStructuredText."""

    def __init__(self, lines: list[_Line]) -> None:
        self._lines = lines
        self._place = 0
        self._styles: list[tuple[str, bool]] = []  # of titles, in the order of their levels

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks."""
        while self._place < len(self._lines):
            line = self._lines[self._place]
            if not line.text.strip():
                self._place += 1
            elif (title := self._title()) is not None:
                yield title
            else:
                yield self._paragraph(line)

    def _title(self) -> Block | None:
        """A line of text with an adornment below it, and maybe one above."""
        texts = [line.text for line in self._lines[self._place : self._place + 3]]
        has_overline = len(texts) == 3 and bool(_ADORNMENT.match(texts[0])) and texts[0].strip() == texts[2].strip()
        over = 1 if has_overline else 0
        if len(texts) < over + 2 or not (match := _ADORNMENT.match(texts[over + 1])):
            return None
        title, width = texts[over].strip(), len(texts[over + 1].strip())
        is_words = bool(title) and not _ADORNMENT.match(title) and len(title) <= _LONGEST_HEADING
        if not is_words or width < min(len(title), _LEAST_ADORNMENT) or (not over and texts[0][:1].isspace()):
            return None
        style = (match[1], bool(over))
        if style not in self._styles:
            self._styles.append(style)
        first = self._lines[self._place]
        self._place += over + 2
        return Block(
            first.start, self._lines[self._place - 1].stop, self._styles.index(style) + 1, plain_heading(title)
        )

    def _paragraph(self, first: _Line) -> Block:
        """Lines up to a blank one; a directive with all that is indented below it, as code behind `::` is."""
        self._place += 1
        while self._place < len(self._lines):
            text = self._lines[self._place].text
            if not text.strip() or _EXPLICIT.match(text) or _ITEM.match(text):
                break
            self._place += 1
        if _EXPLICIT.match(first.text) or self._lines[self._place - 1].text.rstrip().endswith("::"):
            self._pass_indented()
        return Block(first.start, self._lines[self._place - 1].stop)

    def _pass_indented(self) -> None:
        """Go on behind the last of the indented lines that follow, blank ones between them included."""
        for place in range(self._place, len(self._lines)):
            text = self._lines[place].text
            if text.strip():
                if not text[:1].isspace():
                    return
                self._place = place + 1
