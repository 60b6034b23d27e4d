"""Small documents, made by hand or by the libraries that people make them with."""

import io
import zipfile
import zlib
from collections.abc import Sequence


def pdf(pages: Sequence[str], bookmarks: Sequence[tuple[int, str]] = (), stream: bytes | None = None) -> bytes:
    """A PDF of lines of text, by hand.

    Args:
        pages: The text of each page.
        bookmarks: Page, counted from 0, and title of each.
        stream: Content of all pages, in the place of their text; compressed in the file.
    """
    first = 5
    outline = first + 2 * len(pages)
    kids = " ".join(f"{first + 2 * number} 0 R" for number in range(len(pages)))
    root = (
        f"<< /Type /Catalog /Pages 2 0 R /Outlines {outline} 0 R >>"
        if bookmarks
        else "<< /Type /Catalog /Pages 2 0 R >>"
    )
    objects: list[bytes] = [
        root.encode(),
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        b"<< >>",
    ]
    for number, page in enumerate(pages):
        lines = "".join(f"({line.replace('(', '[').replace(')', ']')}) Tj T*\n" for line in page.split("\n"))
        content = zlib.compress(stream or f"BT /F1 12 Tf 14 TL 72 720 Td\n{lines}ET".encode("cp1252"))
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {first + 2 * number + 1} 0 R >>".encode(),
            b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(content), content),
        ]
    if bookmarks:
        numbers = range(outline + 1, outline + 1 + len(bookmarks))
        objects.append(f"<< /First {numbers[0]} 0 R /Last {numbers[-1]} 0 R /Count {len(numbers)} >>".encode())
        for number, (page_number, title) in zip(numbers, bookmarks, strict=True):
            following = f"/Next {number + 1} 0 R " if number != numbers[-1] else ""
            target = first + 2 * page_number
            objects.append(
                f"<< /Title ({title}) /Parent {outline} 0 R {following}/Dest [{target} 0 R /Fit] >>".encode()
            )
    return _file(objects)


def _file(objects: list[bytes]) -> bytes:
    made = bytearray(b"%PDF-1.7\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(made)
    made += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    made += b"".join(b"%010d 00000 n \n" % place for place in places)
    return bytes(made) + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)


def archive(members: dict[str, bytes | str]) -> bytes:
    """A zip archive."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return made.getvalue()


def lying(made: bytes, size: int) -> bytes:
    """An archive whose list of members gives the first of them another size."""
    place = made.index(b"PK\x01\x02") + 24
    return made[:place] + size.to_bytes(4, "little") + made[place + 4 :]


CONTENT_TYPES = (
    '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="xml" ContentType="application/xml"/>'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.'
    'wordprocessingml.document.main+xml"/></Types>'
)
"""What types the parts of a Word document have."""
RELATIONS = (
    '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
    'Target="word/document.xml"/></Relationships>'
)
"""Where its text is."""
_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def docx(paragraphs: Sequence[tuple[str, str]], declarations: str = "") -> bytes:
    """A Word document by hand.

    Args:
        paragraphs: Style, or an empty string, and XML text of each.
        declarations: What stands before the root of the XML.
    """
    styles = sorted({style for style, _ in paragraphs if style})
    body = "".join(
        "<w:p>"
        + (f'<w:pPr><w:pStyle w:val="{style.replace(" ", "")}"/></w:pPr>' if style else "")
        + f"<w:r><w:t>{text}</w:t></w:r></w:p>"
        for style, text in paragraphs
    )
    defined = "".join(
        f'<w:style w:type="paragraph" w:styleId="{style.replace(" ", "")}"><w:name w:val="{style}"/></w:style>'
        for style in styles
    )
    relation = (
        '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        '<Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/styles" '
        'Target="styles.xml"/></Relationships>'
    )
    return archive(
        {
            "[Content_Types].xml": CONTENT_TYPES,
            "_rels/.rels": RELATIONS,
            "word/_rels/document.xml.rels": relation,
            "word/styles.xml": f'<w:styles xmlns:w="{_WORD}">{defined}</w:styles>',
            "word/document.xml": f'{declarations}<w:document xmlns:w="{_WORD}"><w:body>{body}</w:body></w:document>',
        }
    )


def epub(chapters: Sequence[str], title: str = "A book", declarations: str = "", **more: str) -> bytes:
    """An EPUB by hand: chapters of HTML in their order; more members by name."""
    items = "".join(
        f'<item id="c{number}" href="text/c%20{number}.xhtml" media-type="application/xhtml+xml"/>'
        for number in range(len(chapters))
    )
    order = "".join(f'<itemref idref="c{number}"/>' for number in range(len(chapters)))
    package = (
        f'{declarations}<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<metadata><dc:title>{title}</dc:title></metadata><manifest>"
        '<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
        f'<item id="cover" href="cover.jpg" media-type="image/jpeg"/>{items}</manifest>'
        f'<spine><itemref idref="nav"/>{order}</spine></package>'
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    pages = {f"OPS/text/c {number}.xhtml": chapter for number, chapter in enumerate(chapters)}
    return archive(
        {"META-INF/container.xml": container, "OPS/book.opf": package, "OPS/nav.xhtml": "<p>Contents", **pages, **more}
    )


def laughs(depth: int = 30) -> str:
    """A document type whose entity `z` unfolds into 2 ** depth letters."""
    entities = "".join(f'<!ENTITY e{number} "&e{number - 1};&e{number - 1};">' for number in range(1, depth))
    return f'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY e0 "ha">{entities}<!ENTITY z "&e{depth - 1};">]>'
