"""HTML as Markdown, by the parser of the standard library: headings, paragraphs, lists, tables, code.

What no reader sees (scripts, styles, hidden elements) is left out, and what stands around the text of a page:
navigation, footers and asides, or, where a page says what its main part is, all the rest.
"""

import re
from collections import Counter
from html.parser import HTMLParser

from shoal.extraction.document_types import Unreadable

_UNSEEN = frozenset(
    [
        "script",
        "style",
        "noscript",
        "template",
        "svg",
        "math",
        "canvas",
        "iframe",
        "object",
        "audio",
        "video",
        "select",
        "button",
        "datalist",
        "dialog",
        "map",
    ]
)
"""Elements whose text is not read."""
_AROUND = frozenset({"nav", "footer", "aside"})
"""Elements around the text of a page."""
_AROUND_ROLES = frozenset({"navigation", "contentinfo", "complementary", "banner", "search"})
"""Roles of such elements."""
_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"]
)
"""Elements without an end."""
_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "caption",
        "center",
        "dd",
        "details",
        "dir",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "header",
        "hgroup",
        "hr",
        "html",
        "legend",
        "li",
        "main",
        "menu",
        "nav",
        "ol",
        "p",
        "section",
        "summary",
        "table",
        "tbody",
        "tfoot",
        "thead",
        "tr",
        "ul",
    ]
)
"""Elements that text does not flow across."""
_LISTS = frozenset({"ul", "ol", "menu", "dir"})
"""Elements of items."""
_BREAK = "\0"
"""Stands for a line end in collected text."""
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
"""Levels of headings."""
_CHARSET = re.compile(
    rb"""<(?:meta[^>]{0,200}?charset|\?xml[^>]{0,200}?encoding)\s*=\s*["']?\s*([\w.:-]{1,40})""", re.I
)
"""Where a page names its encoding."""
_HEAD_BYTES = 4096
"""Bytes in which it may."""
_LOOKS_LIKE_MARKUP = re.compile(r"^(\s{0,3})(#{1,6}\s|`{3}|~{3}|={3,}\s*$|-{3,}\s*$)")
"""What would be a heading or code in Markdown, at the beginning of a paragraph."""


def extract(data: bytes) -> str:
    """Make Markdown of a page. Raises Unreadable for one without text, or in an encoding that is not known."""
    return markdown_of(_decoded(data))


def markdown_of(page: str, *, deeper: int = 0) -> str:
    """Make Markdown of the text of a page. Raises Unreadable for one without text.

    Args:
        deeper: Levels by which headings lie deeper than the page says.
    """
    parser = _Page(deeper)
    parser.feed(page)
    parser.close()
    return parser.markdown()


def escaped(line: str) -> str:
    """Return a line of plain text that Markdown takes for no heading and no code."""
    return _LOOKS_LIKE_MARKUP.sub(r"\1\\\2", line)


def _decoded(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    found = _CHARSET.search(data[:_HEAD_BYTES])
    named = found[1].decode("ascii").lower() if found else None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Browsers read what is called ISO-8859-1 as Windows-1252, which holds it.
        name = "cp1252" if named in ("iso-8859-1", "latin1", "us-ascii", "ascii") else named
        if name is None or name.replace("-", "") == "utf8":
            raise Unreadable(f"is not valid UTF-8 (byte {error.start + 1}) and names no other encoding") from error
        try:
            return data.decode(name, "replace")
        except LookupError:
            raise Unreadable(f"is in the encoding {name}, which is not known") from None


class _Page(HTMLParser):
    """Collects the blocks of a page. What is in no main part is dropped at the end if there is a main part."""

    def __init__(self, deeper: int) -> None:
        super().__init__(convert_charrefs=True)
        self._deeper = deeper
        self._blocks: list[tuple[bool, str]] = []  # whether in the main part, and the block
        self._words: list[str] = []
        self._open: list[tuple[str, str]] = []  # elements that matter, and those of their names: name and reason
        self._counts: Counter[str] = Counter()  # of names and of reasons in there
        self._cells: list[str] | None = None  # of the row that is open
        self._in_cell = False
        self._rows = 0
        self._lists: list[int | None] = []  # numbers of the items of lists that are open, None without
        self._marker = ""
        self._heading = 0
        self._title: list[str] = []
        self._in_title = False

    # --- elements ---------------------------------------------------------------------------------------------------

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Enter an element."""
        if tag == "title" and not self._counts["unseen"]:
            self._in_title = True
            return
        if tag not in _VOID:
            self._enter(tag, _reason(tag, dict(attrs)))
        if tag == "br":
            self._words.append(_BREAK)
        elif tag in _HEADINGS:
            self._flush()
            self._heading = _HEADINGS[tag]
        elif tag in ("td", "th"):
            self._end_cell()
            self._cells, self._in_cell = self._cells or [], True
        elif tag == "tr":
            self._end_row()
        elif tag in _BLOCKS:
            self._begin_block(tag)

    def _enter(self, tag: str, reason: str) -> None:
        if reason:
            self._flush()
        if reason or self._counts[f"<{tag}>"]:  # the end of an inner element is not that of the outer one
            self._open.append((tag, reason))
            self._counts.update((f"<{tag}>", reason))

    def _begin_block(self, tag: str) -> None:
        if self._in_cell:
            self._words.append(" ")
            return
        self._flush()
        if tag in _LISTS:
            self._lists.append(0 if tag == "ol" else None)
        elif tag == "li":
            self._marker = self._next_marker()
        elif tag == "table":
            self._rows = 0

    def _next_marker(self) -> str:
        indentation = "  " * max(len(self._lists) - 1, 0)
        number = self._lists[-1] if self._lists else None
        if number is None:
            return f"{indentation}- "
        self._lists[-1] = number + 1
        return f"{indentation}{number + 1}. "

    def handle_endtag(self, tag: str) -> None:
        """Leave an element."""
        if tag == "title":
            self._in_title = False
        elif tag in _HEADINGS:
            self._flush()
            self._heading = 0
        elif tag in ("td", "th"):
            self._end_cell()
        elif tag in ("tr", "table"):
            self._end_row()
        elif tag in _BLOCKS and not self._in_cell:
            self._flush()
            if tag in _LISTS and self._lists:
                self._lists.pop()
                self._marker = ""
        if self._counts[f"<{tag}>"]:
            self._leave(tag)

    def _leave(self, tag: str) -> None:
        """Close the innermost element of this name; those in it whose ends are missing end with it."""
        self._flush()
        while True:
            name, reason = self._open.pop()
            self._counts.subtract((f"<{name}>", reason))
            if name == tag:
                return

    # --- text -------------------------------------------------------------------------------------------------------

    def handle_data(self, data: str) -> None:
        """Take text."""
        if self._in_title:
            self._title.append(data)
        elif not self._counts["unseen"]:
            self._words.append(data.replace(_BREAK, ""))

    def _text(self) -> str:
        """The text that was collected, its white space collapsed but for code."""
        text = "".join(self._words)
        self._words = []
        if self._counts["code"]:
            return text.replace(_BREAK, "\n")
        return "\n".join(filter(None, (" ".join(line.split()) for line in text.split(_BREAK))))

    def _end_cell(self) -> None:
        if self._in_cell and self._cells is not None:
            self._cells.append(" ".join(self._text().split()).replace("|", "\\|"))
        self._in_cell = False

    def _end_row(self) -> None:
        self._end_cell()
        cells, self._cells = self._cells, None
        if cells and any(cells):
            rule = "\n|" + " --- |" * len(cells) if self._rows == 0 else ""
            self._add(f"| {' | '.join(cells)} |{rule}", glued=self._rows > 0)
            self._rows += 1

    def _flush(self) -> None:
        """End the block of text that was collected."""
        if self._in_cell:
            return
        text = self._text()
        if not text.strip():
            return
        if self._counts["code"]:
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
            self._add(f"{fence}\n{text.strip(chr(10))}\n{fence}")
        elif self._heading:
            level = min(self._heading + self._deeper, 6)
            self._add(f"{'#' * level} {' '.join(text.split()).rstrip('¶').rstrip()}")
        else:
            marker, self._marker = self._marker, ""
            self._add(marker + "\n".join(map(escaped, text.split("\n"))), glued=bool(marker) and self._after_item())

    def _after_item(self) -> bool:
        return bool(self._blocks) and bool(re.match(r"\s*(-|\d+\.) ", self._blocks[-1][1].rpartition("\n")[2]))

    def _add(self, block: str, *, glued: bool = False) -> None:
        is_main = self._counts["main"] > 0
        if self._counts["around"] and not is_main:
            return
        if glued and self._blocks and self._blocks[-1][0] == is_main:
            self._blocks.append((is_main, "\n" + block))
        else:
            self._blocks.append((is_main, "\n\n" + block))

    def markdown(self) -> str:
        """Return what the page says. Raises Unreadable if it says nothing."""
        self._end_row()
        self._flush()
        has_main = any(is_main for is_main, _ in self._blocks)
        text = "".join(block for is_main, block in self._blocks if is_main or not has_main).strip()
        if not text:
            raise Unreadable("holds no text")
        title = " ".join("".join(self._title).split())
        if title and not re.search(r"(?m)^# ", text) and not self._deeper:
            return f"# {title}\n\n{text}"
        return text


def _reason(tag: str, attributes: dict[str, str | None]) -> str:
    """How an element changes the reading of the text in it: unseen, around, main, code, or not at all."""
    role = attributes.get("role") or ""
    if tag in _UNSEEN or "hidden" in attributes or attributes.get("aria-hidden") == "true":
        return "unseen"
    if tag in _AROUND or role in _AROUND_ROLES:
        return "around"
    if tag == "main" or role == "main":
        return "main"
    return "code" if tag == "pre" else ""
