"""`flat`: exact search over the plain vectors, in the file format of faiss.IndexFlatIP."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np

from shoal.errors import InvalidArgument
from shoal.indexes import _faiss, _files
from shoal.indexes._contract import Precision
from shoal.records import FloatArray

if TYPE_CHECKING:
    from shoal.settings import IndexSettings

TRAINED, EXACT, NEEDS_GPU = False, False, False

_COUNT_AT = 8
"""Offset of the vector count in the file, in bytes: after the four letters of the type and the dimension (int32)."""


def check(name: str, dim: int, search: str) -> None:
    """Raise InvalidArgument for search parameters: exact search has none."""
    if search:
        raise InvalidArgument(
            f"index_search: {name!r} has no search parameters, got {search!r}; leave it empty", param="index_search"
        )


def precision(name: str, dim: int) -> Precision:
    """The vectors are kept as they are."""
    return "float32"


def train(sample: FloatArray, settings: "IndexSettings", threads: int) -> None:
    """Exact search learns nothing."""


def build(blocks: Iterable[FloatArray], dim: int, path: Path, trained: bytes | None, threads: int) -> None:
    """Write the vectors as they come, so that memory holds one block and not the shard.

    The file is what faiss.write_index makes of an IndexFlatIP: the header of an empty one, whose last 8 bytes count the
    floats that follow, with both counts set at the end.
    """
    header = faiss.serialize_index(faiss.IndexFlatIP(dim)).tobytes()
    count = 0
    with path.open("wb") as file:
        file.write(header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype="<f4").data)
            count += len(block)
        file.seek(_COUNT_AT)
        file.write(count.to_bytes(8, "little"))
        file.seek(len(header) - 8)
        file.write((count * dim).to_bytes(8, "little"))


def of_vectors(vectors: FloatArray, threads: int) -> _faiss.FaissIndex:
    """Make an index in memory of float32 (n, dim)."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    return _faiss.FaissIndex(index, threads)


def open(
    path: Path, settings: "IndexSettings", threads: int, mmap: bool = True, exact: Path | None = None
) -> _faiss.FaissIndex:
    """Open for exact search; replicas of a node share the pages."""
    return _files.read(path, threads, mmap, lambda dim: _faiss.create("Flat", dim, ""))
