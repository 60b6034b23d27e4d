"""Fakes for what faiss-gpu adds to the module `faiss`, by the names and signatures of its wheel (1.15.1)."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import faiss
import pytest


class GpuCopy:
    """An index on a GPU: it answers as its CPU index does, but ignores selectors, as those of FAISS do."""

    def __init__(self, index: Any, calls: list[str]) -> None:
        self._index, self._calls = index, calls

    def search(self, queries: Any, count: int, *, params: Any = None) -> Any:
        self._calls.append(f"search {len(queries)} for {count}")
        if params is not None and getattr(params, "sel", None) is not None:
            pytest.fail("a GPU index would ignore the selector")
        return self._index.search(queries, count, params=params)


class FakeGpu:
    """Copies an index to a GPU and back by handing out the same index, and writes down what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gpus: int, refuses: str = "") -> None:
        self.calls: list[str] = []
        self.copy: Callable[[Any], Any] = lambda index: index
        self._refuses = refuses
        monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
        monkeypatch.setattr(faiss, "GpuClonerOptions", SimpleNamespace, raising=False)
        monkeypatch.setattr(faiss, "get_num_gpus", lambda: gpus, raising=False)
        monkeypatch.setattr(faiss, "index_cpu_to_gpu", self.to_gpu, raising=False)
        monkeypatch.setattr(faiss, "index_gpu_to_cpu", self.to_cpu, raising=False)

    def to_gpu(self, resources: object, device: int, index: Any, options: Any) -> Any:
        assert options.use_cuvs is False
        self.calls.append(f"to gpu {device}, {index.ntotal} vectors")
        if self._refuses:
            raise RuntimeError(f"Error in ToGpuCloner: {self._refuses}")
        return self.copy(index)

    def to_cpu(self, index: Any) -> Any:
        self.calls.append(f"to cpu, {index.ntotal} vectors")
        return index
