"""One suite for every file of shoal/indexes/ and families of FAISS factory strings, against exact search (numpy)."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import faiss
import numpy as np
import pytest

from shoal.errors import CorruptIndex, InvalidArgument, ShoalError
from shoal.indexes import ShardIndex, _exact, check, exact_path, gives_vectors, index_kind, kinds
from shoal.records import FloatArray
from shoal.settings import IndexSettings

COUNT, DIM, TOP = 1500, 32, 10


class Case(NamedTuple):
    kind: str
    search: str = ""
    recall: float = 1.0
    """Least share of the exact nearest ten that it has to find."""


CASES = [
    *(Case(kind, recall=1.0 if kind == "flat" else 0.8) for kind in kinds()),
    Case("Flat"),
    Case("SQ8", recall=0.95),
    Case("SQfp16", recall=0.95),
    Case("IVF8,Flat", "nprobe=8"),
    Case("IVF8,SQ8", "nprobe=8", 0.95),
    Case("IVF4,PQ16np", "nprobe=4", 0.6),
    Case("HNSW16", "efSearch=200", 0.95),
    Case("PCA32,IVF8,SQ8", "nprobe=8", 0.95),
    Case("IVF8,SQ8,RFlat", "nprobe=8,k_factor_rf=4", 0.95),
]


def normalised(count: int, seed: int) -> FloatArray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS, QUERIES = normalised(COUNT, seed=1), normalised(40, seed=2)


class Built(NamedTuple):
    case: Case
    path: Path
    index: ShardIndex


def build(case: Case, path: Path, block: int = 400, vectors: FloatArray = VECTORS) -> ShardIndex:
    settings = IndexSettings(index_kind=case.kind, index_search=case.search)
    kind = index_kind(case.kind)
    trained = kind.train(VECTORS, settings, 1)
    assert (trained is not None) == kind.TRAINED
    kind.build((vectors[at : at + block] for at in range(0, len(vectors), block)), DIM, path, trained, 1)
    return kind.open(path, settings, 1)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.kind)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    path = tmp_path_factory.mktemp("index") / "vectors.faiss"
    return Built(request.param, path, build(request.param, path))


def exact(queries: FloatArray, rows: np.ndarray | None = None) -> np.ndarray:
    """Rows of the nearest vectors, nearest first, by numpy."""
    scores = queries.astype(np.float64) @ VECTORS.T.astype(np.float64)
    if rows is not None:
        scores[:, np.setdiff1d(np.arange(COUNT), rows)] = -np.inf
    return np.argsort(-scores, axis=1)[:, :TOP]


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / TOP for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]))


def test_it_finds_what_numpy_finds(built: Built) -> None:
    scores, rows = built.index.search(QUERIES, TOP)
    assert (built.index.count, built.index.dim) == (COUNT, DIM)
    assert scores.shape == rows.shape == (len(QUERIES), TOP)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert recall(rows, exact(QUERIES)) >= built.case.recall
    if built.case.recall == 1.0:
        np.testing.assert_array_equal(rows, exact(QUERIES))
        np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", QUERIES, VECTORS[rows]), atol=1e-5)


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 4, 19, 20, 40])
def test_a_query_finds_the_same_in_every_batch(built: Built, batch: int) -> None:
    together, alone = built.index.search(QUERIES[:batch], TOP), built.index.search(QUERIES, TOP)
    np.testing.assert_array_equal(together[1], alone[1][:batch])
    np.testing.assert_allclose(together[0], alone[0][:batch], atol=1e-5)


def test_more_than_there_is_is_padded(built: Built) -> None:
    scores, rows = built.index.search(QUERIES[:2], COUNT + 7)
    assert rows.shape == (2, COUNT + 7)
    missing = rows == -1
    assert missing[:, COUNT:].all()
    assert (scores[missing] == -np.inf).all()
    assert np.isfinite(scores[~missing]).all()
    for line in rows:
        found = line[line >= 0]
        assert len(set(found.tolist())) == len(found) >= TOP


def test_a_selector_restricts_the_search_to_its_rows(built: Built) -> None:
    allowed = np.arange(5, COUNT, 7)
    _, rows = built.index.search(QUERIES, TOP, faiss.IDSelectorBatch(allowed))
    assert set(rows.ravel().tolist()) <= {-1, *allowed.tolist()}
    assert recall(rows, exact(QUERIES, allowed)) >= min(built.case.recall, 0.9)


def test_a_scan_finds_the_nearest_of_some_rows(built: Built) -> None:
    allowed = np.arange(5, COUNT, 7)
    scores, rows = built.index.scan(QUERIES, TOP, allowed)
    assert (scores.dtype, rows.dtype, scores.shape) == (np.float32, np.int64, (len(QUERIES), TOP))
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


def test_a_selector_for_rare_rows_is_searched_as_far_as_it_takes(built: Built) -> None:
    rare = np.arange(0, COUNT, 50)
    mask = np.zeros(COUNT, np.bool_)
    mask[rare] = True
    selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
    _, rows = built.index.search(QUERIES, TOP, selector, len(rare) / COUNT)
    assert recall(rows, exact(QUERIES, rare)) >= min(built.case.recall, 0.95)
    assert built.index.prefers_scan(10)


def test_searches_may_run_at_the_same_time(built: Built) -> None:
    expected = built.index.search(QUERIES, TOP)[1]
    with ThreadPoolExecutor(4) as pool:
        for _, rows in pool.map(lambda _: built.index.search(QUERIES, TOP), range(12)):
            np.testing.assert_array_equal(rows, expected)


def test_vectors_come_back_as_near_as_they_are_stored(built: Built) -> None:
    rows = np.array([3, COUNT - 1, 0, 3])
    vectors = built.index.vectors(rows)
    assert (vectors.shape, vectors.dtype) == ((4, DIM), np.float32)
    assert ((vectors * VECTORS[rows]).sum(axis=1) > 0.7).all()
    assert built.index.vectors(np.array([], dtype=np.int64)).shape == (0, DIM)
    if built.case.recall == 1.0:
        np.testing.assert_array_equal(vectors, VECTORS[rows])


def test_equal_blocks_give_equal_bytes(built: Built, tmp_path: Path) -> None:
    build(built.case, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == built.path.read_bytes()
    if index_kind(built.case.kind).EXACT:
        assert exact_path(tmp_path / "again").read_bytes() == exact_path(built.path).read_bytes()


def test_mapped_and_read_indexes_answer_alike(built: Built) -> None:
    settings = IndexSettings(index_kind=built.case.kind, index_search=built.case.search)
    read = index_kind(built.case.kind).open(built.path, settings, 1, mmap=False)
    for mapped_part, read_part in zip(built.index.search(QUERIES, TOP), read.search(QUERIES, TOP), strict=True):
        np.testing.assert_array_equal(mapped_part, read_part)


def test_an_empty_shard_finds_nothing(built: Built, tmp_path: Path) -> None:
    index = build(built.case, tmp_path / "empty", vectors=VECTORS[:0])
    scores, rows = index.search(QUERIES, TOP)
    assert index.count == 0
    assert (rows == -1).all()
    assert (scores == -np.inf).all()


def test_a_file_that_is_no_index_is_corrupt(built: Built, tmp_path: Path) -> None:
    settings = IndexSettings(index_kind=built.case.kind, index_search=built.case.search)
    whole = built.path.read_bytes()
    for name, data in (("nothing", b""), ("other", b"PAR1" * 50), ("half", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CorruptIndex, match=name):
            index_kind(built.case.kind).open(tmp_path / name, settings, 1)


@pytest.mark.parametrize("count", [0, 1, 5, 400])
def test_a_flat_file_is_the_one_that_faiss_writes(tmp_path: Path, count: int) -> None:
    kind = index_kind("flat")
    kind.build((VECTORS[at : at + 3] for at in range(0, count, 3) if at + 3 <= count), DIM, tmp_path / "ours", None, 1)
    ours = faiss.read_index(str(tmp_path / "ours"))
    theirs = faiss.IndexFlatIP(DIM)
    theirs.add(VECTORS[: count // 3 * 3])
    faiss.write_index(theirs, str(tmp_path / "theirs"))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert ours.ntotal == theirs.ntotal


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_a_good_setting_passes_the_check(case: Case) -> None:
    check(case.kind, DIM, case.search)


@pytest.mark.parametrize(
    "kind", ["flatt", "", "../flat", "factory", "_faiss", "IVF", "IVF0,Flat", "PQ7", "LSH", "IDMap,Flat", "NSG16"]
)
def test_an_index_kind_that_cannot_be_made_is_refused_before_any_work(kind: str) -> None:
    with pytest.raises(InvalidArgument, match="index_kind") as caught:
        check(kind, DIM, "")
    assert caught.value.param == "index_kind"


@pytest.mark.parametrize(
    ("kind", "search"),
    [
        ("flat", "nprobe=4"),
        ("IVF8,Flat", "nprobes=4"),
        ("IVF8,Flat", "nprobe"),
        ("IVF8,Flat", "nprobe=many"),
        ("IVF8,Flat", "nprobe=0"),
        ("IVF8,Flat", "nprobe=-4"),
        ("HNSW16", "nprobe=4"),
    ],
)
def test_a_search_parameter_that_does_not_fit_is_refused_before_any_work(kind: str, search: str) -> None:
    with pytest.raises(InvalidArgument, match="index_search") as caught:
        check(kind, DIM, search)
    assert caught.value.param == "index_search"


@pytest.mark.parametrize("count", [0, 3])
def test_a_sample_too_small_to_train_on_is_refused(count: int) -> None:
    settings = IndexSettings(index_kind="IVF8,Flat", index_search="nprobe=2")
    with pytest.raises(InvalidArgument, match=f"cannot be trained on {count} vectors"):
        index_kind("IVF8,Flat").train(VECTORS[:count], settings, 1)


def test_fast_scan_cannot_give_vectors_back_but_scans_some_rows(tmp_path: Path) -> None:
    index = build(Case("IVF8,PQ16x4fs", "nprobe=2"), tmp_path / "fast")
    with pytest.raises(InvalidArgument, match="cannot give vectors back"):
        index.vectors(np.array([1]))
    _, rows = index.scan(QUERIES, TOP, np.arange(0, COUNT, 100))
    assert all(sorted(line) == sorted(set(line)) and set(line) <= set(range(0, COUNT, 100)) for line in rows.tolist())
    assert not index.prefers_scan(1)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        *((kind, True) for kind in kinds()),
        *((kind, True) for kind in ("Flat", "PQ16x4fs", "PCA16,IVF8,SQ8", "IVF8(IVF2,Flat),Flat", "IVF8,SQ8,RFlat")),
        *((kind, False) for kind in ("IVF8,PQ16x4fs", "IVF8,PQ16x4fs,RFlat", "OPQ16,IVF8,PQ16x4fs")),
    ],
)
def test_it_is_known_without_data_which_kinds_give_vectors_back(tmp_path: Path, kind: str, expected: bool) -> None:
    assert gives_vectors(kind, DIM) == expected
    index = build(Case(kind), tmp_path / "vectors.faiss")
    rows = np.array([3, 1])
    if expected:
        assert index.vectors(rows).shape == (2, DIM)
    else:
        with pytest.raises(InvalidArgument, match="cannot give vectors back"):
            index.vectors(rows)


def test_a_faiss_that_cannot_look_at_a_mapped_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    older = SimpleNamespace(codes=faiss.UInt8Vector(), ntotal=0)  # as it was before FAISS 1.11
    monkeypatch.setattr(faiss, "IndexScalarQuantizer", lambda *_: older)
    for count in (0, 5):
        with pytest.raises(ShoalError, match=r"install another version, 1\.11 or later"):
            _exact._mapped(VECTORS[:count].astype(np.float16))


def test_search_parameters_are_applied(tmp_path: Path) -> None:
    few, many = (build(Case("IVF8,Flat", f"nprobe={n}"), tmp_path / str(n)) for n in (1, 8))
    wanted = exact(QUERIES)
    assert recall(few.search(QUERIES, TOP)[1], wanted) < recall(many.search(QUERIES, TOP)[1], wanted) == 1.0


@pytest.mark.parametrize("kind", ["flat", "SQ8"])
def test_a_full_disk_is_an_error_of_the_operating_system(kind: str) -> None:
    settings = IndexSettings(index_kind=kind)
    trained = index_kind(kind).train(VECTORS, settings, 1)
    with pytest.raises(OSError, match="No space left on device"):
        index_kind(kind).build(iter([VECTORS]), DIM, Path("/dev/full"), trained, 1)
