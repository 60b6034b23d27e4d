"""What documents are before a write: looked up in the shards, overlaid with what the log has got since."""

import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from shoal.filters import Filter
from shoal.index_root.log_entry import DocumentWrite, LogEntry, RetiredState
from shoal.index_root.manifest import Manifest
from shoal.late.codec import Codec
from shoal.records import Passage
from shoal.shard.stored_documents import StoredDocument, StoredPassage

RECENT_BYTES = 64 * 2**20
"""Bytes of the latest writes that a writer keeps, so that it waits for no shard that is a little behind."""


NOTHING = RetiredState({}, 0, 0)
"""What leaves the statistics where no document was."""


class DocumentLookup(Protocol):
    """The shards of a version, as far as writes need them."""

    async def look_up(
        self, documents: Sequence[str], min_position: int, deadline: float
    ) -> Mapping[str, StoredDocument]:
        """Return the documents that there are, of these record ids, as they are at a position of the log or later.

        Raises Unavailable for a shard that does not answer, and DeadlineExceeded.
        """
        ...

    async def select(self, tree: Filter | None, limit: int, min_position: int, deadline: float) -> list[str]:
        """Return the ids of passages that fulfil a filter, at a position or later; at most `limit`, None for any."""
        ...


class WritableVersion(DocumentLookup, Protocol):
    """A version that is served, as far as writes need it; two are the same only if they are one object."""

    @property
    def manifest(self) -> Manifest:
        """Its manifest."""
        ...

    @property
    def codec(self) -> Codec | None:
        """What its token vectors are reduced with; None where its shards hold none."""
        ...


class RecentWrites:
    """The documents that the latest entries of the log have written, as these left them. Safe for several threads.

    Entries come in the order of their positions, each once.

    Args:
        position: The last position before the first entry that will come.
        max_bytes: Of their passages; what is needed for a write that is under way stays beyond them.
    """

    def __init__(self, position: int, max_bytes: int = RECENT_BYTES) -> None:
        self.position = position
        """Of the last entry that came."""
        self._lock = threading.Lock()
        self._max_bytes = max_bytes
        self._entries: deque[tuple[LogEntry, int]] = deque()
        self._bytes = 0
        self._floor = position
        self._documents: dict[str, StoredDocument] = {}
        self._held: Counter[int] = Counter()
        self._begin = 0

    @contextmanager
    def hold(self) -> Iterator[int]:
        """Keep all that was written after a position, which this gives, for as long as the block lasts."""
        with self._lock:
            position = self._spare()
            self._held[position] += 1
        try:
            yield position
        finally:
            with self._lock:
                self._held[position] -= 1
                self._held += Counter()  # leaves out what is 0
                self._drop()

    def begin_behind(self, position: int) -> None:
        """Forget what was written up to a position, and keep no more of it: the shards know better.

        A version that is complete to a position may have left some of it out.
        """
        with self._lock:
            self._begin = position
            self._drop()

    def add(self, entry: LogEntry) -> None:
        """Take an entry into account."""
        documents = {document.document: written_document(document, entry.position) for document in entry.documents}
        size = sum(_size(document) for document in entry.documents)
        with self._lock:
            self._documents |= documents
            self._entries.append((entry, size))
            self._bytes += size
            self.position = entry.position
            self._drop()

    def get(self, document: str) -> StoredDocument | None:
        """Return a document as it is after the last entry; None if no entry that is kept has written it."""
        return self._documents.get(document)

    def overlay(self, documents: Iterable[str], stored: Mapping[str, StoredDocument]) -> dict[str, StoredDocument]:
        """Return the documents that there are, as entries have left them, or else as they were looked up."""
        states: dict[str, StoredDocument] = {}
        for document in documents:
            recent, below = self.get(document), stored.get(document)
            state = recent if below is None or (recent is not None and recent.position >= below.position) else below
            if state is not None:
                states[document] = state
        return states

    def _spare(self) -> int:
        """The greatest position up to which nothing more than `max_bytes` would have to be kept."""
        left, position = self._bytes, self._floor
        for entry, size in self._entries:
            if left <= self._max_bytes:
                break
            left, position = left - size, entry.position
        return position

    def _drop(self) -> None:
        limit = max(self._begin, min([self._spare(), *self._held]))
        while self._entries and self._entries[0][0].position <= limit:
            entry, size = self._entries.popleft()
            self._bytes -= size
            self._floor = entry.position
            for document in entry.documents:
                state = self._documents.get(document.document)
                if state is not None and state.position == entry.position:
                    del self._documents[document.document]


def written_document(write: DocumentWrite, position: int) -> StoredDocument:
    """A document as a write at a position leaves it; one that it has deleted has no passages."""
    passages = [
        StoredPassage(
            Passage(written.id, written.text, written.title, written.metadata or {}),
            written.vector,
            written.codes,
            written.terms,
            written.length,
        )
        for written in write.passages
    ]
    return StoredDocument(write.document, position, tuple(passages))


def _size(write: DocumentWrite) -> int:
    return sum(passage.nbytes for passage in write.passages)
