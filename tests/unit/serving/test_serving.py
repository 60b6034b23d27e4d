import json
import os
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import CorruptIndex, EncoderMismatch, InvalidArgument, ModelUnavailable, NotFound, ShoalError
from shoal.index_root import layout, versions
from shoal.index_root.storage import Storage
from shoal.inference import models
from shoal.serving.plan import plan_serving
from shoal.settings import ServeSettings
from shoal.system import machine
from tests.support.indexes import passages, publish


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path, "v1", passages(10), shards=3)
    return tmp_path


def settings(root: Path, **given: Any) -> ServeSettings:
    return ServeSettings.model_validate({"index": str(root), "reranker": "overlap", **given})


def test_what_is_not_set_follows_from_the_index(root: Path) -> None:
    plan = plan_serving(settings(root, encoder_threads=3, reranker_threads=2))
    assert (plan.manifest.version, len(plan.manifest.shards)) == ("v1", 3)
    assert (plan.encoder.encoder, plan.encoder.max_length, plan.encoder.threads) == ("hashing:64", 512, 3)
    assert plan.reranker is not None
    assert (plan.reranker.reranker, plan.reranker.encoder, plan.reranker.threads) == ("overlap", "hashing:64", 2)


def test_none_is_no_reranker(root: Path) -> None:
    assert plan_serving(settings(root, reranker="none")).reranker is None


def test_the_kind_of_a_reranker_is_read_from_its_folder(root: Path, tmp_path_factory: Any) -> None:
    trained, other = tmp_path_factory.mktemp("trained"), tmp_path_factory.mktemp("other")
    (trained / models.TRAINED).write_text('{"kind": "late_interaction"}')
    kinds = [
        plan_serving(settings(root, reranker=str(name))).reranker_kind for name in (trained, other, "overlap", "none")
    ]
    assert kinds == ["late_interaction", "cross_encoder", "overlap", None]


@pytest.mark.parametrize(
    ("files", "scale"),
    [
        ({}, "unit"),  # sentence-transformers takes a single score for a probability
        ({"config.json": {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}}, "logit"),
        ({"config.json": {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}}, "logit"),
        ({"config.json": {"sentence_transformers": {"activation_fn": "somebody.elses.Function"}}}, "unit"),
        ({"config.json": {"sentence_transformers": {"activation_fn": "torch.nn.Softplus"}}}, "logit"),
        ({"config_sentence_transformers.json": {"activation_fn": "torch.nn.modules.activation.Tanh"}}, "cosine"),
        ({"config.json": []}, "unit"),
    ],
)
def test_where_the_scores_of_a_cross_encoder_lie_is_read_from_its_folder(
    root: Path, tmp_path_factory: Any, files: dict[str, Any], scale: str
) -> None:
    folder = tmp_path_factory.mktemp("model")
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    assert plan_serving(settings(root, reranker=str(folder))).reranker_scale == scale


def test_where_the_scores_of_other_rerankers_lie_is_known(root: Path) -> None:
    scales = {name: plan_serving(settings(root, reranker=name)).reranker_scale for name in ("overlap", "none")}
    assert scales == {"overlap": "unit", "none": None}
    assert plan_serving(settings(root, reranker="late_interaction")).reranker_scale == "cosine"


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"encoder": "hashing:32"}, EncoderMismatch, "hashing:32"),
        ({"encoder": "/no/model"}, ModelUnavailable, "/no/model"),
        ({"reranker": "/no/model"}, ModelUnavailable, "/no/model"),
        ({"reranker_min_replicas": 3}, InvalidArgument, "above reranker_max_replicas"),
        ({"index": "/no/index"}, NotFound, "no index root at /no/index"),
    ],
)
def test_what_cannot_be_served_is_found_before_anything_starts(
    root: Path, given: dict[str, Any], error: type[ShoalError], words: str
) -> None:
    with pytest.raises(error, match=words):
        plan_serving(settings(root, **given))


def test_a_mismatch_names_both_encoders(root: Path) -> None:
    with pytest.raises(EncoderMismatch) as refused:
        plan_serving(settings(root, encoder="hashing:32"))
    assert all(name in str(refused.value) for name in ("hashing:64 [", "hashing:32 ["))


def test_a_root_without_a_version_and_a_damaged_manifest_are_told(root: Path, tmp_path_factory: Any) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(NotFound, match="has no current version"):
        plan_serving(settings(empty))
    manifest = root / "versions" / "v1" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"cosine", b"cosinE"))
    with pytest.raises(CorruptIndex, match=r"manifest\.json"):
        plan_serving(settings(root))


def test_an_encoder_that_lies_elsewhere_now_is_told_with_the_remedy(root: Path) -> None:
    storage = Storage(str(root))
    manifest = versions.read_manifest(storage, "v1")
    moved = manifest.model_copy(update={"encoder": manifest.encoder.model_copy(update={"model": "/gone/model"})})
    storage.write(layout.manifest("v1"), moved.to_bytes())
    with pytest.raises(ModelUnavailable, match=r"/gone/model.*; set encoder to where the same model lies here"):
        plan_serving(settings(root))
    with pytest.raises(ModelUnavailable) as refused:
        plan_serving(settings(root, encoder="/no/model"))
    assert "set encoder to where" not in str(refused.value)


@pytest.mark.parametrize(
    ("limit", "threads"),
    [("max 100000", 6), ("150000 100000", 1), ("400000 100000", 4), ("9900000 100000", 6), (None, 6)],
)
def test_a_container_gets_no_more_threads_than_its_cores(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any, limit: str | None, threads: int
) -> None:
    file = tmp_path_factory.mktemp("cgroup") / "cpu.max"
    if limit is not None:
        file.write_text(f"{limit}\n")
    monkeypatch.setattr(machine, "CPU_QUOTA", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    plan = plan_serving(settings(root))
    assert plan.reranker is not None
    assert plan.reranker.threads == threads
