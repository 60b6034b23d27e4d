"""A log in memory, and a version whose documents lie in memory, for whatever writes."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from shoal.errors import Unavailable
from shoal.filters import Filter
from shoal.index_root.log_entry import LogEntry, LoggedRequest, decode_entry, encode_entry
from shoal.index_root.manifest import Manifest
from shoal.late.codec import Codec
from shoal.lexical.analyzer import Analyzer
from shoal.records import EmbeddedTexts, InputType, Passage
from shoal.settings import LexicalSettings
from shoal.shard.stored_documents import StoredDocument, StoredPassage
from shoal.testing.fakes import DIM, Behaviour, vector_of
from shoal.writing.states import written_document

ANALYZER = Analyzer(LexicalSettings())
"""Cuts the texts of the fakes into terms."""


class MemoryLog:
    """Entries in memory, as they would lie on disk; what several logs write to is `entries`.

    entries: of the log, which others may share. before_create: called before an entry is created, for what others do
    meanwhile. errors: raised by the next appends, one each.
    """

    def __init__(self, entries: list[bytes] | None = None) -> None:
        self.entries = [] if entries is None else entries
        self.position = 0
        self._requests: dict[str, tuple[int, LoggedRequest]] = {}
        self.before_create: Callable[[], None] = lambda: None
        self.errors: list[Exception] = []
        self.lost_races = 0

    def append(self, make_entry: Callable[[int], LogEntry], apply: Callable[[LogEntry], None]) -> LogEntry:
        """Append an entry; what others have appended is applied where they were faster."""
        if self.errors:
            raise self.errors.pop(0)
        while True:
            entry = make_entry(self.position + 1)
            self.before_create()
            if len(self.entries) == self.position:
                self.entries.append(encode_entry(entry))
                self._take(entry, apply)
                return entry
            self.lost_races += 1
            self.catch_up(apply)

    def catch_up(self, apply: Callable[[LogEntry], None]) -> None:
        """Apply every entry that is not yet."""
        for entry in self.read(self.position):
            self._take(entry, apply)

    def write_segments(self, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Write none."""

    def answered(self, key: str) -> tuple[int, LoggedRequest] | None:
        """The request of a key among what was applied."""
        return self._requests.get(key)

    def _take(self, entry: LogEntry, apply: Callable[[LogEntry], None]) -> None:
        apply(entry)
        self.position = entry.position
        for request in entry.requests:
            if request.key is not None:
                self._requests[request.key] = entry.position, request

    def read(self, after: int = 0) -> list[LogEntry]:
        """The entries after a position."""
        return [decode_entry(data, "memory") for data in self.entries[after:]]


class MemoryVersion:
    """A version of some passages, each a record of its own, and what a log has written since.

    Args:
        manifest: What it says of itself.
        passages: Of its source.
        log: Whose entries it applies when it is asked for a position, and no further.
        codec: Of its token vectors; None for none.
    """

    def __init__(
        self, manifest: Manifest, passages: Iterable[Passage], log: MemoryLog, codec: Codec | None = None
    ) -> None:
        self.manifest = manifest
        self.codec = codec
        self.position = 0
        self.eager = True
        """Whether it applies all that there is."""
        self.behaviour = Behaviour()
        self.lookups: list[list[str]] = []
        self._log = log
        self.documents = {passage.id: StoredDocument(passage.id, 0, (stored_passage(passage),)) for passage in passages}

    async def look_up(
        self, documents: Sequence[str], min_position: int, deadline: float
    ) -> Mapping[str, StoredDocument]:
        """Return the documents that there are."""
        self.lookups.append(list(documents))
        await self.behaviour()
        self._apply(min_position)
        return {name: self.documents[name] for name in documents if name in self.documents}

    async def select(self, tree: Filter | None, limit: int, min_position: int, deadline: float) -> list[str]:
        """Return ids of passages; of filters only `{"field": value}` is understood, as a function of its text."""
        self._apply(min_position)
        stored = [each.passage for document in self.documents.values() for each in document.passages]
        return [passage.id for passage in stored if tree is None or self.matches(tree, passage)][:limit]

    @staticmethod
    def matches(tree: Any, passage: Passage) -> bool:
        """A filter is a pair of a field and a value here."""
        field, value = tree
        return bool(passage.metadata.get(field) == value)

    def _apply(self, min_position: int) -> None:
        end = len(self._log.entries) if self.eager else max(self.position, min_position)
        if end > len(self._log.entries):
            raise Unavailable("the log does not go so far")
        for entry in self._log.read(self.position)[: end - self.position]:
            for document in entry.documents:
                self.documents.pop(document.document, None)
                if document.passages:
                    self.documents[document.document] = written_document(document, entry.position)
            self.position = entry.position


class MemoryEmbedder:
    """An encoder of passages; `behaviour` may delay it or make it fail."""

    def __init__(self) -> None:
        self.behaviour = Behaviour()
        self.calls: list[list[str]] = []

    async def embed(
        self, texts: Sequence[str], input_type: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        """Vectors that follow from the texts; a token is a word."""
        self.calls.append(list(texts))
        await self.behaviour()
        vectors = np.stack([vector_of(text) for text in texts])
        tokens = [np.stack([vector_of(word) for word in text.split() or [""]]) for text in texts]
        return EmbeddedTexts("fake", vectors, [0] * len(texts), 0, tokens if with_tokens else None)


def stored_passage(passage: Passage) -> StoredPassage:
    """A passage as a shard holds it."""
    terms = Counter(ANALYZER.terms(passage.content))
    vector = vector_of(passage.content)
    assert vector.shape == (DIM,)
    return StoredPassage(passage, vector, None, terms, terms.total())
