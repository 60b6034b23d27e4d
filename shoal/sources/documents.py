"""Documents: one file is one record, cut into passages afterwards. The id is the file's name."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

from shoal.extraction.document_types import Unreadable, packages_for, type_of
from shoal.extraction.places import TITLE_FIELD
from shoal.extraction.worker import Extractor
from shoal.settings import SourceSettings
from shoal.sources.files import InputFile, opened
from shoal.sources.front_matter import FrontMatter, read_front_matter

MARKDOWN = (".md", ".markdown")
"""Endings of files of Markdown."""
REVISION = 2
"""Of the text that Markdown is made of: another one builds an unchanged source anew."""
MAX_BYTES = 64 * 2**20
"""A longer file of text is rejected: it is held in memory while it is cut."""


def is_markdown(name: str) -> bool:
    """Whether the text of a document of this name is Markdown, or has become it."""
    return name.lower().endswith(MARKDOWN) or type_of(name) is not None


def text_bytes(file: InputFile) -> int:
    """About how much text a document holds."""
    kind = type_of(file.name)
    return file.bytes if kind is None else round(file.bytes * kind.text_share)


def revision(files: Iterable[InputFile], source: SourceSettings) -> dict[str, object]:
    """What tells a plan of documents that Markdown is made of from one that would make another text of them."""
    names = [file.name for file in files if type_of(file.name) is not None] if source.format == "text" else []
    return {"extraction": [REVISION, packages_for(names)]} if names else {}


def records(files: Iterable[InputFile]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (file, record) or (file, reason why it is none), files counted from 1."""
    with closing(Extractor()) as extractor:
        for number, file in enumerate(files, 1):
            if file.unreadable is not None:
                yield number, f"the file {file.unreadable}"
                continue
            try:
                text = _text_of(file, extractor)
            except Unreadable as reason:
                yield number, f"the file {reason}"
            else:
                front = read_front_matter(text) if file.name.lower().endswith(MARKDOWN) else FrontMatter({}, None, text)
                own = {"id": file.name, "text": front.text, "path": file.name, TITLE_FIELD: front.title}
                yield number, {**file.partition, **front.fields, **own}


def _text_of(file: InputFile, extractor: Extractor) -> str:
    kind = type_of(file.name)
    with opened(file) as stream:
        if kind is not None:
            extractor.check_size(file.bytes)
            return extractor.text_of(file.name, _not_empty(stream.read()))
        if file.bytes > MAX_BYTES:
            raise Unreadable(f"is too long ({file.bytes:,} bytes); the most is {MAX_BYTES:,}")
        data = _not_empty(stream.read())
    try:
        return str(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        place = f"byte {error.start + 1}"
        remedy = "save it as UTF-8, such as with `iconv -f ISO-8859-1 -t UTF-8`"
        raise Unreadable(f"is not valid UTF-8 ({place}); {remedy}") from error


def _not_empty(data: bytes) -> bytes:
    if not data:
        raise Unreadable("is empty")
    return data
