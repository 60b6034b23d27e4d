"""`cagra`: a graph over the plain vectors that a GPU links (CAGRA of NVIDIA's cuVS) and CPUs search.

Ootomo et al., "CAGRA: Highly Parallel Graph Construction and Approximate Nearest Neighbor Search for GPUs", 2023,
arXiv:2308.15136. What is written is an IndexHNSWCagra, of which the lowest level is searched: from the best of some
vectors drawn at random on, where a search of `hnsw` comes down from level to level. Small shards, and those of a
machine without a GPU, such as what a server compacts, are linked as `hnsw` links them and searched in the same way.

Not yet run on hardware: cluster/gpu_check.sh is to do that.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from shoal.indexes import _faiss, _files, _gpu
from shoal.indexes._contract import Precision
from shoal.records import FloatArray, RowArray

if TYPE_CHECKING:
    from shoal.settings import IndexSettings

TRAINED, EXACT, NEEDS_GPU = False, False, True

_LINKS = 32
"""Links of a vector on each level above the lowest, which has twice as many: 64, as CAGRA has by default."""
_FEWEST = 10_000
"""Vectors of a shard from which on a GPU links them: below that a core needs seconds."""
_ENTRIES = 256
"""Vectors drawn at random, of which the nearest to a query is where its search starts."""
_SEARCH = "efSearch=64"
"""Search parameters where the settings name none."""


class _CagraIndex(_faiss.FaissIndex):
    def search(
        self, queries: FloatArray, top_k: int, selector: Any = None, share: float = 1.0, search_params: str = ""
    ) -> tuple[FloatArray, RowArray]:
        """Search for float32 (b, dim), each by itself: FAISS draws where to start by the place in a batch."""
        search = super().search
        if len(queries) < 2:
            return search(queries, top_k, selector, share, search_params)
        found = [search(query[None], top_k, selector, share, search_params) for query in queries]
        return np.concatenate([scores for scores, _ in found]), np.concatenate([rows for _, rows in found])


def check(name: str, dim: int, search: str) -> None:
    """Raise InvalidArgument for search parameters that a graph does not have."""
    _faiss.set_search(_empty(dim), search)


def precision(name: str, dim: int) -> Precision:
    """The vectors are kept as they are."""
    return "float32"


def train(sample: FloatArray, settings: "IndexSettings", threads: int) -> None:
    """Each graph is made of the vectors of its shard alone."""


def build(blocks: Iterable[FloatArray], dim: int, path: Path, trained: bytes | None, threads: int) -> None:
    """Link the vectors of a shard, on a GPU if this process sees one. They are held in memory twice."""
    vectors = np.concatenate([np.empty((0, dim), np.float32), *blocks])
    index = _gpu.link(vectors) if len(vectors) >= _FEWEST else None
    if index is None:
        index = _empty(dim)
        _faiss.start_building(1)  # several threads link in an order that differs from run to run
        index.add(vectors)
    index.base_level_only = True
    _files.write(index, path)


def open(
    path: Path, settings: "IndexSettings", threads: int, mmap: bool = True, exact: Path | None = None
) -> _faiss.FaissIndex:
    """Open with the search parameters of the settings, or else those of the kind."""
    index = _files.read(path, threads, mmap, _empty, _SEARCH).faiss
    _faiss.set_search(index, settings.index_search)
    # Not what the file says: any number of entries can stand there.
    index.base_level_only, index.num_base_level_search_entrypoints = True, _ENTRIES
    return _CagraIndex(index, threads)


def _empty(dim: int) -> Any:
    return faiss.IndexHNSWCagra(dim, _LINKS, faiss.METRIC_INNER_PRODUCT)
