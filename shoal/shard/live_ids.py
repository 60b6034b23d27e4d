"""The ids of a shard that documents come to: those of its segments, without those that have gone."""

from collections.abc import Callable, Sequence
from heapq import merge
from itertools import islice

from shoal.shard.runs import Segment


class LiveIds:
    """As `shoal.shard.id_order.IdOrder`, over the segments that a shard has when it is asked."""

    def __init__(self, segments: Callable[[], Sequence[Segment]]) -> None:
        self._segments = segments

    @property
    def is_ready(self) -> bool:
        """Whether the order of the version's ids is known; runs are small."""
        return self._segments()[0].shard.ids.is_ready

    def prepare(self) -> None:
        """Work that order out, unless it is known."""
        self._segments()[0].shard.ids.prepare()

    def find(self, ids: Sequence[str]) -> list[int]:
        """Return the row of each id, -1 for one that is not in this shard."""
        rows = [-1] * len(ids)
        for segment in self._segments():
            for place, row in enumerate(segment.shard.ids.find(ids)):
                if row >= 0 and segment.is_alive(row):
                    rows[place] = segment.start + row
        return rows

    def list(self, prefix: str, after: str | None, limit: int) -> list[str]:
        """Return the first ids, at most `limit`, in order, that begin with a prefix and come after an id."""
        parts = [segment.shard.ids.list(prefix, after, limit, segment.is_alive) for segment in self._segments()]
        return list(islice(merge(*parts), limit))
