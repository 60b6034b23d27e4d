"""What every kind of vector index must pass, against exact search by numpy. In the tests of one of your own:

class TestMine(IndexContract):
    @pytest.fixture(scope="class")
    def case(self) -> Case:
        return Case("mine", search="nprobe=8", recall=0.95)
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import pytest

from shoal.errors import CorruptIndex
from shoal.indexes import ShardIndex, check, exact_path, index_kind, precision
from shoal.records import FloatArray
from shoal.settings import IndexSettings

COUNT, DIM, TOP = 1500, 32, 10
"""Vectors of the index, their dimensions, and results of a search."""


class Case(NamedTuple):
    """An index kind with the search parameters it is opened with, and how good it must be."""

    kind: str
    search: str = ""
    recall: float = 1.0
    """Least share of the exact nearest ten that it has to find."""


def _normalised(count: int, seed: int) -> FloatArray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


VECTORS, QUERIES = _normalised(COUNT, seed=1), _normalised(40, seed=2)


@dataclass(frozen=True, slots=True)
class Built:
    """An index of `VECTORS`: its case, its file, and the index as it was opened from there."""

    case: Case
    path: Path
    index: ShardIndex


def build(case: Case, path: Path, block: int = 400, vectors: FloatArray = VECTORS) -> ShardIndex:
    """Train on `VECTORS`, write the index of `vectors` in blocks of so many rows to `path`, and open it."""
    settings = IndexSettings(index_kind=case.kind, index_search=case.search)
    kind = index_kind(case.kind)
    trained = kind.train(VECTORS, settings, 1)
    assert (trained is not None) == kind.TRAINED
    kind.build((vectors[at : at + block] for at in range(0, len(vectors), block)), DIM, path, trained, 1)
    return kind.open(path, settings, 1)


def exact(queries: FloatArray, rows: np.ndarray | None = None) -> np.ndarray:
    """Rows of the nearest vectors, nearest first, by numpy."""
    scores = queries.astype(np.float64) @ VECTORS.T.astype(np.float64)
    if rows is not None:
        scores[:, np.setdiff1d(np.arange(COUNT), rows)] = -np.inf
    return np.argsort(-scores, axis=1)[:, :TOP]


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    """Share of the wanted rows, int64 (b, TOP), that were found, mean of the queries."""
    return float(np.mean([len(set(a) & set(b)) / TOP for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]))


class IndexContract:
    """The promises of `shoal.indexes.IndexKind` and `ShardIndex`."""

    @pytest.fixture(scope="class")
    def built(self, case: Case, tmp_path_factory: pytest.TempPathFactory) -> Built:
        """One index of `VECTORS` for all tests of the class."""
        path = tmp_path_factory.mktemp("index") / "vectors.faiss"
        return Built(case, path, build(case, path))

    def test_a_good_setting_passes_the_check(self, case: Case) -> None:
        check(case.kind, DIM, case.search)

    def test_vectors_are_kept_as_exactly_as_it_says(self, built: Built) -> None:
        exactness = precision(built.case.kind, DIM)
        if exactness is not None:
            kept = built.index.vectors(np.arange(COUNT))
            np.testing.assert_array_equal(kept, VECTORS.astype(exactness).astype(np.float32))

    def test_it_finds_what_numpy_finds(self, built: Built) -> None:
        scores, rows = built.index.search(QUERIES, TOP)
        assert (built.index.count, built.index.dim) == (COUNT, DIM)
        assert scores.shape == rows.shape == (len(QUERIES), TOP)
        assert scores.dtype == np.float32
        assert rows.dtype == np.int64
        assert (np.diff(scores, axis=1) <= 0).all()
        assert recall(rows, exact(QUERIES)) >= built.case.recall
        if built.case.recall == 1.0:
            np.testing.assert_array_equal(rows, exact(QUERIES))
            np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", QUERIES, VECTORS[rows]), atol=1e-5)

    @pytest.mark.parametrize("batch", [0, 1, 2, 3, 4, 19, 20, 40])
    def test_a_query_finds_the_same_in_every_batch(self, built: Built, batch: int) -> None:
        together, alone = built.index.search(QUERIES[:batch], TOP), built.index.search(QUERIES, TOP)
        np.testing.assert_array_equal(together[1], alone[1][:batch])
        np.testing.assert_allclose(together[0], alone[0][:batch], atol=1e-5)

    def test_more_than_there_is_is_padded(self, built: Built) -> None:
        scores, rows = built.index.search(QUERIES[:2], COUNT + 7)
        assert rows.shape == (2, COUNT + 7)
        missing = rows == -1
        assert missing[:, COUNT:].all()
        assert (scores[missing] == -np.inf).all()
        assert np.isfinite(scores[~missing]).all()
        for line in rows:
            found = line[line >= 0]
            assert len(set(found.tolist())) == len(found) >= TOP

    def test_a_selector_restricts_the_search_to_its_rows(self, built: Built) -> None:
        allowed = np.arange(5, COUNT, 7)
        _, rows = built.index.search(QUERIES, TOP, faiss.IDSelectorBatch(allowed))
        assert set(rows.ravel().tolist()) <= {-1, *allowed.tolist()}
        assert recall(rows, exact(QUERIES, allowed)) >= min(built.case.recall, 0.9)

    def test_a_scan_finds_the_nearest_of_some_rows(self, built: Built) -> None:
        allowed = np.arange(5, COUNT, 7)
        scores, rows = built.index.scan(QUERIES, TOP, allowed)
        assert scores.dtype == np.float32
        assert rows.dtype == np.int64
        assert scores.shape == (len(QUERIES), TOP)
        assert set(rows.ravel().tolist()) <= set(allowed.tolist())
        assert (np.diff(scores, axis=1) <= 0).all()
        assert recall(rows, exact(QUERIES, allowed)) >= built.case.recall
        stored = np.stack([built.index.vectors(line) for line in rows])
        np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", QUERIES, stored), atol=1e-5)
        for few in (allowed[:3], allowed[:0]):
            scores, rows = built.index.scan(QUERIES, TOP, few)
            assert [sorted(line) for line in rows[:, : len(few)].tolist()] == [few.tolist()] * len(QUERIES)
            assert (rows[:, len(few) :] == -1).all()
            assert (scores[:, len(few) :] == -np.inf).all()

    def test_a_selector_for_rare_rows_is_searched_as_far_as_it_takes(self, built: Built) -> None:
        rare = np.arange(0, COUNT, 50)
        mask = np.zeros(COUNT, np.bool_)
        mask[rare] = True
        selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        _, rows = built.index.search(QUERIES, TOP, selector, len(rare) / COUNT)
        assert recall(rows, exact(QUERIES, rare)) >= min(built.case.recall, 0.95)
        assert built.index.prefers_scan(10)

    def test_searches_may_run_at_the_same_time(self, built: Built) -> None:
        expected = built.index.search(QUERIES, TOP)[1]
        with ThreadPoolExecutor(4) as pool:
            for _, rows in pool.map(lambda _: built.index.search(QUERIES, TOP), range(12)):
                np.testing.assert_array_equal(rows, expected)

    def test_vectors_come_back_as_near_as_they_are_stored(self, built: Built) -> None:
        rows = np.array([3, COUNT - 1, 0, 3])
        vectors = built.index.vectors(rows)
        assert vectors.shape == (4, DIM)
        assert vectors.dtype == np.float32
        assert ((vectors * VECTORS[rows]).sum(axis=1) > 0.7).all()
        assert built.index.vectors(np.array([], dtype=np.int64)).shape == (0, DIM)
        if built.case.recall == 1.0:
            np.testing.assert_array_equal(vectors, VECTORS[rows])

    def test_equal_blocks_give_equal_bytes(self, built: Built, tmp_path: Path) -> None:
        build(built.case, tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == built.path.read_bytes()
        if index_kind(built.case.kind).EXACT:
            assert exact_path(tmp_path / "again").read_bytes() == exact_path(built.path).read_bytes()

    def test_mapped_and_read_indexes_answer_alike(self, built: Built) -> None:
        settings = IndexSettings(index_kind=built.case.kind, index_search=built.case.search)
        read = index_kind(built.case.kind).open(built.path, settings, 1, mmap=False)
        for mapped_part, read_part in zip(built.index.search(QUERIES, TOP), read.search(QUERIES, TOP), strict=True):
            np.testing.assert_array_equal(mapped_part, read_part)

    def test_an_empty_shard_finds_nothing(self, built: Built, tmp_path: Path) -> None:
        index = build(built.case, tmp_path / "empty", vectors=VECTORS[:0])
        scores, rows = index.search(QUERIES, TOP)
        assert index.count == 0
        assert (rows == -1).all()
        assert (scores == -np.inf).all()

    def test_a_file_that_is_no_index_is_corrupt(self, built: Built, tmp_path: Path) -> None:
        settings = IndexSettings(index_kind=built.case.kind, index_search=built.case.search)
        whole = built.path.read_bytes()
        for name, data in (("nothing", b""), ("other", b"PAR1" * 50), ("half", whole[: len(whole) // 2])):
            (tmp_path / name).write_bytes(data)
            with pytest.raises(CorruptIndex, match=name):
                index_kind(built.case.kind).open(tmp_path / name, settings, 1)
