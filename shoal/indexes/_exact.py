"""Exact re-scoring: a compressed index finds more candidates than are asked for, the vectors in float16 rank them.

The vectors lie in a NumPy file beside the index that is mapped, not read: a query touches the rows of its candidates.
"""

from collections.abc import Iterable, Iterator
from math import ceil
from pathlib import Path
from typing import IO, Any

import faiss
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from shoal.errors import CorruptIndex, ShoalError
from shoal.indexes import _faiss
from shoal.indexes._contract import Effort
from shoal.records import FloatArray, RowArray
from shoal.system.array_files import map_array

REFINE = "refine"
"""Name of the search parameter: candidates that are compared exactly, for each result that is asked for."""
REFINEMENTS = (1, 2, 4, 8, 16, 32, 64)
"""Values of `refine` that are measured, the cheapest first."""
_MEASURED_AT = 10
"""Results at which recall and cost are measured."""
_ROW_COST = 0.8
"""Microseconds to compare one candidate exactly (384 dimensions)."""
_SCANNED_ALWAYS, _SCANNED_SHARE = 5000, 0.02
"""Matching rows that are always scanned, which takes 0.09 us each, and the greatest share of them that is; more take as
long as a search with a selector that finds 95 % (see `_faiss`)."""


class ExactWriter:
    """Writes blocks of float32 (n, dim) as one float16 array (rows, dim) while they pass by. A context manager."""

    def __init__(self, path: Path, dim: int) -> None:
        self._dim = dim
        self._rows = 0
        self._file: IO[bytes] = path.open("wb")
        self._write_header()

    def tee(self, blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
        """Write each block and hand it on."""
        for block in blocks:
            self._file.write(np.ascontiguousarray(block, dtype="<f2").data)
            self._rows += len(block)
            yield block

    def _write_header(self) -> None:
        # NumPy leaves room in it for the rows to be counted at the end.
        header = {"descr": "<f2", "fortran_order": False, "shape": (self._rows, self._dim)}
        npy.write_array_header_1_0(self._file, header)

    def __enter__(self) -> "ExactWriter":
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.seek(0)
            self._write_header()


def read(path: Path, count: int, dim: int) -> NDArray[np.float16]:
    """Map the float16 vectors of `count` rows. Raises CorruptIndex when the file holds anything else."""
    try:
        vectors = map_array(path)
        if vectors.shape != (count, dim) or vectors.dtype != np.float16:
            raise ValueError(f"it holds {vectors.dtype} {vectors.shape}")
    except (OSError, ValueError, EOFError) as error:
        raise CorruptIndex(
            f"{path} does not hold {count} vectors of {dim} dimensions in float16 ({error}); restore it or activate "
            "another version"
        ) from error
    found: NDArray[np.float16] = vectors
    return found


def _mapped(vectors: NDArray[np.float16]) -> Any:
    """An index of FAISS over float16 (n, dim) that lies where it is: its codes of float16 are those of NumPy.

    It does not keep the array alive. Raises ShoalError with a FAISS whose codes cannot be a view.
    """
    index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    # What MaybeOwnedVector::create_view does in C++; Python cannot make the owner that it asks for.
    codes, place = index.codes, faiss.swig_ptr(vectors.view(np.uint8).reshape(-1))
    codes.is_owned, codes.view_data, codes.c_ptr = False, place, place
    codes.view_size = codes.c_size = vectors.nbytes
    # Without such a view (before FAISS 1.11), the assignments do nothing and a search would read beyond the codes.
    if codes.size() != vectors.nbytes or int(codes.data() or 0) != vectors.ctypes.data:
        raise ShoalError(
            f"FAISS {faiss.__version__} cannot search vectors in a mapped file, as indexes with exact re-scoring need; "
            "install another version, 1.11 or later"
        )
    index.ntotal = len(vectors)
    return index


class ExactIndex:
    """A compressed index with its exact vectors, float16 (n, dim), as a `ShardIndex`."""

    is_exact = exhaustive = False

    def __init__(self, coarse: _faiss.FaissIndex, exact: NDArray[np.float16], threads: int, refine: int) -> None:
        self._coarse = coarse
        self._exact = exact
        self._threads = threads
        self._refine = refine
        # FAISS itself ranks the candidates, by the file where it is mapped.
        self._compared = _mapped(exact)
        refined = faiss.IndexRefine(coarse.faiss, self._compared)
        refined.k_factor = refine
        self._refined = _faiss.FaissIndex(refined, threads)

    @property
    def count(self) -> int:
        """Number of vectors."""
        return self._coarse.count

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._coarse.dim

    def search(
        self, queries: FloatArray, top_k: int, selector: Any = None, share: float = 1.0, search_params: str = ""
    ) -> tuple[FloatArray, RowArray]:
        """Search for float32 (b, dim); see `ShardIndex.search`. Scores are those of the float16 vectors."""
        coarse, refine = split(search_params) if search_params else ("", None)
        depth = min(refine or self._refine, ceil(self.count / max(1, min(top_k, self.count))))
        if depth != self._refine:
            coarse = f"{coarse},{_faiss.REFINE}={depth}"
        return self._refined.search(queries, top_k, selector, share, coarse)

    def efforts(self) -> list[Effort]:
        """What the compressed index has to try, each with several depths of re-scoring."""
        return [
            Effort(f"{one.search},{REFINE}={depth}", one.cost + _MEASURED_AT * depth * _ROW_COST)
            for one in self._coarse.efforts()
            for depth in REFINEMENTS
        ]

    def prefers_scan(self, matches: int) -> bool:
        """Compare the two by what was measured; see `ShardIndex.prefers_scan`."""
        return matches <= max(_SCANNED_ALWAYS, _SCANNED_SHARE * self.count)

    def scan(self, queries: FloatArray, top_k: int, rows: RowArray) -> tuple[FloatArray, RowArray]:
        """Search float32 (b, dim) exactly among rows, int64 (n,); see `ShardIndex.scan`."""
        _faiss.start_searching(self._threads, self.dim)

        def find(asked: FloatArray, block: RowArray, count: int) -> tuple[FloatArray, RowArray]:
            vectors = self._exact[block]
            # FAISS compares float16 as it lies, a tenth of the time that it takes NumPy to convert it.
            found: tuple[FloatArray, RowArray] = _mapped(vectors).search(asked, count)
            return found

        return _faiss.scan(find, queries, top_k, rows)

    def vectors(self, rows: RowArray) -> FloatArray:
        """Return float32 (n, dim), as exact as float16."""
        found: FloatArray = self._exact[rows].astype(np.float32)
        return found


def split(search: str) -> tuple[str, int | None]:
    """Search parameters without `refine`, and its value if it is among them. Raises ValueError unless that is >= 1."""
    parts = [part for part in search.split(",") if part]
    depths = [int(part.partition("=")[2]) for part in parts if part.partition("=")[0] == REFINE]
    if any(depth < 1 for depth in depths):
        raise ValueError("values start at 1")
    others = ",".join(part for part in parts if part.partition("=")[0] != REFINE)
    return others, depths[-1] if depths else None
