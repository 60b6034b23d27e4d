"""Sampling, and recall over shards against a plain computation."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shoal.index_root import layout
from shoal.index_root.storage import Storage
from shoal.indexes import flat
from shoal.indexing import sample as sampling
from shoal.indexing.recall import CorpusRecall, ExactSearch, measure
from shoal.indexing.sample import sample_vectors, stratified
from shoal.indexing.units import write_unit
from shoal.records import FloatArray, Passage, RowArray
from shoal.settings import IndexSettings
from shoal.shard.passages import to_batch


def unit_vectors(count: int, dim: int, seed: int) -> FloatArray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class FakeIndex:
    """Exact search over a part of the rows: the others are never found."""

    def __init__(self, vectors: FloatArray, missing: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.vectors, self.missing = vectors, missing

    @property
    def count(self) -> int:
        return len(self.vectors)

    def search(
        self, queries: FloatArray, top_k: int, selector: Any = None, search_params: str = ""
    ) -> tuple[FloatArray, RowArray]:
        scores = np.full((len(queries), top_k), -np.inf, np.float32)
        rows = np.full((len(queries), top_k), -1, np.int64)
        for number, similarity in enumerate(queries @ self.vectors.T):
            order = [row for row in np.argsort(-similarity, kind="stable") if row not in self.missing][:top_k]
            scores[number, : len(order)], rows[number, : len(order)] = similarity[order], order
        return scores, rows


def recall(shards: list[FloatArray], indexes: list[FakeIndex], queries: FloatArray, block: int = 7) -> float | None:
    merged = CorpusRecall()
    for vectors, index in zip(shards, indexes, strict=True):
        exact = ExactSearch(queries)
        for _ in exact.tee((None, vectors[start : start + block]) for start in range(0, len(vectors), block)):
            pass
        scores, rows, _ = measure(lambda index=index: index, queries)  # type: ignore[misc]
        merged.add(exact.compare(scores, rows))
    return merged.value()


@settings(max_examples=40)
@given(st.lists(st.integers(0, 150), min_size=1, max_size=4), st.integers(0, 9), st.integers(0, 1000))
def test_recall_is_the_share_of_the_exact_ten_that_is_found(sizes: list[int], lost: int, seed: int) -> None:
    shards = [unit_vectors(size, 8, seed + number) for number, size in enumerate(sizes)]
    queries = unit_vectors(6, 8, seed + 99)
    missing = [set(range(0, size, 10 - lost)) if lost else set() for size in sizes]
    measured = recall(shards, [FakeIndex(v, m) for v, m in zip(shards, missing, strict=True)], queries)

    everything = np.concatenate([np.zeros((0, 8), np.float32), *shards])
    gone = np.concatenate(
        [np.zeros(0, bool), *(np.isin(np.arange(len(v)), list(m)) for v, m in zip(shards, missing, strict=True))]
    )
    if not len(everything):
        assert measured is None
        return
    similarities = queries @ everything.T
    best = -np.sort(-similarities, axis=1)
    # Of passages that are equally near any is right, which this plain computation does not know.
    assume((best[:, 9:10] - best[:, 10:11] > 2e-5).all())
    nearest = np.argsort(-similarities, axis=1)[:, :10]
    assert measured == pytest.approx((~gone[nearest]).mean(), abs=1e-4)


def test_equal_vectors_are_all_right_answers() -> None:
    shard = np.repeat(unit_vectors(1, 8, 3), 300, axis=0)
    assert recall([shard], [FakeIndex(shard, set(range(40)))], shard[:2]) == 1.0


def test_searching_in_steps_finds_the_same(tmp_path: Path) -> None:
    vectors, queries = unit_vectors(100, 8, 5), unit_vectors(4, 8, 6)
    path, settings = tmp_path / "vectors.faiss", IndexSettings()
    flat.build([vectors], 8, path, None, 1)
    whole = measure(lambda: flat.open(path, settings, 1), queries)
    for step in (1, 7, 50, 1000):
        scores, rows, latency_ms = measure(lambda: flat.open(path, settings, 1), queries, step)
        np.testing.assert_allclose(scores, whole[0], atol=1e-6)
        np.testing.assert_array_equal(rows, whole[1])
        assert latency_ms is not None


def test_without_queries_there_is_no_recall() -> None:
    shard = unit_vectors(20, 8, 1)
    assert recall([shard], [FakeIndex(shard)], np.zeros((0, 8), np.float32)) is None
    assert measure(SimpleNamespace, np.zeros((0, 8), np.float32))[2] is None  # type: ignore[arg-type]


@given(st.integers(0, 10_000), st.integers(0, 200), st.integers(0, 3))
def test_a_stratified_sample_is_ascending_distinct_and_even(total: int, count: int, seed: int) -> None:
    chosen = stratified(total, count, seed)
    assert len(chosen) == min(total, count)
    assert (np.diff(chosen) > 0).all()
    if len(chosen):
        assert chosen[0] >= 0
        assert chosen[-1] < total
        assert (np.abs(chosen - np.arange(len(chosen)) * total / len(chosen)) <= total / len(chosen) + 1).all()
    np.testing.assert_array_equal(chosen, stratified(total, count, seed))


def write(storage: Storage, unit: int, vectors: FloatArray, rows: list[int], folder: Path) -> None:
    batch = to_batch([Passage(f"{unit}-{n}", "text") for n in range(len(vectors))])
    path = folder / "unit.arrow"
    write_unit(path, batch, np.arange(len(vectors)), vectors, np.array(rows))
    storage.put(path, layout.unit_data("plan", unit))


@pytest.mark.parametrize(("count", "max_units"), [(1, 10), (7, 10), (12, 10), (500, 10), (3, 2)])
def test_vectors_are_sampled_from_all_over_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, max_units: int
) -> None:
    monkeypatch.setattr(sampling, "MAX_UNITS", max_units)
    storage = Storage(str(tmp_path / "root"))
    sizes = [[2, 0, 3], [0, 0, 0], [4, 1, 1], [1, 0, 0], [0, 5, 0]]
    units = [unit_vectors(sum(rows), 4, number) for number, rows in enumerate(sizes)]
    for number, rows in enumerate(sizes):
        write(storage, number, units[number], rows, tmp_path)
    passages = np.array([sum(rows) for rows in sizes])
    sample = sample_vectors(storage, "plan", passages, 3, 4, count, seed=1)
    np.testing.assert_array_equal(sample, sample_vectors(storage, "plan", passages, 3, 4, count, seed=1))
    everything = np.concatenate(units)
    places = [int(np.flatnonzero((everything == vector).all(axis=1))[0]) for vector in sample]
    assert places == sorted(set(places))
    if max_units == 10:
        assert len(sample) == min(count, len(everything))
