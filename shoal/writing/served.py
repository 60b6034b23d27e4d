"""The version that is served, as writes need it, wherever its shards are."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

from shoal.filters import Filter
from shoal.index_root.log_entry import LogEntry
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.late.codec import Codec
from shoal.search.live_index import LiveIndex
from shoal.search.served_version import ServedVersion
from shoal.shard.stored_documents import StoredDocument

LookUp: TypeAlias = Callable[[Sequence[str], int, float], Awaitable[Mapping[str, StoredDocument]]]
"""Looks documents up at a position or later, until a deadline: `shoal.search.documents.look_up` of a version."""
Select: TypeAlias = Callable[[Filter | None, int, int, float], Awaitable[list[str]]]
"""Selects passages alike: `shoal.search.documents.select_ids` of a version."""


class ServedDocuments:
    """A version as writes need it: a `shoal.engine.writing.LiveVersion`.

    Args:
        storage: The index root.
        manifest: Of the version.
        live: What is known of the log here.
        look_up: Asks the shards for documents.
        select: Asks them for the ids of passages.
    """

    def __init__(self, storage: Storage, manifest: Manifest, live: LiveIndex, look_up: LookUp, select: Select) -> None:
        self.manifest = manifest
        self._storage = storage
        self._live = live
        self._look_up = look_up
        self._select = select

    @cached_property
    def codec(self) -> Codec | None:
        """What its token vectors are reduced with; None where its shards hold none."""
        late = self.manifest.late
        if late is None:
            return None
        from shoal.shard.stored_rows import StoredRows  # it imports FAISS

        return Codec.from_projection(StoredRows(self._storage, self.manifest, 0).projection(), late.bits)

    @property
    def served(self) -> ServedVersion:
        """It, with the fields that the log has brought."""
        return self._live.version

    def offer(self, entry: LogEntry) -> None:
        """Hear of an entry, and look for all up to it at once."""
        self._live.offer(entry)

    async def look_up(
        self, documents: Sequence[str], min_position: int, deadline: float
    ) -> Mapping[str, StoredDocument]:
        """Return the documents that there are, at a position of the log or later."""
        await self._live.tail.reach(min_position, deadline)
        return await self._look_up(documents, min_position, deadline)

    async def select(self, tree: Filter | None, limit: int, min_position: int, deadline: float) -> list[str]:
        """Return ids of passages that fulfil a filter, at a position of the log or later; at most `limit`."""
        await self._live.tail.reach(min_position, deadline)
        return await self._select(tree, limit, min_position, deadline)
