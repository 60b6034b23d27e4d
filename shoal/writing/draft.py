"""An entry of the log in the making: several requests in their order, each against what those before it have left."""

import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from shoal.errors import Conflict, DeadlineExceeded, InvalidArgument, KeyReused, ShoalError
from shoal.index_root.log_entry import DocumentWrite, LogEntry, LoggedRequest, WrittenPassage
from shoal.metadata import FieldTypes
from shoal.namespaces import own_id
from shoal.shard.live_fields import widened
from shoal.shard.stored_documents import StoredDocument, StoredPassage
from shoal.writing.checks import Problems
from shoal.writing.requests import Answer, Condition, Deleted, Updated, Written
from shoal.writing.states import NOTHING, RecentWrites, written_document


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """A document as it shall be; without passages it is deleted.

    condition: of the client. read_at: position of the state that the change was made from; None where any will do.
    """

    document: str
    passages: tuple[WrittenPassage, ...]
    condition: Condition | None = None
    read_at: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """The version that requests are prepared for.

    name: of the version. encoder, codec, analyzer: digests of what makes vectors, codes and terms; None
    where there are none.
    """

    version: object
    name: str
    encoder: str
    codec: str | None
    analyzer: str | None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PreparedRequest:
    """A request that can be appended.

    states: its documents as they were looked up, those that there are. answer: which answer it gets. field: of the
    request, that holds the documents. missing, more: parts of the answer that are known already. expires: by the clock
    of the log, after which nobody waits for it.
    """

    changes: Sequence[Change]
    states: Mapping[str, StoredDocument]
    answer: type[Answer]
    basis: Basis
    expires: float = math.inf
    field: str = "passages"
    key: str | None = None
    body_digest: str = ""
    missing: Sequence[str] = ()
    more: bool = False

    @property
    def nbytes(self) -> int:
        """What it takes in an entry, about."""
        return sum(passage.nbytes for change in self.changes for passage in change.passages)


class Outdated:
    """A request was made from what is not there any more; it has to be prepared again."""


Outcome = Answer | ShoalError | Outdated
"""What becomes of a request."""


@dataclass(slots=True)
class EntryDraft:
    """Collects requests for one position. What it decides holds if that position is won.

    recent: all that was written before, and is not in the states that were looked up. answered: gives the request that
    a key was used for. fields: types of metadata fields. basis: of the version that is served. now: by the clock of the
    log.
    """

    position: int
    recent: RecentWrites
    answered: Callable[[str], LoggedRequest | None]
    fields: FieldTypes
    basis: Basis
    now: float
    _states: dict[str, StoredDocument] = field(default_factory=dict)
    _documents: list[DocumentWrite] = field(default_factory=list)
    _requests: list[LoggedRequest] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to append."""
        return not self._requests

    def add(self, request: PreparedRequest) -> Outcome:
        """Take a request in, and return what becomes of it if the entry is appended."""
        if request.key is not None and (known := self._known(request.key)) is not None:
            return repeated(known, request.body_digest, request.answer)
        if request.expires < self.now:
            return DeadlineExceeded("the deadline passed before this was written, which it was not; allow more time")
        if request.basis is not self.basis:
            return Outdated()
        if (problem := self._problem(request)) is not None:
            return problem
        writes = [write for change in request.changes if (write := self._write(change, request)) is not None]
        fields, misfits = _widened(self.fields, writes, request)
        if misfits is not None:
            return misfits
        self.fields = fields
        for write in writes:
            self._states[write.document] = written_document(write, self.position)
        answer = self._answer(request, len(writes))
        if writes or request.key is not None:
            self._requests.append(
                LoggedRequest(request.key, request.body_digest, len(self._documents), len(writes), asdict(answer))
            )
            self._documents += writes
        return answer

    def entry(self) -> LogEntry:
        """Return the entry, with a nonce of its own."""
        return LogEntry(
            position=self.position,
            nonce=uuid.uuid4().hex,
            written_at=time.time(),
            encoder=self.basis.encoder,
            codec=self.basis.codec,
            analyzer=self.basis.analyzer,
            requests=tuple(self._requests),
            documents=tuple(self._documents),
            index_version=self.basis.name,
        )

    def _known(self, key: str) -> LoggedRequest | None:
        return next((each for each in self._requests if each.key == key), None) or self.answered(key)

    def _current(self, document: str, request: PreparedRequest) -> StoredDocument | None:
        """A document before this request; None if there is none."""
        state = self._states.get(document) or self.recent.get(document) or request.states.get(document)
        return state if state is not None and state.passages else None

    def _problem(self, request: PreparedRequest) -> Conflict | Outdated | None:
        if any(self._current(document, request) is not None for document in request.missing):
            return Outdated()
        problems = Problems(request.field)
        for number, change in enumerate(request.changes):
            current = self._current(change.document, request)
            if change.read_at is not None and (current is None or current.position != change.read_at):
                return Outdated()
            if change.condition is not None and (reason := _violation(change.condition, current)) is not None:
                problems.add(number, change.document, reason)
        return Conflict(f"nothing was written: {problems}", param=problems.param) if len(problems) else None

    def _write(self, change: Change, request: PreparedRequest) -> DocumentWrite | None:
        """What the log shall hold of a change; None if it changes nothing."""
        current = self._current(change.document, request)
        if current is None:
            return DocumentWrite(change.document, NOTHING, change.passages) if change.passages else None
        if is_unchanged(change.passages, current.passages):
            return None
        return DocumentWrite(change.document, current.retired, change.passages)

    def _answer(self, request: PreparedRequest, writes: int) -> Answer:
        # What changes nothing is so since the position before, at the latest.
        position = self.position if writes or request.key is not None else self.position - 1
        unchanged = len(request.changes) - writes
        if request.answer is Deleted:
            return Deleted(position, writes, request.more)
        if request.answer is Updated:
            return Updated(position, writes, unchanged, [own_id(document) for document in request.missing])
        return Written(position, writes, unchanged)


def repeated(known: LoggedRequest, body_digest: str, answer: type[Answer]) -> Answer | KeyReused:
    """What a request gets whose key an earlier one had."""
    if known.body_digest != body_digest:
        return KeyReused(
            f"the Idempotency-Key {own_id(known.key or '')!r} was used with another request; take a new key for every "
            "request, and the same one only to repeat it",
            param="Idempotency-Key",
        )
    return answer(**known.answer)


def is_unchanged(passages: Sequence[WrittenPassage], stored: Sequence[StoredPassage]) -> bool:
    """Whether passages are those that are stored, vectors included."""
    return len(passages) == len(stored) and all(map(_is_equal, passages, stored))


def _is_equal(passage: WrittenPassage, stored: StoredPassage) -> bool:
    before = stored.passage
    texts = (passage.id, passage.text, passage.title or None) == (before.id, before.text, before.title or None)
    if not texts or (passage.metadata or {}) != before.metadata or stored.vector is None:
        return False
    return passage.vector is stored.vector or bool((passage.vector == stored.vector).all())


def _violation(condition: Condition, current: StoredDocument | None) -> str | None:
    if condition.position is None:
        return None if current is None else f"it should be absent, and was last written at position {current.position}"
    if current is None:
        return f"it should be of position {condition.position}, and is absent"
    if current.position != condition.position:
        return f"it should be of position {condition.position}, and was last written at position {current.position}"
    return None


def _widened(
    fields: FieldTypes, writes: Sequence[DocumentWrite], request: PreparedRequest
) -> tuple[FieldTypes, InvalidArgument | None]:
    """Types of fields with those of writes; an error that names every document that does not fit."""
    problems = Problems(request.field)
    places = {change.document: number for number, change in enumerate(request.changes)}
    for write in writes:
        try:
            for passage in write.passages:
                fields = widened(fields, passage.metadata or {})
        except InvalidArgument as misfit:
            problems.add(places[write.document], write.document, misfit.message)
    misfits = InvalidArgument(f"nothing was written: {problems}", param=problems.param) if len(problems) else None
    return fields, misfits
