"""Any FAISS factory string, such as `IVF1024,SQ8` or `HNSW32`: trained once, shared by all shards."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np

from shoal.errors import InvalidArgument
from shoal.indexes import _faiss, _files, _gpu, _structure
from shoal.indexes._contract import Precision
from shoal.records import FloatArray

if TYPE_CHECKING:
    from shoal.settings import IndexSettings

TRAINED, EXACT, NEEDS_GPU = True, False, False


def check(name: str, dim: int, search: str) -> None:
    """Raise InvalidArgument, naming the setting, when FAISS does not understand the kind or the search parameters."""
    _faiss.create(name, dim, search)


def gives_vectors(name: str, dim: int) -> bool:
    """Whether an index of this kind can give vectors back. Raises InvalidArgument as `check` does."""
    return _faiss.gives_vectors(_faiss.create(name, dim, ""))


def precision(name: str, dim: int) -> Precision | None:
    """The vectors are kept as they are, unless codes take their place or a transform comes before.

    Raises InvalidArgument as `check` does.
    """
    index = faiss.downcast_index(_faiss.create(name, dim, ""))
    return "float32" if isinstance(index, faiss.IndexFlat | faiss.IndexIVFFlat | faiss.IndexHNSWFlat) else None


def train(sample: FloatArray, settings: "IndexSettings", threads: int) -> bytes:
    """Train on float32 (n, dim), on a GPU if this process sees one, and return the serialised empty index."""
    index = _faiss.create(settings.index_kind, sample.shape[1], settings.index_search)
    if not index.is_trained:
        _faiss.start_building(threads)
        worker, on_gpu = _gpu.borrow(index)
        try:
            worker.train(sample)
        except (RuntimeError, AssertionError) as error:
            raise InvalidArgument(
                f"index_kind: {settings.index_kind!r} cannot be trained on {len(sample)} vectors "
                f"({_faiss.reason(error)}); take a smaller index kind, or more train_passages",
                param="index_kind",
            ) from error
        index = _gpu.give_back(worker, on_gpu)
    trained: bytes = faiss.serialize_index(index).tobytes()
    return trained


def build(blocks: Iterable[FloatArray], dim: int, path: Path, trained: bytes | None, threads: int) -> None:
    """Fill a copy of the trained index, on a GPU if this process sees one. The whole index is held in memory."""
    if trained is None:
        raise ValueError("a factory index starts from what train() returned")
    index = _structure.open_trained(trained)
    # Several threads link a graph in an order that differs from run to run; equal input has to give equal bytes.
    _faiss.start_building(1 if isinstance(_faiss.base(index), faiss.IndexHNSW) else threads)
    worker, on_gpu = _gpu.borrow(index)
    for block in blocks:
        try:
            worker.add(np.ascontiguousarray(block))
        except RuntimeError as error:
            raise _gpu.too_large(error) from error
    _files.write(_gpu.give_back(worker, on_gpu), path)


def open(
    path: Path, settings: "IndexSettings", threads: int, mmap: bool = True, exact: Path | None = None
) -> _faiss.FaissIndex:
    """Open with the search parameters of the settings."""
    name = settings.index_kind
    return _files.read(path, threads, mmap, lambda dim: _faiss.create(name, dim, ""), settings.index_search)
