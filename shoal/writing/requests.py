"""What writes ask for, and what they are answered with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal.namespaces import DEFAULT, check_namespace, qualified
from shoal.records import FloatArray


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold of a document for it to be written.

    position: that of its last write; 0 where it comes from a build's source. None: there is no such document.
    """

    position: int | None


@dataclass(frozen=True, slots=True, eq=False)
class PassageWrite:
    """A record as a client sends it.

    text: may be left out of a record that brings its vector, or has a title, or has the text in its metadata: in the
    field that the index names (`Manifest.text_field`), if that is not `text`, or with `text_in_metadata` whatever it
    is. vector: dim numbers, of any length but 0.
    """

    id: str
    text: str | None = None
    title: str | None = None
    metadata: Mapping[str, Any] | None = None
    vector: Sequence[float] | FloatArray | None = None
    condition: Condition | None = None
    text_in_metadata: bool = False


@dataclass(frozen=True, slots=True)
class MetadataUpdate:
    """Other metadata for a record.

    merge: fields that are not named stay, and one that is null goes. vector: another one for it, dim numbers; None
    leaves its own.
    """

    id: str
    metadata: Mapping[str, Any]
    merge: bool = True
    vector: Sequence[float] | FloatArray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What holds for any write.

    deadline: by `time.monotonic`. key: of the client, which it repeats with the same request; None for none.
    body_digest: of the request, which a key belongs to; empty without a key. namespace: in which it writes.
    """

    deadline: float
    key: str | None = None
    body_digest: str = ""
    namespace: str = DEFAULT

    @property
    def log_key(self) -> str | None:
        """The key as the log keeps it: keys of one namespace are none of another."""
        return None if self.key is None else qualified(check_namespace(self.namespace), self.key, "Idempotency-Key")


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRequest(Attempt):
    """Records to be written, each in the place of the one that has its id."""

    passages: Sequence[PassageWrite]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteRequest(Attempt):
    """Records to be deleted: by their ids, or where these are None all that fulfil a filter, or all if that is None."""

    ids: Sequence[str] | None = None
    filter: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRequest(Attempt):
    """Records whose metadata or vectors change."""

    updates: Sequence[MetadataUpdate]


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did. position: in the log, with which searches see it. unchanged: records that are as they were."""

    position: int
    written: int
    unchanged: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion did. deleted: records that were there. more: whether another call would find more of them."""

    position: int
    deleted: int
    more: bool = False


@dataclass(frozen=True, slots=True)
class Updated:
    """What an update did. missing: ids that there are no records of."""

    position: int
    updated: int
    unchanged: int
    missing: list[str] = field(default_factory=list)


Answer = Written | Deleted | Updated
