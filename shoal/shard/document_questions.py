"""What a writer asks a shard: how documents are stored by now, and which passages fulfil a filter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.errors import Conflict
from shoal.filters import Filter
from shoal.shard.stored_documents import StoredDocument

if TYPE_CHECKING:
    from shoal.shard.live import LiveShard
    from shoal.shard.reader import Shard


@dataclass(frozen=True, slots=True)
class FoundDocuments:
    """What a shard has seen up to a position of the log.

    documents: those that there are, in the order asked, None for the others. problem: why it cannot look any up; None
    if it can.
    """

    position: int
    documents: Sequence[StoredDocument | None]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class FoundIds:
    """Ids of the passages that fulfil a filter, as a shard has seen them up to a position of the log."""

    position: int
    ids: list[str]


@dataclass(frozen=True, slots=True)
class LookUpDocuments:
    """Asks a shard for documents by the ids of their records."""

    documents: tuple[str, ...]

    def answer(self, shard: "Shard | LiveShard") -> FoundDocuments:
        """Look them up in an opened shard that follows the log."""
        live = _following(shard)
        position = live.position  # read first: what is found may be later, and is never earlier
        try:
            return FoundDocuments(position, live.lookup(self.documents))
        except Conflict as error:
            return FoundDocuments(position, [], str(error))


@dataclass(frozen=True, slots=True)
class SelectIds:
    """Asks a shard for the ids of at most so many passages that fulfil a filter, or of some passages without one."""

    filter: Filter | None
    limit: int

    def answer(self, shard: "Shard | LiveShard") -> FoundIds:
        """Select them in an opened shard that follows the log; for a version without metadata InvalidArgument."""
        live = _following(shard)
        position = live.position
        return FoundIds(position, live.matching_ids(self.filter, self.limit))


def _following(shard: "Shard | LiveShard") -> "LiveShard":
    from shoal.shard.live import LiveShard

    if not isinstance(shard, LiveShard):
        raise TypeError("this shard follows no log")
    return shard
