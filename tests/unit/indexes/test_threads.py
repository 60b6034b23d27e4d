"""How many threads FAISS has while an index is trained and filled: those that the caller was given, said explicitly."""

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest

from shoal.indexes import index_kind
from shoal.records import FloatArray
from shoal.settings import IndexSettings

VECTORS = np.random.default_rng(7).standard_normal((400, 16)).astype(np.float32)


@pytest.fixture(autouse=True)
def threads_of_others() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(5)
    yield
    faiss.omp_set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("kind", "linked_by_one"), [("IVF4,Flat", False), ("IVF4,SQ8", False), ("hnsw", True)])
def test_lists_are_trained_and_filled_by_all_threads_and_graphs_are_linked_by_one(
    kind: str, linked_by_one: bool, threads: int, tmp_path: Path
) -> None:
    """Several threads would link a graph in an order that differs from run to run."""
    seen: list[int] = []

    def blocks() -> Iterator[FloatArray]:
        seen.append(faiss.omp_get_max_threads())
        yield VECTORS

    indexes, settings = index_kind(kind), IndexSettings(index_kind=kind)
    trained = indexes.train(VECTORS, settings, threads)
    if not linked_by_one:  # a graph learns nothing
        assert faiss.omp_get_max_threads() == threads
    indexes.build(blocks(), 16, tmp_path / "index", trained, threads)
    assert seen == [1 if linked_by_one else threads]
