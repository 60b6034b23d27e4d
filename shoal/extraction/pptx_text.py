"""PowerPoint presentations as Markdown, by python-pptx: a slide is a page, its title a heading; notes come last."""

import io
from collections.abc import Iterable, Iterator
from typing import Any

from shoal.extraction.archives import check_archive
from shoal.extraction.document_types import Unreadable
from shoal.extraction.html_text import escaped


def extract(data: bytes) -> str:
    """Make Markdown of a presentation. Raises Unreadable for one without text, or that unfolds into too much."""
    from pptx import Presentation

    check_archive(data)
    slides = ["\n\n".join(_slide(slide)) for slide in Presentation(io.BytesIO(data)).slides]
    if not any(slide.strip() for slide in slides):
        raise Unreadable("holds no text")
    return "\f".join(slides)


def _slide(slide: Any) -> Iterator[str]:
    title = slide.shapes.title
    if title is not None and (words := " ".join(title.text_frame.text.split())):
        yield f"# {words}"
    for shape in _shapes(slide.shapes):
        if title is not None and shape.shape_id == title.shape_id:
            continue
        if getattr(shape, "has_table", False):
            yield _table(shape.table)
        elif shape.has_text_frame and (text := _paragraphs(shape.text_frame)):
            yield text
    if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame) is not None:
        yield from filter(None, [_paragraphs(notes)])


def _shapes(shapes: Iterable[Any]) -> Iterator[Any]:
    """The shapes of a slide, those of groups among them."""
    for shape in shapes:
        if hasattr(shape, "shapes"):
            yield from _shapes(shape.shapes)
        else:
            yield shape


def _paragraphs(frame: Any) -> str:
    lines = (paragraph.text.replace("\v", "\n").strip() for paragraph in frame.paragraphs)
    return "\n".join(escaped(line) for text in lines if text for line in text.split("\n"))


def _table(table: Any) -> str:
    rows = [[" ".join(cell.text.split()).replace("|", "\\|") for cell in row.cells] for row in table.rows]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines[:1], "|" + " --- |" * len(rows[0]), *lines[1:]]) if rows else ""
