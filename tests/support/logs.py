"""Entries of a log for tests, made of documents as a writer makes them, and a log that holds them in memory."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shoal.encoders import Encoder, TokenEncoder
from shoal.index_root.log_entry import DocumentWrite, LogEntry, RetiredState, WrittenPassage
from shoal.index_root.manifest import Manifest
from shoal.late.codec import Codec

NOTHING = RetiredState({}, 0, 0)
Document = Mapping[str, Any]
"""A record as a source file holds it: `id`, `text`, perhaps `title`, and metadata."""


class MemoryLog:
    """A log of entries that lie in memory, from position 1 on."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []

    def end(self) -> int:
        return len(self.entries)

    def read(self, after: int, limit: int | None = None) -> Iterator[LogEntry]:
        yield from self.entries[after : None if limit is None else after + limit]


class LogWriter:
    """Appends writes and deletions to a log, with the vectors and codes that an encoder and a codec make."""

    def __init__(self, log: MemoryLog, manifest: Manifest, encoder: Encoder, codec: Codec | None = None) -> None:
        self._log = log
        self._manifest = manifest
        self._encoder = encoder
        self._codec = codec

    def append(self, writes: Sequence[Document | str]) -> None:
        """Append one entry of records and, as strings, ids of records that are deleted."""
        entry = LogEntry(
            position=self._log.end() + 1,
            nonce="",
            written_at=0.0,
            encoder=self._manifest.encoder.digest,
            codec=None if self._codec is None else self._codec.digest,
            analyzer=None,
            requests=(),
            documents=tuple(map(self._write, writes)),
        )
        self._log.entries.append(entry)

    def _write(self, write: Document | str) -> DocumentWrite:
        if isinstance(write, str):
            return DocumentWrite(write, NOTHING, ())
        content = dict(write)
        id_, text, title = content.pop("id"), content.pop("text"), content.pop("title", None)
        read = f"{title} {text}" if title else text
        codes = None
        if self._codec is not None:
            assert isinstance(self._encoder, TokenEncoder)
            codes = self._codec.encode(self._encoder.encode_passage_tokens([read])[0].tokens)
        vector = self._encoder.encode_passages([read])[0]
        return DocumentWrite(id_, NOTHING, (WrittenPassage(id_, text, title, content or None, vector, codes, {}, 0),))
