"""Short searches of shards in this process, made in the thread of the event loop: no queue, no task, no other thread.

The queries that come in one round of the loop are searched for together, as they would be in a queue.
"""

import asyncio
import contextvars
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from shoal.search.shard_client import PendingQuery, ShardClient, ShardResult, fits
from shoal.system import spans, tracing


@dataclass(slots=True, eq=False)
class _Gathered:
    """A query that waits for the end of the round, and then what shards found, or raised, by their numbers."""

    pending: PendingQuery
    results: dict[int, ShardResult] = field(default_factory=dict)
    errors: dict[int, BaseException] = field(default_factory=dict)
    is_done: bool = False


class PromptSearches:
    """Searches those shards of a version that need a moment for it.

    Args:
        clients: Those of its shards, by their numbers.
        max_batch: Queries that are searched for together, at most.
        clock: Seconds, what deadlines are compared with.
    """

    def __init__(self, clients: Sequence[ShardClient], max_batch: int, clock: Callable[[], float]) -> None:
        self._clients = clients
        self._max_batch = max_batch
        self._clock = clock
        self._gathered: dict[Hashable, list[_Gathered]] = {}

    async def search(self, pending: PendingQuery) -> tuple[dict[int, ShardResult], dict[int, BaseException]]:
        """Search for a query, with those of its kind that come in the same round of the event loop.

        Returns what shards found, and what others raised, by shard number; the remaining ones have to be waited for.
        """
        kind = self._kind(pending)
        if kind is None or not self._prompt(kind):
            return {}, {}
        gathered = self._gathered.setdefault(kind, [])
        entry = _Gathered(pending)
        gathered.append(entry)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if not entry.is_done:
                gathered.remove(entry)
            raise
        while not entry.is_done:  # the first one of the round that goes on does it for all
            # What serves several requests is no more the business of this one than of any other.
            contextvars.Context().run(self._search, kind, gathered)
        return entry.results, entry.errors

    def _kind(self, pending: PendingQuery) -> Hashable | None:
        if pending.position or pending.deadline <= self._clock():
            return None
        return self._clients[0].call_for([pending]).pace_kind if self._clients else None

    def _prompt(self, kind: Hashable) -> dict[int, int]:
        """How many queries of a kind each shard searches for at once, by its number, for those that do."""
        sizes = {client.number: client.prompt_size(kind) for client in self._clients if not client.is_suspended}
        return {number: size for number, size in sizes.items() if size}

    def _search(self, kind: Hashable, gathered: list[_Gathered]) -> None:
        """Search for the first of those that have gathered."""
        sizes = self._prompt(kind)
        most = min(self._max_batch, *sizes.values(), len(gathered)) if sizes else len(gathered)
        batch: list[PendingQuery] = []
        for entry in gathered[:most]:
            if batch and not fits(batch, entry.pending):
                break
            batch.append(entry.pending)
        entries = gathered[: len(batch)]
        del gathered[: len(batch)]
        tracing.work_for(*(pending.requests for pending in batch))
        spans.work_under(*(pending.spans for pending in batch))
        for number in sizes:
            try:
                results = self._clients[number].search_at_once(batch)
            except Exception as error:
                for entry in entries:
                    entry.errors[number] = error
            else:
                for entry, result in zip(entries, results, strict=True):
                    entry.results[number] = result
        for entry in entries:
            entry.is_done = True
