"""What GPUs do for indexes, with fakes for what faiss-gpu and faiss-gpu-cuvs add to the module `faiss`."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from shoal.errors import InvalidArgument
from shoal.indexes import ShardIndex, _gpu, cagra, check_gpus, index_kind, search_on_gpu
from shoal.settings import IndexSettings
from tests.support.gpu import FakeGpu, GpuCopy

VECTORS = np.random.default_rng(0).standard_normal((200, 8), dtype=np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


def build(path: Path, name: str = "IVF4,Flat") -> bytes:
    settings = IndexSettings(index_kind=name)
    kind = index_kind(name)
    kind.build([VECTORS[:100], VECTORS[100:]], 8, path, kind.train(VECTORS, settings, 1), 1)
    assert kind.open(path, settings, 1).count == 200
    return path.read_bytes()


def test_training_and_filling_happen_on_the_gpu_that_ray_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpu = FakeGpu(monkeypatch, gpus=2)
    build(tmp_path / "index")
    assert gpu.calls == ["to gpu 0, 0 vectors", "to cpu, 0 vectors", "to gpu 0, 0 vectors", "to cpu, 200 vectors"]


def test_faiss_gpu_without_a_visible_gpu_computes_on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpu = FakeGpu(monkeypatch, gpus=0)
    build(tmp_path / "index")
    assert gpu.calls == []


def test_a_kind_without_gpu_implementation_is_built_on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = build(tmp_path / "cpu")
    gpu = FakeGpu(monkeypatch, gpus=1, refuses="This index type is not implemented on GPU.")
    assert build(tmp_path / "gpu") == expected
    assert gpu.calls == ["to gpu 0, 0 vectors"] * 2


def test_faiss_cpu_is_not_asked_for_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: pytest.fail("asked"), raising=False)
    build(tmp_path / "index")
    build(tmp_path / "graph", "cagra")


def test_what_needs_no_training_is_filled_on_the_gpu_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpu = FakeGpu(monkeypatch, gpus=1)
    build(tmp_path / "index", "Flat")
    assert gpu.calls == ["to gpu 0, 0 vectors", "to cpu, 200 vectors"]


class FakeCagra:
    """Links each vector with its nearest, computed exactly, and copies that as faiss::gpu::GpuIndexCagra::copyTo does.

    The links are written into the lowest level of an IndexHNSWCagra whose upper ones stay empty.
    """

    failure = ""

    def __init__(self, resources: object, dim: int, metric: int) -> None:
        assert metric == faiss.METRIC_INNER_PRODUCT
        self._dim = dim

    def train(self, vectors: np.ndarray) -> None:
        if self.failure:
            raise RuntimeError(self.failure)
        assert vectors.dtype == np.float32
        self._vectors = vectors

    def copyTo(self, index: Any) -> None:
        assert index.base_level_only
        count, links = len(self._vectors), 64
        made = faiss.IndexHNSWCagra(self._dim, links // 2, faiss.METRIC_INNER_PRODUCT)
        made.hnsw.prepare_level_tab(count, False)
        made.storage.add(self._vectors)
        made.ntotal = count
        neighbours = np.argsort(-(self._vectors @ self._vectors.T), axis=1)[:, 1 : links + 1]
        table = faiss.rev_swig_ptr(made.hnsw.neighbors.data(), made.hnsw.neighbors.size())
        for row in range(count):
            start = made.hnsw.offsets.at(row)
            table[start : start + links] = neighbours[row]
        made.base_level_only = True
        read = faiss.deserialize_index(faiss.serialize_index(made))
        index.this, self._kept = read.this, read  # the proxy of Python now stands for what was made


@pytest.fixture
def linking(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(monkeypatch, gpus=1)
    monkeypatch.setattr(faiss, "GpuIndexCagra", FakeCagra, raising=False)
    monkeypatch.setattr(cagra, "_FEWEST", 100)


@pytest.mark.usefixtures("linking")
def test_a_graph_that_a_gpu_has_linked_is_searched_on_the_cpu(tmp_path: Path) -> None:
    on_gpu = build(tmp_path / "gpu", "cagra")
    index = index_kind("cagra").open(tmp_path / "gpu", IndexSettings(index_kind="cagra"), 1)
    expected = np.argsort(-(VECTORS[:20] @ VECTORS.T), axis=1)[:, :5]
    np.testing.assert_array_equal(index.search(VECTORS[:20], 5)[1], expected)
    allowed = np.arange(3, 200, 4)
    masked = np.full((20, 200), -np.inf)
    masked[:, allowed] = (VECTORS[:20] @ VECTORS.T)[:, allowed]
    _, rows = index.search(VECTORS[:20], 5, faiss.IDSelectorBatch(allowed), 0.25)
    np.testing.assert_array_equal(rows, np.argsort(-masked, axis=1)[:, :5])
    np.testing.assert_array_equal(index.vectors(np.arange(200)), VECTORS)
    written = faiss.read_index(str(tmp_path / "gpu"))
    assert written.base_level_only
    links = faiss.rev_swig_ptr(written.hnsw.neighbors.data(), 64)
    np.testing.assert_array_equal(links, np.argsort(-(VECTORS[0] @ VECTORS.T))[1:65])  # as the GPU has linked them
    assert on_gpu == build(tmp_path / "again", "cagra")


@pytest.mark.usefixtures("linking")
def test_a_graph_that_does_not_fit_the_gpu_wants_more_shards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(FakeCagra, "failure", "Error in allocMemory: at a.cpp:1: CUDA malloc error out of memory")
    with pytest.raises(
        InvalidArgument, match=r"cannot be filled \(CUDA malloc error out of memory\); take more"
    ) as caught:
        build(tmp_path / "index", "cagra")
    assert caught.value.param == "shards"


@pytest.mark.usefixtures("linking")
def test_few_vectors_are_linked_by_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(FakeCagra, "train", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(cagra, "_FEWEST", 201)
    build(tmp_path / "index", "cagra")


def test_cagra_is_refused_where_no_gpu_can_link_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(faiss, "GpuIndexCagra", raising=False)
    for name in ("auto", "flat", "hnsw", "IVF8,Flat"):
        check_gpus(name, 0)
    for gpus, lack in ((0, "there is none here; take hnsw"), (1, "has no cuVS; take hnsw")):
        with pytest.raises(InvalidArgument, match=lack) as caught:
            check_gpus("cagra", gpus)
        assert caught.value.param == "index_kind"
        assert "pip install 'shoal[cuvs]'" in str(caught.value)
    monkeypatch.setattr(faiss, "GpuIndexCagra", object, raising=False)
    check_gpus("cagra", 1)
    with pytest.raises(InvalidArgument, match="there is none here"):
        check_gpus("cagra", 0)


def opened(path: Path, name: str) -> ShardIndex:
    build(path, name)
    return index_kind(name).open(path, IndexSettings(index_kind=name), 1)


@pytest.fixture
def searching(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = FakeGpu(monkeypatch, gpus=1)
    monkeypatch.setattr(_gpu, "_resources", object)
    return gpu


@pytest.mark.parametrize("name", ["flat", "ivf", "IVF4,Flat"])
def test_all_rows_are_searched_on_the_gpu_and_some_on_the_cpu(searching: FakeGpu, tmp_path: Path, name: str) -> None:
    index = opened(tmp_path / "index", name)
    searching.calls.clear()
    searching.copy = lambda cpu: GpuCopy(cpu, searching.calls)
    copied = search_on_gpu(index)
    assert searching.calls == ["to gpu 0, 200 vectors"]
    some = faiss.IDSelectorBatch(np.arange(0, 200, 3))
    cases: list[tuple[tuple[Any, ...], int]] = [((VECTORS[:7], 5), 1), ((VECTORS[:7], 5, some), 0)]
    if name != "flat":
        cases += [((VECTORS[:7], 5, None, 1.0, "nprobe=2"), 1), ((VECTORS[:7], 5, some, 0.3, "nprobe=2"), 0)]
    for asked, on_gpu in cases:
        searching.calls.clear()
        for part, expected in zip(copied.search(*asked), index.search(*asked), strict=True):
            np.testing.assert_array_equal(part, expected)
        assert searching.calls == ["search 7 for 5"] * on_gpu
    assert (copied.count, copied.is_exact, copied.efforts()) == (200, index.is_exact, index.efforts())
    np.testing.assert_array_equal(copied.vectors(np.arange(3)), index.vectors(np.arange(3)))


def test_more_results_than_a_gpu_selects_come_from_the_cpu(
    searching: FakeGpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    index = opened(tmp_path / "index", "flat")
    searching.copy = lambda cpu: GpuCopy(cpu, searching.calls)
    monkeypatch.setattr(_gpu, "_MOST_RESULTS", 20)
    copied = search_on_gpu(index)
    searching.calls.clear()
    copied.search(VECTORS[:2], 20)
    np.testing.assert_array_equal(copied.search(VECTORS[:2], 21)[1], index.search(VECTORS[:2], 21)[1])
    assert searching.calls == ["search 2 for 20"]


@pytest.mark.parametrize("name", ["hnsw", "cagra", "ivf_sq8", "IVF4,SQ8"])
def test_kinds_that_a_gpu_does_not_search_alike_stay_on_the_cpu(searching: FakeGpu, tmp_path: Path, name: str) -> None:
    index = opened(tmp_path / "index", name)
    searching.calls.clear()
    assert search_on_gpu(index) is index
    assert searching.calls == []


def test_a_search_on_a_gpu_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    index = opened(tmp_path / "index", "flat")
    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
    with pytest.raises(InvalidArgument, match="FAISS is built without GPUs"):
        search_on_gpu(index)
    FakeGpu(monkeypatch, gpus=0)
    with pytest.raises(InvalidArgument, match="no GPU is to be seen") as caught:
        search_on_gpu(index)
    assert caught.value.param == "retriever_device"
    FakeGpu(monkeypatch, gpus=1, refuses="out of memory")
    monkeypatch.setattr(_gpu, "_resources", object)
    with pytest.raises(InvalidArgument, match=r"does not fit the GPU \(out of memory\)"):
        search_on_gpu(index)
