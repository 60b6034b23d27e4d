"""Where an index is trained and filled, with fakes for what faiss-gpu adds to the module `faiss`."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from shoal.indexes import index_kind
from shoal.settings import IndexSettings

VECTORS = np.random.default_rng(0).standard_normal((200, 8), dtype=np.float32)


class FakeGpu:
    """Copies an index to a GPU and back by handing out the same index, and writes down what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gpus: int, implemented: bool = True) -> None:
        self.calls: list[str] = []
        self._implemented = implemented
        monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
        monkeypatch.setattr(faiss, "get_num_gpus", lambda: gpus, raising=False)
        monkeypatch.setattr(faiss, "index_cpu_to_gpu", self.to_gpu, raising=False)
        monkeypatch.setattr(faiss, "index_gpu_to_cpu", self.to_cpu, raising=False)

    def to_gpu(self, resources: object, device: int, index: Any) -> Any:
        self.calls.append(f"to gpu {device}, {index.ntotal} vectors")
        if not self._implemented:
            raise RuntimeError("Error in ToGpuCloner: This index type is not implemented on GPU.")
        return index

    def to_cpu(self, index: Any) -> Any:
        self.calls.append(f"to cpu, {index.ntotal} vectors")
        return index


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
    gpu = FakeGpu(monkeypatch, gpus=1, implemented=False)
    assert build(tmp_path / "gpu") == expected
    assert gpu.calls == ["to gpu 0, 0 vectors"] * 2


def test_faiss_cpu_is_not_asked_for_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: pytest.fail("asked"), raising=False)
    build(tmp_path / "index")


def test_what_needs_no_training_is_filled_on_the_gpu_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpu = FakeGpu(monkeypatch, gpus=1)
    build(tmp_path / "index", "Flat")
    assert gpu.calls == ["to gpu 0, 0 vectors", "to cpu, 200 vectors"]
