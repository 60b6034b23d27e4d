"""What an index kind provides, and what an opened index of it does."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from shoal.records import FloatArray, RowArray

if TYPE_CHECKING:
    from shoal.settings import IndexSettings


Precision = Literal["float32", "float16"]
"""How exactly an index gives back the vectors that it was built from."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How far an index looks: search parameters such as `nprobe=16,refine=4`, and what that costs.

    cost: about how many microseconds a query takes; computed and not measured, so that equal builds choose alike.
    """

    search: str
    cost: float


class ShardIndex(Protocol):
    """An opened, read-only index. Safe for concurrent searches."""

    @property
    def count(self) -> int:
        """Number of vectors."""
        ...

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        ...

    def search(
        self, queries: FloatArray, top_k: int, selector: Any = None, share: float = 1.0, search_params: str = ""
    ) -> tuple[FloatArray, RowArray]:
        """Search for a batch of queries.

        Args:
            queries: float32 (b, dim), L2-normalised.
            selector: A faiss.IDSelector over rows, or None.
            share: Of all rows that the selector lets through; an approximate index looks so much further that it scores
                as many rows as ever.
            search_params: Search parameters that take the place of those that the index was opened with, such as
                nprobe=64.

        Returns:
            Scores float32 (b, k) descending and rows int64 (b, k), k = top_k, padded with -inf and -1.
        """
        ...

    @property
    def is_exact(self) -> bool:
        """Whether a search finds the nearest of all vectors, as `vectors` gives them back, but for rounded sums."""
        ...

    @property
    def exhaustive(self) -> bool:
        """Whether a search looks at every vector, so that `share` means nothing to it."""
        ...

    def efforts(self) -> list[Effort]:
        """The search parameters worth trying, the same for all shards of a version; none for an exact index."""
        ...

    def prefers_scan(self, matches: int) -> bool:
        """Whether a `scan` of so many rows takes less time than a `search` with a selector for them."""
        ...

    def scan(self, queries: FloatArray, top_k: int, rows: RowArray) -> tuple[FloatArray, RowArray]:
        """Search exactly among some rows, int64 (n,), ascending; otherwise like `search`.

        Exact for the vectors as the index stores them. Raises InvalidArgument when the kind cannot give them back.
        """
        ...

    def vectors(self, rows: RowArray) -> FloatArray:
        """Return the vectors of rows, float32 (n, dim); as near as the index stores them (exact for `flat`)."""
        ...


class IndexKind(Protocol):
    """What a module in this folder provides."""

    TRAINED: bool
    """Whether shards start from what `train` returns, so that the build samples the corpus for it."""

    EXACT: bool
    """Whether `build` writes the vectors in float16 as well, beside the index, and searches end by comparing those."""

    NEEDS_GPU: bool
    """Whether whoever asks for this kind needs a GPU for the build; searching never does."""

    def check(self, name: str, dim: int, search: str) -> None:
        """Raise InvalidArgument if no index of this kind, dimension and search parameters can be made."""
        ...

    def precision(self, name: str, dim: int) -> Precision | None:
        """How exactly the index, or the file beside it, keeps each vector; None when only an approximation is left.

        A later build copies vectors of the first two and computes the others anew.
        """
        ...

    def train(self, sample: FloatArray, settings: "IndexSettings", threads: int) -> bytes | None:
        """Train once for all shards on float32 (n, dim) and return the trained, empty index; None if none is needed.

        Raises InvalidArgument when the sample is too small for the kind.
        """
        ...

    def build(self, blocks: Iterable[FloatArray], dim: int, path: Path, trained: bytes | None, threads: int) -> None:
        """Write the index of one shard to `path` from blocks of float32 (n_i, dim), in row order.

        Equal blocks give equal bytes on one machine type. `flat` holds one block in memory, other kinds their index.
        A kind that is EXACT writes a second file, `exact_path(path)`.
        """
        ...

    def open(
        self, path: Path, settings: "IndexSettings", threads: int, mmap: bool = True, exact: Path | None = None
    ) -> ShardIndex:
        """Open a written index; with `mmap`, replicas of a node share its pages where FAISS can.

        Args:
            exact: Where the second file of an EXACT kind lies, if not beside the first.
        """
        ...


def exact_path(path: Path) -> Path:
    """Where the second file of an EXACT kind is written, given the first."""
    return path.with_suffix(".npy")
