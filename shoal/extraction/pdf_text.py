"""PDF as Markdown, by pypdf: the text of each page, with a form feed between pages, and bookmarks as headings.

A bookmark names a line of its page; that line becomes a heading. A bookmark whose text its page does not have is left
out: nothing is written that the page does not say. Lines become paragraphs (pdf_lines).
"""

import io
import re
from collections.abc import Iterator
from typing import Any

from shoal.extraction.document_types import MOST_CHARACTERS, Unreadable
from shoal.extraction.html_text import escaped
from shoal.extraction.pdf_lines import LIGATURES, paragraphs

MOST_PAGES = 20_000
"""Pages of a document beyond which it is rejected."""
MOST_BOOKMARKS = 20_000
"""Bookmarks that are looked at."""
_LEAST_LEVEL = 6
"""The deepest level of a heading."""


def extract(data: bytes) -> str:
    """Make Markdown of a PDF. Raises Unreadable for one that is encrypted, has no text or too much of it."""
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not reader.decrypt(""):
        raise Unreadable("is encrypted; remove its password")
    bookmarks = _bookmarks(reader)
    pages: list[str] = []
    length = 0
    for number, page in enumerate(reader.pages):
        if number >= MOST_PAGES:
            raise Unreadable(f"has more than {MOST_PAGES:,} pages; split it")
        text = page.extract_text().replace("\f", "\n").replace("\0", "")
        length += len(text)
        if length > MOST_CHARACTERS:
            raise Unreadable(f"holds more than {MOST_CHARACTERS:,} characters; split it")
        pages.append(text)
    if not any(page.strip() for page in pages):
        raise Unreadable("holds no text; a scan has to go through text recognition (OCR) first")
    headings = [_headings(page, bookmarks.get(number, [])) for number, page in enumerate(pages)]
    joined = paragraphs(pages, [frozenset(found) for found in headings])
    return "\f".join(map(_with_headings, joined, headings))


def _headings(text: str, bookmarks: list[tuple[int, str]]) -> dict[str, int]:
    """The lines of a page that bookmarks name, and their levels."""
    levels = {_folded(title): level for level, title in reversed(bookmarks)}
    lines = [line.translate(LIGATURES).rstrip() for line in text.split("\n")]
    return {line: levels.pop(folded) for line in lines if (folded := _folded(line)) in levels}


def _with_headings(lines: list[str], headings: dict[str, int]) -> str:
    """The lines of a page, the first one of each heading as such."""
    left = dict(headings)
    marked = []
    for line in lines:
        level = left.pop(line, 0)
        marked.append(f"\n{'#' * level} {line.strip()}\n" if level else escaped(line))
    return "\n".join(marked)


def _folded(title: str) -> str:
    """What a title has in common with its line, which may be numbered or spaced in another way."""
    return re.sub(r"^[\d.\s]+|\s+|\W+$", "", title.casefold())


def _bookmarks(reader: Any) -> dict[int, list[tuple[int, str]]]:
    """The bookmarks of a document by the page that they point to, counted from 0: level and title."""
    found: dict[int, list[tuple[int, str]]] = {}
    try:
        for _, (level, item) in zip(range(MOST_BOOKMARKS), _flat(reader.outline, 1), strict=False):
            page, title = reader.get_destination_page_number(item), str(item.title or "")
            if page is not None and page >= 0 and title.strip():
                found.setdefault(page, []).append((min(level, _LEAST_LEVEL), title))
    except MemoryError:
        raise
    except Exception:  # a broken outline takes nothing from the text
        return found
    return found


def _flat(outline: list[Any], level: int) -> Iterator[tuple[int, Any]]:
    for item in outline:
        if isinstance(item, list):
            yield from _flat(item, level + 1)
        else:
            yield level, item
