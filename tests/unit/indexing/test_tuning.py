"""From trials of shards to the curve of a version, and from a recall that a query asks for to a point of it."""

from pathlib import Path

import numpy as np
import pytest

from shoal.errors import CorruptIndex, InvalidArgument
from shoal.index_root.manifest import CurvePoint, VectorIndexInfo
from shoal.indexes import exact_path, index_kind
from shoal.indexes._auto import choose
from shoal.indexing.commits import NearestSample, Trial
from shoal.indexing.recall import ExactSearch, Tuning, attempt
from shoal.records import FloatArray
from shoal.settings import IndexSettings

DIM = 32


def trial(search: str, cost: float, found: int, latency_ms: float) -> Trial:
    """One query, of whose ten nearest, with scores from 0.9 down, the first `found` are found."""
    scores = [0.9 - 0.01 * place for place in range(10)]
    missed = [0.1] * (10 - found)
    nearest = NearestSample(exact=[scores], found=[scores[:found] + missed], found_exact=[scores[:found] + missed])
    return Trial(search=search, cost=cost, nearest=nearest, latency_ms=latency_ms)


def describe(trials: list[Trial], **settings: object) -> VectorIndexInfo:
    tuning = Tuning()
    tuning.add(trials)
    return tuning.describe(IndexSettings(index_kind="ivf", **settings))  # type: ignore[arg-type]


# The measured times contradict the costs: another run, on another machine, has to choose the same.
TRIALS = [
    trial("", 0, 6, 1.0),
    trial("nprobe=1", 10, 4, 9.0),
    trial("nprobe=4", 30, 9, 2.0),
    trial("nprobe=2", 20, 7, 3.0),
    trial("nprobe=3", 25, 5, 0.1),
    trial("nprobe=8", 60, 10, 1.0),
    trial("nprobe=16", 90, 10, 0.5),
]


def test_the_curve_rises_with_the_cost_and_has_no_point_that_buys_nothing() -> None:
    info = describe(TRIALS)
    assert [(point.search, point.recall) for point in info.curve] == [
        ("nprobe=1", 0.4), ("nprobe=2", 0.7), ("nprobe=4", 0.9), ("nprobe=8", 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "search", "recall"), [(0.3, "nprobe=1", 0.4), (0.7, "nprobe=2", 0.7), (0.95, "nprobe=8", 1.0)]
)
def test_the_cheapest_parameters_that_reach_the_target_are_served(target: float, search: str, recall: float) -> None:
    info = describe(TRIALS, recall_target=target)
    assert (info.search, info.recall_at_10) == (search, recall)


def test_the_best_there_is_is_served_when_none_reaches_the_target() -> None:
    assert describe(TRIALS[:4]).search == "nprobe=4"


def test_parameters_that_were_set_are_kept_and_measured() -> None:
    info = describe(TRIALS, index_search="nprobe=7")
    assert (info.search, info.recall_at_10, info.latency_ms) == ("nprobe=7", 0.6, 1.0)
    assert info.search_for(0.9) == "nprobe=4"


def clustered(count: int, seed: int) -> FloatArray:
    centres = np.random.default_rng(0).standard_normal((30, DIM))
    chance = np.random.default_rng(seed)
    vectors = centres[chance.integers(30, size=count)] + 0.5 * chance.standard_normal((count, DIM))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize("name", ["hnsw", "ivf_sq8", "rabitq"])
def test_what_the_curve_of_several_shards_says_is_what_their_merged_answers_find(name: str, tmp_path: Path) -> None:
    vectors, queries = clustered(2500, 1), clustered(10, 2)
    settings, kind = IndexSettings(index_kind=name), index_kind(name)
    trained = kind.train(vectors, settings, 1)
    tuning, shards = Tuning(), []
    for number, (start, stop) in enumerate([(0, 600), (600, 2500)]):
        path = tmp_path / f"{number}.faiss"
        exact = ExactSearch(queries)
        kind.build((block for _, block in exact.tee([(None, vectors[start:stop])])), DIM, path, trained, 1)
        shards.append((start, kind.open(path, settings, 1)))
        tuning.add(attempt(lambda path=path: kind.open(path, settings, 1), exact))  # type: ignore[misc]
    info = tuning.describe(settings)
    nearest = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    for point in info.curve:
        found = [shard.search(queries, 10, search_params=point.search) for _, shard in shards]
        scores = np.concatenate([scores for scores, _ in found], axis=1)
        rows = np.concatenate([rows + start for (start, _), (_, rows) in zip(shards, found, strict=True)], axis=1)
        best = np.take_along_axis(rows, np.argsort(-scores, axis=1)[:, :10], axis=1)
        hits = [len(set(a) & set(b)) for a, b in zip(nearest.tolist(), best.tolist(), strict=True)]
        assert point.recall == pytest.approx(np.mean(hits) / 10, abs=0.011)
    assert info.recall_at_10 is not None
    assert info.recall_at_10 >= 0.95


def test_a_search_goes_as_far_as_the_query_asks_and_others_stay_as_they_are(tmp_path: Path) -> None:
    vectors = clustered(2500, 3)
    settings, kind = IndexSettings(index_kind="ivf_pq", index_search="nprobe=1,refine=1"), index_kind("ivf_pq")
    kind.build([vectors], DIM, tmp_path / "v.faiss", kind.train(vectors, settings, 1), 1)
    index, queries = kind.open(tmp_path / "v.faiss", settings, 1), clustered(20, 4)
    before = index.search(queries, 10)[1]
    nearest = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    far = index.search(queries, 10, search_params="nprobe=64,refine=64")[1]
    shared = [
        [len(set(a) & set(b)) for a, b in zip(nearest.tolist(), rows.tolist(), strict=True)] for rows in (before, far)
    ]
    assert sum(shared[0]) < sum(shared[1])
    assert sum(shared[1]) >= 198  # float16 may exchange neighbours whose scores are almost equal
    np.testing.assert_array_equal(index.search(queries, 10)[1], before)


@pytest.mark.parametrize("name", ["ivf_sq8", "ivf_pq", "rabitq"])
@pytest.mark.parametrize("mmap", [True, False])
def test_scores_are_those_of_the_exact_vectors(name: str, mmap: bool, tmp_path: Path) -> None:
    vectors, queries = clustered(2500, 7), clustered(5, 8)
    settings, kind = IndexSettings(index_kind=name, index_search="nprobe=64,refine=8"), index_kind(name)
    kind.build([vectors], DIM, tmp_path / "v.faiss", kind.train(vectors, settings, 1), 1)
    index = kind.open(tmp_path / "v.faiss", settings, 1, mmap=mmap)
    for search_params in ("", "nprobe=8,refine=2"):
        scores, rows = index.search(queries, 10, search_params=search_params)
        stored = np.load(tmp_path / "v.npy").astype(np.float32)[rows]
        np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, stored), atol=1e-5)
        assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("damage", ["missing", "shorter", "other"])
def test_exact_vectors_that_do_not_belong_to_the_index_are_corrupt(damage: str, tmp_path: Path) -> None:
    vectors, settings, kind = clustered(300, 5), IndexSettings(index_kind="ivf_sq8"), index_kind("ivf_sq8")
    path = tmp_path / "v.faiss"
    kind.build([vectors], DIM, path, kind.train(vectors, settings, 1), 1)
    second = exact_path(path)
    if damage == "missing":
        second.unlink()
    elif damage == "shorter":
        second.write_bytes(second.read_bytes()[:-2])
    else:
        np.save(second, vectors[:10].astype(np.float16))
    with pytest.raises(CorruptIndex, match=r"v\.npy"):
        kind.open(path, settings, 1)


def test_the_exact_file_is_what_numpy_writes(tmp_path: Path) -> None:
    vectors, settings, kind = clustered(300, 6), IndexSettings(index_kind="ivf_sq8"), index_kind("ivf_sq8")
    kind.build([vectors[:7], vectors[7:]], DIM, tmp_path / "v.faiss", kind.train(vectors, settings, 1), 1)
    np.save(tmp_path / "ours.npy", vectors.astype(np.float16))
    assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "ours.npy").read_bytes()


@pytest.mark.parametrize("search", ["refine=0", "refine=x", "nprobe=0", "efSearch=8"])
@pytest.mark.parametrize("name", ["ivf_sq8", "rabitq"])
def test_parameters_that_a_kind_does_not_have_are_refused(name: str, search: str) -> None:
    with pytest.raises(InvalidArgument, match="index_search"):
        index_kind(name).check(name, DIM, search)


def test_there_is_nothing_to_refine_where_vectors_are_stored_as_they_are() -> None:
    with pytest.raises(InvalidArgument, match="nothing to refine"):
        index_kind("ivf").check("ivf", DIM, "refine=2")


CURVE = [CurvePoint(search=f"nprobe={n}", recall=recall, latency_ms=n) for n, recall in ((1, 0.5), (2, 0.8), (4, 0.97))]


def info(kind: str, recall: float | None = None, curve: list[CurvePoint] | None = None) -> VectorIndexInfo:
    return VectorIndexInfo(kind=kind, search="nprobe=2", recall_at_10=recall, latency_ms=None, curve=curve or [])


@pytest.mark.parametrize(("recall", "search"), [(0.1, "nprobe=1"), (0.8, "nprobe=2"), (0.81, "nprobe=4")])
def test_a_query_gets_the_cheapest_point_of_the_curve_that_has_its_recall(recall: float, search: str) -> None:
    assert info("ivf", 0.8, CURVE).search_for(recall) == search


def test_exact_search_has_any_recall() -> None:
    assert info("flat").search_for(1.0) == info("SQ8", 0.99).search_for(0.98) == ""


@pytest.mark.parametrize("index", [info("ivf", 0.8, CURVE), info("SQ8", 0.97)])
def test_a_recall_beyond_what_was_measured_is_refused(index: VectorIndexInfo) -> None:
    with pytest.raises(InvalidArgument, match=r"recall should be at most 0\.97, .*not 0\.99") as caught:
        index.search_for(0.99)
    assert caught.value.param == "recall"


def test_a_recall_that_was_not_measured_cannot_be_asked_for() -> None:
    with pytest.raises(InvalidArgument, match="was not measured"):
        info("ivf").search_for(0.5)


@pytest.mark.parametrize(
    ("passages", "shards", "gib", "kind"),
    [
        (1000, 1, 8, "flat"),
        (50_000, 1, 8, "flat"),
        (50_001, 1, 8, "ivf_sq8"),
        (400_000, 8, 8, "flat"),
        (400_000, 8, 0.5, "ivf_sq8"),
        (20_000_000, 20, 8, "ivf_sq8"),
        (50_000_000, 50, 8, "ivf_pq"),
        (100_000_000, 100, 8, "rabitq"),
        (10_000_000_000, 1000, 8, "rabitq"),
    ],
)
def test_auto_takes_the_least_compressed_kind_that_fits_the_memory(
    passages: int, shards: int, gib: float, kind: str
) -> None:
    assert choose(passages, shards, 384, gib * 2**30) == kind
