"""The ids of one shard in order: finding passages by their ids, and listing ids by what they begin with.

The order is that of the ids' UTF-8 bytes, so that all ids with one beginning lie together. It is worked out when it is
first needed, and takes four bytes a row.
"""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shoal.records import RowArray
from shoal.shard.passages import Passages


class IdOrder:
    """The rows of a shard in the order of their ids. Safe for concurrent calls."""

    def __init__(self, passages: Passages) -> None:
        self._passages = passages
        self._lock = threading.Lock()
        self._rows: NDArray[np.uint32] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the order is known, so that nothing here takes long."""
        return self._rows is not None

    def prepare(self) -> None:
        """Work the order out, unless it is known: about a second for a million rows, most of it outside of Python."""
        self._ordered()

    def find(self, ids: Sequence[str]) -> list[int]:
        """Return the row of each id, -1 for one that is not in this shard.

        One binary search for all ids, in Arrow: in Python, a thousand ids take a tenth of a second in which no other
        thread runs.
        """
        rows = self._ordered()
        if not len(rows) or not ids:
            return [-1] * len(ids)
        wanted = pa.array(ids, pa.string())
        low, high = np.zeros(len(ids), np.int64), np.full(len(ids), len(rows))
        for _ in range(len(rows).bit_length()):
            middle = (low + high) // 2
            before = pc.less(self._ids_at(np.minimum(middle, len(rows) - 1)), wanted).to_numpy()
            searching = low < high
            low = np.where(searching & before, middle + 1, low)
            high = np.where(searching & ~before, middle, high)
        places = np.minimum(low, len(rows) - 1)
        equal = pc.equal(self._ids_at(places), wanted).to_numpy()
        found: list[int] = np.where(equal, rows[places].astype(np.int64), -1).tolist()
        return found

    def list(
        self, prefix: str, after: str | None, limit: int, keep: Callable[[int], bool] = lambda row: True
    ) -> list[str]:
        """Return the first ids, at most `limit`, in order, that begin with a prefix and come after an id.

        keep: whether a row counts.
        """
        rows, id_at = self._ordered(), self._id_at()
        places = range(len(rows))
        start = bisect_left(places, prefix, key=id_at)
        if after is not None:
            start = max(start, bisect_right(places, after, key=id_at))
        ids: list[str] = []
        for place in places[start:]:
            if len(ids) == limit:
                break
            id_ = id_at(place)
            if not id_.startswith(prefix):
                break
            if keep(int(rows[place])):
                ids.append(id_)
        return ids

    def _ids_at(self, places: RowArray) -> pa.ChunkedArray:
        """The ids at places of the order, each in its turn."""
        return self._passages.id_column().take(pa.array(self._ordered()[places]))

    def _id_at(self) -> Callable[[int], str]:
        rows, passages = self._ordered(), self._passages
        return lambda place: passages.id(int(rows[place]))

    def _ordered(self) -> NDArray[np.uint32]:
        with self._lock:
            if self._rows is None:
                # Arrow orders strings by their bytes, which is Python's order of the same strings.
                self._rows = pc.sort_indices(self._passages.id_column()).to_numpy().astype(np.uint32)
            return self._rows
