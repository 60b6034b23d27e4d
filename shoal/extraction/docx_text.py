"""Word documents as Markdown: mammoth makes HTML of styles, lists and tables, without images."""

import io

from shoal.extraction.archives import check_archive
from shoal.extraction.html_text import markdown_of

_STYLES = "\n".join(
    ["p[style-name='Title'] => h1:fresh"]
    + [f"p[style-name='Heading {level}'] => h{level + 1}:fresh" for level in range(1, 6)]
    + ["p[style-name='Heading 6'] => h6:fresh"]
)
"""Styles of paragraphs that are headings; those of sections lie below the title of the document."""


def extract(data: bytes) -> str:
    """Make Markdown of a document. Raises Unreadable for one without text, or that unfolds into too much."""
    import mammoth

    check_archive(data)
    no_image = mammoth.images.img_element(lambda image: {})
    made = mammoth.convert_to_html(io.BytesIO(data), style_map=_STYLES, convert_image=no_image)
    return markdown_of(made.value)
