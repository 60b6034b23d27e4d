"""One suite for every file of shoal/indexes/ and families of FAISS factory strings, against exact search (numpy)."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import faiss
import numpy as np
import pytest

from shoal.errors import InvalidArgument, ShoalError
from shoal.indexes import _exact, check, gives_vectors, index_kind, kinds, precision
from shoal.settings import IndexSettings
from shoal.testing.index_contract import COUNT, DIM, QUERIES, TOP, VECTORS, Case, IndexContract, build, exact, recall

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


class TestEveryKind(IndexContract):
    @pytest.fixture(scope="class", params=CASES, ids=lambda case: case.kind)
    def case(self, request: pytest.FixtureRequest) -> Case:
        return cast(Case, request.param)


def test_kinds_say_which_keep_vectors() -> None:
    exact = dict.fromkeys(("flat", "hnsw", "cagra", "ivf"), "float32")
    rounded = dict.fromkeys(("ivf_sq8", "ivf_pq", "rabitq"), "float16")
    strings = {"Flat": "float32", "IVF8,Flat": "float32", "HNSW16": "float32"} | dict.fromkeys(
        ("SQ8", "SQfp16", "IVF8,SQ8", "IVF4,PQ16np", "PCA32,Flat", "OPQ16,IVF8,Flat", "IVF8,PQ8x4fs"), None
    )
    expected = exact | rounded | strings
    assert {name: precision(name, DIM) for name in expected} == expected
    assert set(kinds()) == exact.keys() | rounded.keys()


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
        ("cagra", "nprobe=4"),
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


def test_a_filtered_search_does_not_start_from_a_single_list(tmp_path: Path) -> None:
    index = build(Case("IVF32,Flat", "nprobe=1"), tmp_path / "vectors.faiss")
    everything = faiss.IDSelectorAll()
    one = index.search(QUERIES, TOP)[1]
    assert (index.search(QUERIES, TOP, everything)[1] == one).all()  # of all rows no further than without a filter
    filtered = index.search(QUERIES, TOP, everything, 0.5)[1]
    assert (filtered == index.search(QUERIES, TOP, search_params="nprobe=17")[1]).all()
    assert recall(one, exact(QUERIES)) < recall(filtered, exact(QUERIES))


@pytest.mark.parametrize("kind", ["flat", "SQ8"])
def test_a_full_disk_is_an_error_of_the_operating_system(kind: str) -> None:
    settings = IndexSettings(index_kind=kind)
    trained = index_kind(kind).train(VECTORS, settings, 1)
    with pytest.raises(OSError, match="No space left on device"):
        index_kind(kind).build(iter([VECTORS]), DIM, Path("/dev/full"), trained, 1)
