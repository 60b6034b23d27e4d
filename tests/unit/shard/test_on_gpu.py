"""Shards whose vectors are searched on a GPU, which is a fake."""

from pathlib import Path

import numpy as np
import pytest

from serve.replicas.shard import Retriever
from shoal.encoders import load_encoder
from shoal.errors import InvalidArgument
from shoal.filters import parse
from shoal.index_root.storage import Storage
from shoal.index_root.versions import read_manifest
from shoal.indexes import _gpu
from shoal.search.local import open_shards
from shoal.settings import EncoderSettings, ServeSettings
from shoal.shard.messages import ShardQuery
from shoal.shard.reader import Shard
from tests.support.gpu import FakeGpu, GpuCopy
from tests.support.indexes import passages, publish


@pytest.fixture
def settings(tmp_path: Path) -> ServeSettings:
    publish(tmp_path, "v1", passages(40))
    return ServeSettings(index=str(tmp_path), encoder="hashing:64", reranker="none", retriever_device="cuda")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = FakeGpu(monkeypatch, gpus=1)
    gpu.copy = lambda cpu: GpuCopy(cpu, gpu.calls)
    monkeypatch.setattr(_gpu, "_resources", object)
    return gpu


def shards(settings: ServeSettings) -> list[Shard]:
    storage = Storage(settings.index)
    return open_shards(storage, read_manifest(storage, "v1"), settings, None)


def test_answers_are_those_of_the_cpu_and_a_filter_is_searched_there(settings: ServeSettings, gpu: FakeGpu) -> None:
    on_cpu = shards(settings.model_copy(update={"retriever_device": "cpu"}))
    assert gpu.calls == []
    on_gpu = shards(settings)
    assert sorted(gpu.calls) == sorted(f"to gpu 0, {shard.count} vectors" for shard in on_cpu)
    vector = load_encoder(EncoderSettings(encoder="hashing:64")).encode_queries(["passage number 7"])[0]
    some = parse({"number": {"$gte": 3}}, {"number": "number"}, 10, 10)
    for tree, calls in ((None, len(on_gpu)), (some, 0)):
        gpu.calls.clear()
        queries = [ShardQuery("passage number 7", vector, "dense", tree)]
        for ours, theirs in zip(on_gpu, on_cpu, strict=True):
            found, expected = (each.search(queries, 5, False).by_retriever["dense"] for each in (ours, theirs))
            np.testing.assert_array_equal(found.rows, expected.rows)
            np.testing.assert_array_equal(found.scores, expected.scores)
        assert len(gpu.calls) == calls


def test_a_replica_copies_its_shard_to_the_gpu(settings: ServeSettings, gpu: FakeGpu) -> None:
    count = shards(settings.model_copy(update={"retriever_device": "cpu"}))[0].count
    Retriever(settings, 0)
    assert gpu.calls == [f"to gpu 0, {count} vectors", "search 1 for 1"]  # which warms it


def test_without_a_gpu_nothing_is_served(settings: ServeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(monkeypatch, gpus=0)
    for start in (lambda: shards(settings), lambda: Retriever(settings, 0)):
        with pytest.raises(InvalidArgument, match="retriever_device=cuda, but no GPU is to be seen"):
            start()
