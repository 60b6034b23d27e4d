"""What all kinds that store a FAISS index share: making it and searching it."""

import threading
from collections.abc import Callable, Mapping
from math import ceil, sqrt
from typing import Any

import faiss
import numpy as np

from shoal.errors import InvalidArgument
from shoal.indexes import _structure
from shoal.indexes._contract import Effort
from shoal.records import FloatArray, RowArray

# FAISS reads the vectors once for each query of a small batch and once for all queries of a large one (by matrix
# multiplication). That wins from 4 queries on (measured, 50,000 x 384); FAISS starts at 20 queries, from some version
# before 1.15 on at 128,000 / dimensions.
_DEFAULT_THRESHOLD = faiss.cvar.distance_compute_blas_threshold
"""FAISS's own threshold for reading the vectors once for a whole batch: 20 queries, or 128,000 queries x dimensions."""
_SHARED_SCAN = 4
"""Queries of a batch from which on the vectors are read once for all of them."""
_SCAN_BLOCK = 8192
"""Vectors that a scan copies out of the index at a time, so that its memory does not grow with the matches."""

# Where a scan of the matching rows and a search with a selector take the same time (384 dimensions, one thread, by
# benchmarks.filters). The first copies vectors, 0.1 us each where they lie whole, 1 us each out of codes in lists.
# The second asks the selector about every row it passes, 4 ns each, and a graph is walked 1 / share times as far, 4 us
# for each unit of efSearch.
_SCANNED_ALWAYS = 200
"""Matching rows that are always scanned, whatever the index; up to this many."""
_SCANNED_SHARE = 0.05
"""Greatest share of matching rows that is scanned where vectors lie whole and in one piece."""
_SCANNED_SHARE_OF_LISTS = 0.02
"""Greatest share of matching rows that is scanned where vectors lie whole in lists."""
_SCANNED_SHARE_OF_CODES = 0.005
"""Greatest share of matching rows that is scanned where lists hold codes."""
_LISTS = 1.5
"""Exponent: among a share of the rows, 1 / share ** _LISTS times as many lists are probed as among all."""
_FILTERED_LISTS = 6
"""Lists that a filtered search starts from at least: where one is enough without a filter, as in tight clusters, the
next matching rows lie in lists whose order says little."""
_SCANNED_GRAPH = 16
"""Of a graph, m matching rows of n are scanned if m * m is at most this number times n times efSearch."""

# What is tried when search parameters are tuned, and what it costs, in microseconds of one core (384 dimensions).
_MOST_LISTS = 512
"""Most lists to probe (nprobe) that tuning tries."""
_GRAPH_EFFORTS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Widths of the search in a graph (efSearch) that tuning tries."""
_REFINEMENTS = (1, 2, 4, 8, 16, 32)
"""Candidates to rank exactly for each result that tuning tries."""
REFINE = "k_factor_rf"
"""FAISS's name of the search parameter that says how many candidates are ranked exactly for each result."""
_GRAPH_COST = 4.0
"""Microseconds for each unit of efSearch."""
_BYTE_COST = 1e-4
"""Microseconds to compare one byte of a code or of a list's centre."""
_ROW_COST = 0.02
"""Microseconds to compare one code, besides those for its bytes."""


class FaissIndex:
    """A FAISS index whose metric is the inner product, as a `ShardIndex`."""

    def __init__(self, index: Any, threads: int) -> None:
        self._index = index
        # It is filled already; asking FAISS for them takes longer than some searches.
        self._count, self._dim = int(index.ntotal), int(index.d)
        self._is_exact = isinstance(faiss.downcast_index(index), faiss.IndexFlat)
        self._threads = threads
        self._mapping = threading.Lock()

    @property
    def faiss(self) -> Any:
        """The index itself."""
        return self._index

    @property
    def count(self) -> int:
        """Number of vectors."""
        return self._count

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._dim

    def search(
        self, queries: FloatArray, top_k: int, selector: Any = None, share: float = 1.0, search_params: str = ""
    ) -> tuple[FloatArray, RowArray]:
        """Search for float32 (b, dim); see `ShardIndex.search`."""
        found = min(top_k, self._count)
        if not found or not len(queries):
            return _padded(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64), top_k)
        self._start_searching()
        parameters = None
        if selector is not None or search_params:
            parameters = search_parameters(self._index, selector, share, parsed(search_params))
        try:
            scores, rows = self._find(queries, found, parameters, selector is not None)
        except RuntimeError as error:
            raise InvalidArgument(f"this index kind cannot answer the search ({reason(error)})") from error
        if min(rows[:, -1].tolist()) < 0:  # what is missing comes last
            scores[rows < 0] = -np.inf
        return (scores, rows) if found == top_k else _padded(scores, rows, top_k)

    def _find(self, queries: FloatArray, count: int, parameters: Any, selected: bool) -> tuple[FloatArray, RowArray]:
        """Have FAISS search for float32 (b, dim), among selected rows or all; count is at most that of the vectors."""
        found: tuple[FloatArray, RowArray] = self._index.search(queries, count, params=parameters)
        return found

    @property
    def is_exact(self) -> bool:
        """Whether the vectors lie in it as they are and a search looks at all of them."""
        return self._is_exact

    @property
    def exhaustive(self) -> bool:
        """Whether a search looks at every vector."""
        return inverted_lists(self._index) is None and not isinstance(base(self._index), faiss.IndexHNSW)

    def efforts(self) -> list[Effort]:
        """Doubling numbers of lists, or widths of the search in a graph; see `ShardIndex.efforts`."""
        lists, inner = inverted_lists(self._index), base(self._index)
        if lists is not None:
            name, steps = "nprobe", doubling(min(_MOST_LISTS, lists.nlist))
            centres = 4 * self.dim * lists.nlist * _BYTE_COST
            row = _ROW_COST + lists.code_size * _BYTE_COST
            costs = [centres + step * self.count / lists.nlist * row for step in steps]
        elif isinstance(inner, faiss.IndexHNSW):
            name, steps = "efSearch", list(_GRAPH_EFFORTS)
            costs = [_GRAPH_COST * step for step in steps]
        else:
            return []
        tried = [Effort(f"{name}={step}", cost) for step, cost in zip(steps, costs, strict=True)]
        if not isinstance(faiss.downcast_index(self._index), faiss.IndexRefine):
            return tried
        return [
            Effort(f"{one.search},{REFINE}={factor}", one.cost + factor) for one in tried for factor in _REFINEMENTS
        ]

    def prefers_scan(self, matches: int) -> bool:
        """Compare the two by what was measured; see `ShardIndex.prefers_scan`."""
        lists, inner = inverted_lists(self._index), base(self._index)
        if not gives_vectors(self._index):
            return matches == 0
        if isinstance(inner, faiss.IndexHNSW):
            most = sqrt(_SCANNED_GRAPH * self.count * inner.hnsw.efSearch)
        else:
            in_lists = _SCANNED_SHARE_OF_LISTS if isinstance(lists, faiss.IndexIVFFlat) else _SCANNED_SHARE_OF_CODES
            most = self.count * (_SCANNED_SHARE if lists is None else in_lists)
        return matches <= max(_SCANNED_ALWAYS, most)

    def scan(self, queries: FloatArray, top_k: int, rows: RowArray) -> tuple[FloatArray, RowArray]:
        """Search float32 (b, dim) exactly among rows, int64 (n,); see `ShardIndex.scan`."""
        if len(queries) and len(rows) and not gives_vectors(self._index):
            # See `vectors`.
            return self.search(queries, top_k, faiss.IDSelectorBatch(rows), len(rows) / self.count**2)
        self._start_searching()

        def find(asked: FloatArray, block: RowArray, count: int) -> tuple[FloatArray, RowArray]:
            found: tuple[FloatArray, RowArray] = faiss.knn(
                asked, self.vectors(block), count, metric=faiss.METRIC_INNER_PRODUCT
            )
            return found

        return scan(find, queries, top_k, rows)

    def _start_searching(self) -> None:
        start_searching(self._threads, self.dim)

    def vectors(self, rows: RowArray) -> FloatArray:
        """Return float32 (n, dim); see `ShardIndex.vectors`."""
        if not len(rows):
            return np.empty((0, self.dim), dtype=np.float32)
        if self._is_exact:
            plain: FloatArray = self._index.reconstruct_batch(rows)
            return plain
        if not gives_vectors(self._index):
            raise InvalidArgument(
                "this index kind cannot give vectors back; leave them out of include", param="include"
            )
        inverted = inverted_lists(self._index)
        if inverted is not None:
            with self._mapping:
                if inverted.direct_map.no():
                    inverted.make_direct_map()
        try:
            found: FloatArray = self._index.reconstruct_batch(np.asarray(rows, dtype=np.int64))
        except RuntimeError as error:
            raise InvalidArgument(
                f"this index kind cannot give vectors back ({reason(error)}); leave them out of include",
                param="include",
            ) from error
        return found


def _padded(scores: FloatArray, rows: RowArray, top_k: int) -> tuple[FloatArray, RowArray]:
    """Widen scores and rows (b, k) to (b, top_k)."""
    missing = ((0, 0), (0, top_k - scores.shape[1]))
    return np.pad(scores, missing, constant_values=-np.inf), np.pad(rows, missing, constant_values=-1)


def start_searching(threads: int, dim: int) -> None:
    """Set what this thread searches with: OpenMP keeps the number of threads for each calling thread."""
    faiss.omp_set_num_threads(threads)
    unit = 1 if _DEFAULT_THRESHOLD == 20 else dim
    faiss.cvar.distance_compute_blas_threshold = _SHARED_SCAN * unit


def scan(
    find: Callable[[FloatArray, RowArray, int], tuple[FloatArray, RowArray]],
    queries: FloatArray,
    top_k: int,
    rows: RowArray,
) -> tuple[FloatArray, RowArray]:
    """Search float32 (b, dim) exactly among rows, int64 (n,), block by block; see `ShardIndex.scan`.

    find: gives for queries, a block of rows and k the scores of the best and their places in the block, (b, k) each.
    """
    scores = np.full((len(queries), top_k), -np.inf, dtype=np.float32)
    found = np.full((len(queries), top_k), -1, dtype=np.int64)
    if not len(queries):
        return scores, found
    for start in range(0, len(rows), _SCAN_BLOCK):
        block = rows[start : start + _SCAN_BLOCK]
        best, places = find(queries, block, min(top_k, len(block)))
        both = np.concatenate([scores, best], axis=1), np.concatenate([found, block[places]], axis=1)
        order = np.argsort(-both[0], axis=1, kind="stable")[:, :top_k]
        scores, found = (np.take_along_axis(part, order, axis=1) for part in both)
    return scores, found


def start_building(threads: int) -> None:
    """Set what FAISS trains and fills with, so that the result does not depend on what this process did before."""
    faiss.omp_set_num_threads(threads)
    faiss.cvar.distance_compute_blas_threshold = _DEFAULT_THRESHOLD


def create(name: str, dim: int, search: str) -> Any:
    """Make an empty index by FAISS factory string and set its search parameters. Raises InvalidArgument."""
    try:
        _structure.check_factory(name, dim)
        index = faiss.index_factory(dim, name, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, ValueError) as error:
        raise InvalidArgument(
            f"index_kind: {name!r} is neither a file of shoal/indexes/ nor a FAISS factory string for {dim} dimensions "
            f"({reason(error)}); examples: auto, flat, ivf_sq8, IVF1024,SQ8",
            param="index_kind",
        ) from error
    # Shards are filled block by block with consecutive rows: neither an id map nor these graphs allow that.
    try:
        unfit = not _structure.structure(index)
    except ValueError:
        unfit = True
    inverted = inverted_lists(index)
    if unfit or index.metric_type != faiss.METRIC_INNER_PRODUCT or (inverted is not None and inverted.nlist < 1):
        raise InvalidArgument(
            f"index_kind: {name!r} cannot be filled in blocks and searched by inner product; "
            "examples: flat, IVF1024,SQ8, HNSW32",
            param="index_kind",
        )
    set_search(index, search)
    return index


def base(index: Any) -> Any:
    """Return the index that holds the vectors, below vector transforms and refinement."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return base(index.index)
    return base(index.base_index) if isinstance(index, faiss.IndexRefine) else index


def inverted_lists(index: Any) -> Any:
    """Return the IVF index within an index, as the class that it is, or None."""
    inverted = faiss.try_extract_index_ivf(index)
    return None if inverted is None else faiss.downcast_index(inverted)


def gives_vectors(index: Any) -> bool:
    """Whether vectors can be had back: not of an IVF index with 4-bit fast scan, where FAISS 1.15 crashes."""
    return not isinstance(inverted_lists(index), faiss.IndexIVFFastScan)


def set_search(index: Any, search: str) -> None:
    """Apply search parameters such as `nprobe=16`, comma-separated. Raises InvalidArgument."""
    if not search:
        return
    try:
        faiss.ParameterSpace().set_index_parameters(index, search)
        if any(float(part.partition("=")[2]) < 1 for part in search.split(",") if part):
            raise ValueError("values start at 1")
    except (RuntimeError, ValueError) as error:
        raise InvalidArgument(
            f"index_search: {search!r} does not fit this index kind ({reason(error)}); examples: nprobe=16 for IVF, "
            "efSearch=64 for HNSW",
            param="index_search",
        ) from error


def search_parameters(index: Any, selector: Any, share: float, given: Mapping[str, int]) -> Any:
    """Search parameters that restrict an index to the rows of a selector (None: all), `share` of all.

    A graph is searched 1 / share times as far: the nearest tenth of a tenth lies as deep as the nearest hundredth. Of
    lists it takes more (measured): far from a query their order says less about the vectors in them.

    Args:
        given: Parameters by name that take the place of the index's own; it keeps all others.
    """
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=search_parameters(index.index, selector, share, given))
    if isinstance(index, faiss.IndexRefine):
        base = search_parameters(index.base_index, selector, share, given)
        return faiss.IndexRefineSearchParameters(k_factor=given.get(REFINE, index.k_factor), base_index_params=base)
    if isinstance(index, faiss.IndexIVF):
        nprobe = given.get("nprobe", index.nprobe)
        if share < 1:
            nprobe = _further(max(nprobe, _FILTERED_LISTS), share**_LISTS, index.nlist)
        if isinstance(index, faiss.IndexIVFPQ):
            return faiss.IVFPQSearchParameters(
                sel=selector, nprobe=nprobe, max_codes=index.max_codes,
                polysemous_ht=index.polysemous_ht, scan_table_threshold=index.scan_table_threshold,
            )  # fmt: skip
        return faiss.SearchParametersIVF(sel=selector, nprobe=nprobe, max_codes=index.max_codes)
    if isinstance(index, faiss.IndexHNSW):
        width = _further(given.get("efSearch", index.hnsw.efSearch), share, index.ntotal)
        return faiss.SearchParametersHNSW(sel=selector, efSearch=width)
    return faiss.SearchParameters(sel=selector)


def parsed(search: str) -> dict[str, int]:
    """Search parameters by name."""
    pairs = (part.partition("=") for part in search.split(",") if part)
    return {name: int(float(value)) for name, _, value in pairs}


def doubling(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    return [*(2**power for power in range((most - 1).bit_length())), most]


def _further(width: int, share: float, limit: int) -> int:
    return max(width, min(ceil(width / max(share, 1 / max(limit, 1))), limit))


def reason(error: Exception) -> str:
    """The human part of a FAISS exception: `Error in <function> at <file>:<line>: <reason>`."""
    return str(error).strip().rpartition(": ")[2]
