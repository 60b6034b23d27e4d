"""The types of documents that Markdown is made of, what each of them needs, and which module reads it."""

from collections.abc import Iterable
from importlib.metadata import version
from importlib.util import find_spec
from typing import NamedTuple

EXTRA = "documents"
"""The extra that brings the libraries."""
MIB = 2**20
"""Bytes."""
MOST_BYTES = 256 * MIB
"""A longer file is rejected: it is held in memory while it is read."""
MOST_CHARACTERS = 64 * MIB
"""Text of one document beyond which it is rejected."""


class DocumentType(NamedTuple):
    """How files of an ending are read.

    reader: module of this package, whose function `extract` makes Markdown of bytes. package: that it imports, if that
    is no part of Python. text_share: characters of text for one byte of a file, about, as files usually are.
    """

    reader: str
    package: str | None
    text_share: float


DOCUMENT_TYPES: dict[str, DocumentType] = {
    ".html": DocumentType("html_text", None, 0.3),
    ".htm": DocumentType("html_text", None, 0.3),
    ".xhtml": DocumentType("html_text", None, 0.3),
    ".pdf": DocumentType("pdf_text", "pypdf", 0.05),
    ".docx": DocumentType("docx_text", "mammoth", 0.1),
    ".pptx": DocumentType("pptx_text", "pptx", 0.01),
    ".epub": DocumentType("epub_text", None, 0.3),
}
"""By the ending of the name, in lower case."""
_DISTRIBUTIONS = {"pypdf": "pypdf", "mammoth": "mammoth", "pptx": "python-pptx"}
"""What is installed, by what is imported."""
REMEDY = f"pip install 'shoal[{EXTRA}]'"
"""What brings the libraries."""


def type_of(name: str) -> DocumentType | None:
    """Return how a file of this name is read; None for one that is text itself or of no known type."""
    _, dot, ending = name.lower().rpartition(".")
    return DOCUMENT_TYPES.get(dot + ending)


def is_readable(kind: DocumentType) -> bool:
    """Whether what a type needs is installed."""
    return kind.package is None or find_spec(kind.package) is not None


def packages_for(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of the packages that read files of these names, by what is imported."""
    used = {kind.package for name in names if (kind := type_of(name)) is not None and kind.package is not None}
    return {package: version(_DISTRIBUTIONS[package]) for package in sorted(used) if find_spec(package) is not None}


class Unreadable(Exception):
    """A document of which no text can be had; the reason completes `the file ...`."""
