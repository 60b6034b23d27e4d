"""Filtered vector search: which rows a filter selects, remembered, and the cheapest way to rank only those.

Few rows are scanned one by one, without the index. Among many the index searches with a selector, and as far as it has
to: an approximate index stops near the query, where there may be few of the selected rows or none.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shoal.filters import Filter, InNamespace
from shoal.indexes import ShardIndex
from shoal.records import FloatArray, RowArray
from shoal.shard.arrays import from_numbers
from shoal.shard.columns import Columns
from shoal.shard.cut import PassageIds
from shoal.shard.namespaces import NamespaceRows
from shoal.shard.nearest import ExactSearch

NEIGHBOURS, ENOUGH = 100, 10
"""Of so many nearest rows, selected or not, it is seen how deep so many selected ones lie around a query."""
_ENTRY_BYTES = 512
"""What a remembered filter takes beside its rows and its own text, about."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows that a filter lets through, in one of two forms.

    rows: int64 (count,), ascending, when they are to be scanned. bits: uint8, bit i % 8 of byte i // 8 for row i, when
    they are not.
    is_usual: whether most rows are selected wherever a query lies, so that an approximate index need look no further.
    """

    count: int
    rows: RowArray | None
    bits: NDArray[np.uint8] | None
    is_usual: bool = False

    def among(self, others: "Selection") -> "Selection":
        """The rows that are selected by this one and by another one, which has bits."""
        assert others.bits is not None
        if self.bits is not None:
            bits = self.bits & others.bits
            return Selection(int(np.bitwise_count(bits).sum()), None, bits)
        assert self.rows is not None
        rows = self.rows[others.holds(self.rows)]
        return Selection(len(rows), rows, None)

    def holds(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Whether each of some rows, int64 (n,), is selected; only where there are bits."""
        assert self.bits is not None
        marks: NDArray[np.bool_] = ((self.bits[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1).astype(np.bool_)
        return marks

    def mask(self, rows: int) -> NDArray[np.bool_]:
        """Mark the selected ones of so many rows, bool (rows,)."""
        if self.bits is not None:
            return np.unpackbits(self.bits, count=rows, bitorder="little").astype(np.bool_)
        mask = np.zeros(rows, np.bool_)
        mask[self.rows] = True
        return mask

    def tester(self, count: int) -> Callable[[NDArray[np.integer[Any]]], NDArray[np.bool_]]:
        """Return what tells of some of so many rows, (n,), which are selected."""
        return self.holds if self.bits is not None else self.mask(count).__getitem__

    def take(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return the values of the selected rows, in their order, of a column of all rows."""
        if self.bits is None:
            assert self.rows is not None
            return column.take(from_numbers(self.rows))
        return column.filter(pa.BooleanArray.from_buffers(pa.bool_(), len(column), [None, pa.py_buffer(self.bits)]))

    @property
    def nbytes(self) -> int:
        """Memory that the rows take."""
        return sum(part.nbytes for part in (self.rows, self.bits) if part is not None)


NOTHING = Selection(0, np.empty(0, np.int64), None)
"""No rows."""


class Selections:
    """Selections of one shard by filter; the ones used last stay, up to `max_bytes`. Safe for concurrent calls.

    `asked` and `hits` count filters since the start.

    Args:
        columns: The metadata of the shard.
        index: Of the shard.
        max_bytes: Of what stays.
        namespaces: Rows by namespace; None where all are of the default one.
    """

    def __init__(
        self, columns: Columns, index: ShardIndex, max_bytes: int, namespaces: NamespaceRows | None = None
    ) -> None:
        self.columns = columns
        """The metadata that filters are evaluated on."""
        self._index = index
        self._namespaces = namespaces
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Filter, tuple[Selection, int]] = OrderedDict()
        self._bytes = 0
        self.asked = 0
        self.hits = 0

    def get(self, tree: Filter) -> Selection:
        """Return the selection of a filter, evaluating it unless it is remembered."""
        with self._lock:
            self.asked += 1
            if tree in self._kept:
                self.hits += 1
                self._kept.move_to_end(tree)
                return self._kept[tree][0]
        selection = select(self.columns, self._index, tree, self._namespaces)
        size = selection.nbytes + len(repr(tree)) + _ENTRY_BYTES
        with self._lock:
            if tree not in self._kept:
                self._kept[tree] = selection, size
                self._bytes += size
            while self._bytes > self._max_bytes:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._bytes -= dropped
        return selection


def select(columns: Columns, index: ShardIndex, tree: Filter, namespaces: NamespaceRows | None = None) -> Selection:
    """Evaluate a filter over all rows of an index, or over those of the namespace that it names."""
    if isinstance(tree, InNamespace):
        if namespaces is None:
            raise ValueError("these rows have no namespaces")
        if tree.namespace:
            rows = namespaces.rows(tree.namespace)
            if index.prefers_scan(len(rows)):  # few: nothing is done for the rows of others
                kept = rows if tree.part is None else rows[columns.part(tree.part, rows).mask(tree.part)]
                return Selection(len(kept), kept, None)
        mask = namespaces.mask(tree.namespace)
        if tree.part is not None:
            mask &= columns.mask(tree.part)
    else:
        mask = columns.mask(tree)
    count = int(np.count_nonzero(mask))
    if index.prefers_scan(count):
        return Selection(count, np.flatnonzero(mask), None)
    return Selection(count, None, np.packbits(mask, bitorder="little"))


def search(
    index: ShardIndex,
    queries: FloatArray,
    top_k: int,
    selection: Selection,
    passage_ids: PassageIds,
    search_params: str = "",
) -> tuple[FloatArray, RowArray]:
    """Search float32 (b, dim) among the selected rows; takes and returns what `ShardIndex.search` does.

    As many as were asked for are found, if there are so many: those that an approximate index misses are scanned. Where
    the search is exact, equal scores are ordered by passage id.
    """
    exact = ExactSearch(index, passage_ids)
    if selection.bits is None:
        assert selection.rows is not None
        return exact.scan(queries, top_k, selection.rows)
    if index.is_exact:
        return exact.search(queries, top_k, selection.bits)
    selector = faiss.IDSelectorBitmap(selection.bits)
    if index.exhaustive or selection.count == index.count:
        return index.search(queries, top_k, selector, search_params=search_params)
    scores = np.full((len(queries), top_k), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), top_k), -1, dtype=np.int64)
    usual = selection.is_usual
    shares = np.ones(len(queries)) if usual else _shares(index, queries, min(top_k, ENOUGH), selection)
    for share in np.unique(shares):
        alike = np.flatnonzero(shares == share)
        scores[alike], rows[alike] = index.search(queries[alike], top_k, selector, float(share), search_params)
    short = np.flatnonzero((rows >= 0).sum(axis=1) < min(top_k, selection.count))
    if len(short):
        selected = np.flatnonzero(np.unpackbits(selection.bits, count=index.count, bitorder="little"))
        scores[short], rows[short] = exact.scan(queries[short], top_k, selected)
    return scores, rows


def _shares(index: ShardIndex, queries: FloatArray, enough: int, selection: Selection) -> NDArray[np.float64]:
    """How frequent the selected rows are around each query: (b,), the less of there and everywhere, in coarse steps.

    Fields often go with topics: of rows in one language hardly any is near a query in another.
    """
    assert selection.bits is not None
    _, near = index.search(queries, min(NEIGHBOURS, index.count))
    found = np.cumsum((selection.bits[near >> 3] >> (near & 7)) & (near >= 0), axis=1)
    depth = np.argmax(found >= enough, axis=1) + 1
    here = np.where(found[:, -1] >= enough, enough / depth, (found[:, -1] + 1) / (near.shape[1] + 2))
    share = np.minimum(here, selection.count / index.count)
    coarse: NDArray[np.float64] = np.exp2(np.floor(2 * np.log2(share)) / 2)
    return coarse
