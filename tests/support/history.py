"""What concurrent clients wrote to an index and read of it, and what its log says; history_checker.py compares them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from shoal.index_root.log_entry import DocumentWrite, LogEntry
from shoal.writing.requests import Condition

REVISION = "revision"
"""The metadata field that updates change."""
Documents: TypeAlias = "Mapping[str, Content | None]"
"""What documents hold, by id; None where there is none."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a document holds: its text, which no two requests share, and the number in its metadata."""

    text: str
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Upsert:
    """Writes a document, if a condition holds."""

    content: Content
    condition: Condition | None = None


@dataclass(frozen=True, slots=True)
class Deletion:
    """Deletes a document."""


@dataclass(frozen=True, slots=True)
class Update:
    """Gives a document another number, and leaves its text."""

    revision: int


Change = Upsert | Deletion | Update


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a request that writes; with its key it may be repeated.

    Args:
        session: The client, which does one thing after another.
        key: Its name, which is its Idempotency-Key.
        changes: What it writes, by id.
        began, ended: Seconds, by a clock that all clients share.
        answer: The body of the answer; None where nobody knows whether it was written.
        refused: Whether the answer was that a condition does not hold, so that nothing is written.
        keyed: Whether the key was sent. Without one it is not repeated, and the log does not say what has changed
            nothing.
    """

    session: str
    key: str
    changes: Mapping[str, Change]
    began: float
    ended: float
    answer: Mapping[str, Any] | None = None
    refused: bool = False
    keyed: bool = True


@dataclass(frozen=True, slots=True)
class Read:
    """One answer that lacked nothing.

    Args:
        session: The client.
        began, ended: Seconds.
        documents: What it said of the documents that were asked for.
        position: Which it says it has seen; None where it says nothing.
        min_position: Which it had to have seen.
        strong: Whether it had to have seen all that was answered before.
        repeated: Ids that it held twice.
    """

    session: str
    began: float
    ended: float
    documents: Documents
    position: int | None = None
    min_position: int = 0
    strong: bool = False
    repeated: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request as the log has it: its key if it had one, and what it made of the documents that it has changed."""

    key: str | None
    documents: Documents


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the log."""

    position: int
    requests: Sequence[LoggedRequest]


@dataclass
class History:
    """What all clients saw. initial: what documents held before anything was written."""

    initial: Documents
    attempts: list[Attempt] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)


def entries_of(log: Iterable[LogEntry]) -> list[Entry]:
    """What entries say of requests and documents."""
    return [
        Entry(
            entry.position,
            [
                LoggedRequest(
                    request.key,
                    dict(map(_content, entry.documents[request.first : request.first + request.count])),
                )
                for request in entry.requests
            ],
        )
        for entry in log
    ]


def _content(write: DocumentWrite) -> tuple[str, Content | None]:
    if not write.passages:
        return write.document, None
    (passage,) = write.passages
    return write.document, Content(passage.text, int((passage.metadata or {}).get(REVISION, 0)))
