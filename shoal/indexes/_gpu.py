"""What GPUs do for indexes: they train, fill and link them, and search copies of them where no filter asks otherwise.

The CPU index is what is written, and what is searched with a selector: GPU indexes ignore selectors.
"""

import threading
from functools import cache
from typing import Any

import faiss

from shoal.errors import InvalidArgument
from shoal.indexes import _faiss
from shoal.indexes._contract import ShardIndex
from shoal.records import FloatArray, RowArray

_MOST_RESULTS = 2048
"""Results of one query, at most, that FAISS selects on a GPU."""
_searching = threading.Lock()
"""Held while a GPU searches: FAISS has its scratch memory for one search at a time."""


def has_gpu() -> bool:
    """Whether FAISS is built for GPUs and this process sees one."""
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def has_cuvs() -> bool:
    """Whether FAISS is built with cuVS, which links graphs."""
    return hasattr(faiss, "GpuIndexCagra")


def borrow(index: Any) -> tuple[Any, bool]:
    """Return the index to train or fill, and whether it is a copy on a GPU that `give_back` has to copy home.

    The index itself comes back when faiss is built without GPU support, when this process sees no GPU, and when FAISS
    has no GPU implementation of its kind (HNSW, for one).
    """
    if not has_gpu():
        return index, False
    try:
        return _copy(index, faiss.StandardGpuResources()), True
    except RuntimeError:
        return index, False


def give_back(index: Any, on_gpu: bool) -> Any:
    """Return a trained or filled index as a CPU index."""
    return faiss.index_gpu_to_cpu(index) if on_gpu else index


def link(vectors: FloatArray) -> Any:
    """Link float32 (n, dim) on a GPU and return an IndexHNSWCagra of the lowest level; None without GPU or cuVS.

    Raises InvalidArgument where the memory of the GPU does not hold them.
    """
    if not (has_gpu() and has_cuvs()):
        return None
    index = faiss.IndexHNSWCagra()
    index.base_level_only = True
    try:
        graph = faiss.GpuIndexCagra(faiss.StandardGpuResources(), vectors.shape[1], faiss.METRIC_INNER_PRODUCT)
        graph.train(vectors)
        graph.copyTo(index)
    except RuntimeError as error:
        raise too_large(error) from error
    return index


def too_large(error: Exception) -> InvalidArgument:
    """The error of a shard that cannot be filled, above all where the memory of a GPU is full."""
    return InvalidArgument(
        f"index_kind: a shard cannot be filled ({_faiss.reason(error)}); take more shards", param="shards"
    )


class _CopiedIndex(_faiss.FaissIndex):
    """An index that is searched on a GPU where all rows are, and few enough results wanted."""

    def __init__(self, index: _faiss.FaissIndex, copy: Any) -> None:
        super().__init__(index.faiss, index._threads)
        self._copy = copy

    def _find(self, queries: FloatArray, count: int, parameters: Any, selected: bool) -> tuple[FloatArray, RowArray]:
        if selected or count > _MOST_RESULTS:
            return super()._find(queries, count, parameters, selected)
        with _searching:
            found: tuple[FloatArray, RowArray] = self._copy.search(queries, count, params=parameters)
        return found


def search_on_gpu(index: ShardIndex) -> ShardIndex:
    """Return the index with a copy on the GPU, which holds what the index holds, for searches without a selector.

    So do `flat` and `ivf`. Others come back as they are: graphs, which a GPU would search in another way than the one
    whose recall was measured, and kinds that compare their candidates with vectors on disk.

    Raises:
        InvalidArgument: There is no GPU, FAISS is not built for one, or its memory is full.
    """
    if not has_gpu():
        lack = "no GPU is to be seen" if hasattr(faiss, "StandardGpuResources") else "FAISS is built without GPUs"
        raise InvalidArgument(
            f"retriever_device=cuda, but {lack}: install shoal[gpu], on Ray give --gpus-per-replica, or leave it out",
            param="retriever_device",
        )
    if not (isinstance(index, _faiss.FaissIndex) and index.count):
        return index
    if not isinstance(faiss.downcast_index(index.faiss), faiss.IndexFlat | faiss.IndexIVFFlat):
        return index
    try:
        return _CopiedIndex(index, _copy(index.faiss, _resources()))
    except RuntimeError as error:
        raise InvalidArgument(
            f"retriever_device=cuda: a shard does not fit the GPU ({_faiss.reason(error)}); take more shards or GPUs, "
            "or leave it out",
            param="retriever_device",
        ) from error


def _copy(index: Any, resources: Any) -> Any:
    """Copy an index to the GPU: the first one, as Ray shows a process only its own. Raises RuntimeError."""
    options = faiss.GpuClonerOptions()
    options.use_cuvs = False  # FAISS's own code has more kinds, and is the same in builds without cuVS
    return faiss.index_cpu_to_gpu(resources, 0, index, options)


@cache
def _resources() -> Any:
    """The scratch memory of this process on its GPU, for all searches."""
    return faiss.StandardGpuResources()
