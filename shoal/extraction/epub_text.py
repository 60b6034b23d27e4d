"""EPUB as Markdown, by the standard library: an archive of XHTML, whose package file names the order of chapters."""

import posixpath
import zipfile
from collections.abc import Iterator
from urllib.parse import unquote
from xml.etree import ElementTree

from shoal.extraction.archives import open_archive
from shoal.extraction.document_types import MOST_CHARACTERS, Unreadable
from shoal.extraction.html_text import markdown_of

_CONTAINER = "META-INF/container.xml"
"""What names the package file."""
_PAGES = ("application/xhtml+xml", "text/html")
"""Media types of chapters."""


def extract(data: bytes) -> str:
    """Make Markdown of a book. Raises Unreadable for one that is encrypted, has no text or too much of it."""
    with open_archive(data) as archive:
        if "META-INF/encryption.xml" in archive.namelist() and "META-INF/rights.xml" in archive.namelist():
            raise Unreadable("is encrypted")
        try:
            package = _package(archive)
            root = _parsed(archive.read(package))
            title = next((" ".join((node.text or "").split()) for node in _named(root, "title")), "")
            chapters = list(_chapters(archive, posixpath.dirname(package), root))
        except (KeyError, StopIteration) as error:
            raise Unreadable(f"lacks a part that it names ({error})") from error
    if not chapters:
        raise Unreadable("holds no text")
    return "\n\n".join([*([f"# {title}"] if title else []), *chapters])


def _package(archive: zipfile.ZipFile) -> str:
    return next(node.attrib["full-path"] for node in _named(_parsed(archive.read(_CONTAINER)), "rootfile"))


def _parsed(data: bytes) -> ElementTree.Element:
    # A document type may declare entities that unfold without end; what an EPUB needs has none.
    if b"<!ENTITY" in data:
        raise Unreadable("declares entities")
    return ElementTree.fromstring(data)  # noqa: S314 - without entities


def _named(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return (node for node in root.iter() if node.tag.rpartition("}")[2] == name)


def _chapters(archive: zipfile.ZipFile, folder: str, root: ElementTree.Element) -> Iterator[str]:
    """Yield the text of the chapters in the order of reading."""
    items = {node.attrib.get("id"): node.attrib for node in _named(root, "item")}
    length = 0
    for reference in _named(root, "itemref"):
        item = items[reference.attrib.get("idref")]
        if item.get("media-type") not in _PAGES or "nav" in item.get("properties", "").split():
            continue
        page = archive.read(posixpath.normpath(posixpath.join(folder, unquote(item["href"]))))
        try:
            text = markdown_of(page.decode("utf-8-sig", "replace"), deeper=1)
        except Unreadable:  # a cover, for example
            continue
        length += len(text)
        if length > MOST_CHARACTERS:
            raise Unreadable(f"holds more than {MOST_CHARACTERS:,} characters; split it")
        yield text
