"""Vector indexes of one shard. One kind is one file here; the file name is the value of the `index_kind` setting.

A kind module defines the functions of `IndexKind`. A setting that names no file is taken as a FAISS factory string and
handled by `factory.py`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from shoal.records import FloatArray, RowArray

if TYPE_CHECKING:
    from shoal.settings import IndexSettings


class ShardIndex(Protocol):
    """An opened, read-only index. Safe for concurrent searches."""

    @property
    def count(self) -> int:
        """Number of vectors."""
        ...

    def search(self, queries: FloatArray, top_k: int, selector: Any = None) -> tuple[FloatArray, RowArray]:
        """Search for a batch of queries.

        queries: float32 (b, dim), L2-normalised. selector: a faiss.IDSelector over rows, or None.
        Returns scores float32 (b, k) descending and rows int64 (b, k), k = top_k, padded with -inf and -1.
        """
        ...


class IndexKind(Protocol):
    """What a module in this folder provides."""

    def train(self, sample: FloatArray, settings: "IndexSettings", threads: int) -> bytes | None:
        """Train once for all shards on float32 (n, dim) and return the trained, empty index; None if there is nothing to."""
        ...

    def build(
        self, blocks: Iterable[FloatArray], dim: int, path: Path, trained: bytes | None, threads: int
    ) -> None:
        """Write the index of one shard to `path` from blocks of float32 (n_i, dim), in row order, in bounded memory."""
        ...

    def open(self, path: Path, settings: "IndexSettings", threads: int, mmap: bool = True) -> ShardIndex:
        """Open a written index; with `mmap`, replicas of a node share its pages where FAISS can."""
        ...


def index_kind(name: str) -> IndexKind:
    """Return the kind that a setting names: a module of this package or, for a FAISS factory string, `factory`.

    Raises InvalidArgument when the name is neither.
    """
    raise NotImplementedError
