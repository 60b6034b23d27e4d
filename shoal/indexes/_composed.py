"""Kinds that are a FAISS index of parameters chosen by the data, with or without exact re-scoring."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import InvalidArgument
from shoal.indexes import _exact, _faiss, _files, factory
from shoal.indexes._contract import Precision, ShardIndex, exact_path
from shoal.records import FloatArray

if TYPE_CHECKING:
    from shoal.settings import IndexSettings

_SAMPLE = 10_000
"""Vectors that an index is described for where only its classes count, and not how many lists there are."""


class Composed:
    """The functions of `IndexKind` for one such kind.

    Args:
        describe: (dim, sample) -> FAISS factory string.
        search: Parameters where the settings name none, with `refine` for an exact kind.
        exact: Whether the vectors in float16 are kept and rank the candidates.
    """

    def __init__(self, describe: Callable[[int, int], str], search: str, *, exact: bool) -> None:
        self._describe = describe
        self._search = search
        self._exact = exact

    def check(self, name: str, dim: int, search: str) -> None:
        """Raise InvalidArgument for search parameters that the kind does not have."""
        self._split(search)
        factory.check(self._describe(dim, _SAMPLE), dim, self._split(search)[0])

    def precision(self, name: str, dim: int) -> Precision | None:
        """That of the vectors beside an exact kind, or else that of the index."""
        return "float16" if self._exact else factory.precision(self._describe(dim, 10_000), dim)

    def train(self, sample: FloatArray, settings: "IndexSettings", threads: int) -> bytes:
        """Train on float32 (n, dim), which also decides how many lists there are."""
        name = self._describe(sample.shape[1], len(sample))
        return factory.train(sample, settings.model_copy(update={"index_kind": name, "index_search": ""}), threads)

    def build(self, blocks: Iterable[FloatArray], dim: int, path: Path, trained: bytes | None, threads: int) -> None:
        """Fill a copy of the trained index. It is held in memory; exact vectors are written as they come."""
        if not self._exact:
            factory.build(blocks, dim, path, trained, threads)
            return
        with _exact.ExactWriter(exact_path(path), dim) as writer:
            factory.build(writer.tee(blocks), dim, path, trained, threads)

    def open(
        self, path: Path, settings: "IndexSettings", threads: int, mmap: bool = True, exact: Path | None = None
    ) -> ShardIndex:
        """Open with the search parameters of the settings, or else those of the kind."""
        search, refine = self._split(settings.index_search)
        default, depth = _exact.split(self._search)
        index = _files.read(path, threads, mmap, self._empty, default)
        _faiss.set_search(index.faiss, search)
        if not self._exact:
            return index
        vectors = _exact.read(exact or exact_path(path), index.count, index.dim)
        return _exact.ExactIndex(index, vectors, threads, refine or depth or 1)

    def _empty(self, dim: int) -> Any:
        return _faiss.create(self._describe(dim, _SAMPLE), dim, "")

    def _split(self, search: str) -> tuple[str, int | None]:
        try:
            others, refine = _exact.split(search)
        except ValueError as error:
            raise InvalidArgument(f"index_search: {search!r}: {error}", param="index_search") from None
        if refine is not None and not self._exact:
            raise InvalidArgument(
                f"index_search: {search!r}: this kind stores the vectors as they are, there is nothing to refine",
                param="index_search",
            )
        return others, refine
