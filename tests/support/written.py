"""Entries of a log for tests, made of documents as a writer makes them, and a log that holds them in memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shoal.encoders import Encoder, TokenEncoder, load_encoder
from shoal.index_root import versions
from shoal.index_root.log import Log
from shoal.index_root.log_entry import DocumentWrite, LogEntry, RetiredState, WrittenPassage
from shoal.index_root.log_writer import LogWriter as Appender
from shoal.index_root.manifest import Manifest
from shoal.indexing.compaction import compact
from shoal.late.codec import Codec
from shoal.settings import CompactSettings
from shoal.shard.stored_rows import StoredRows
from tests.support.building import jsonl, records
from tests.support.incremental import Build, publish

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
            analyzer=None if self._manifest.lexical is None else self._manifest.lexical.analyzer_digest,
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


class Root:
    """An index root with five passages and a log on the disk."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.options = options
        self.build = Build(folder / "index", jsonl(folder / "corpus.jsonl", records(5)), **options)
        self.manifest, _ = publish(self.build)
        self.storage = self.build.storage
        versions.discard_staging(self.storage, self.build.plan.hash)
        self.appender = Appender(Log.open(self.storage), 0)

    def codec(self) -> Codec | None:
        if self.manifest.late is None:
            return None
        return Codec.from_projection(StoredRows(self.storage, self.manifest, 0).projection(), self.manifest.late.bits)

    def write(self, writes: Sequence[Document | str]) -> None:
        made = MemoryLog()
        maker = LogWriter(made, self.manifest, load_encoder(self.build.settings), self.codec())

        def entry(position: int) -> LogEntry:
            made.entries.clear()
            maker.append(writes)
            (only,) = made.entries
            return replace(only, position=position, nonce=f"n{position}")

        self.appender.append(entry, lambda _: None)

    def compact(self) -> Manifest:
        manifest = compact(CompactSettings(index=self.storage.uri), Log.open(self.storage))
        assert manifest is not None
        return manifest
