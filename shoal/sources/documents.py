"""Text and Markdown files: one file is one record, cut into passages afterwards. The id is the file's name."""

from collections.abc import Iterable, Iterator
from typing import Any

from shoal.sources.files import InputFile, opened

MARKDOWN = (".md", ".markdown")
"""Endings of files that are cut at headings."""
MAX_BYTES = 64 * 2**20
"""A longer file is rejected: it is held in memory while it is cut."""


def is_markdown(name: str) -> bool:
    """Whether a file of this name is cut at headings."""
    return name.lower().endswith(MARKDOWN)


def records(files: Iterable[InputFile]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (file, record) or (file, reason why it is none), files counted from 1."""
    for number, file in enumerate(files, 1):
        if file.unreadable is not None:
            yield number, f"the file {file.unreadable}"
            continue
        with opened(file) as stream:
            if file.bytes > MAX_BYTES:
                yield number, f"the file is too long ({file.bytes:,} bytes); the most is {MAX_BYTES:,}"
                continue
            data = stream.read()
        try:
            text = data.decode("utf-8-sig")
            yield number, {**file.partition, "id": file.name, "text": text, "path": file.name}
        except UnicodeDecodeError as error:
            yield number, f"the file is not valid UTF-8 (byte {error.start + 1})"
