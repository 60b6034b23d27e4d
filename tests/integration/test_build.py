"""Whole builds on a local cluster: what is published does not depend on who computed it."""

import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from jobs import session
from jobs.build import embedding
from jobs.build.driver import Builder
from jobs.build.estimate import estimate
from jobs.progress import Reporter
from jobs.report import Summary
from jobs.session import Cluster, Workers, ray_session, spread
from shoal.errors import CorruptIndex, InvalidArgument, ModelUnavailable, NotFound, ShoalError, Unavailable
from shoal.index_root import layout, versions
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexing.commits import Tally
from shoal.indexing.plan import Plan
from shoal.settings import BuildSettings
from tests.support.long import only_long

TIMES = {"version", "created_at"}


@pytest.fixture(scope="module")
def cluster(local: ModuleType, s3_endpoint: str) -> Iterator[Cluster]:
    """Room for three workers, and two GPUs that only Ray's scheduler believes in."""
    with local.LocalCluster(nodes=1, cpus_per_node=4, gpus_per_node=2) as nodes, pytest.MonkeyPatch.context() as patch:
        for name, value in (nodes.env | {"RAY_ADDRESS": nodes.address}).items():
            patch.setenv(name, value)
        with ray_session() as joined:
            yield joined


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 passages about 30 topics, one duplicate and one bad line."""
    path = tmp_path_factory.mktemp("corpus") / "passages.jsonl"
    lines = [
        json.dumps({"id": f"p{n}", "text": f"passage {n} about topic{n % 30} and thing{n % 7}", "page": n})
        for n in range(600)
    ]
    path.write_text("\n".join([*lines[:300], "not json", lines[17], *lines[300:]]) + "\n")
    return path


Build = Callable[..., Summary]


@pytest.fixture
def build(cluster: Cluster, corpus: Path) -> Build:
    def run(index: Path | str, **changes: Any) -> Summary:
        return Builder(settings_for(corpus, index, **changes), cluster, Reporter(Console(file=io.StringIO()))).build()

    return run


def settings_for(corpus: Path, index: Path | str, **changes: Any) -> BuildSettings:
    values = {
        "source": str(corpus),
        "index": str(index),
        "encoder": "hashing:32",
        "shards": 3,
        "unit_passages": 40,
        "gpus_per_worker": 0,
    }
    return BuildSettings.model_validate(values | changes)


def content(summary: Summary) -> dict[str, Any]:
    """Everything of a manifest that two builds of one plan have in common; the checksums stand for the files."""
    manifest: Manifest = versions.read_manifest(Storage(summary.index), summary.version)
    body = manifest.model_dump(exclude=TIMES)
    for measured in (body["index"], *body["index"]["curve"]):
        del measured["latency_ms"]
    return body


def test_one_and_three_workers_store_the_same_bytes(build: Build, tmp_path: Path) -> None:
    stored = {"late_interaction": "stored", "late_dims": 8}
    one, three = build(tmp_path / "one", workers=1, **stored), build(tmp_path / "three", workers=3, **stored)
    assert (one.workers, three.workers) == (1, 3)
    assert len(one.busy) == 1 <= len(three.busy) <= 3
    assert all(0 < share <= 1 for share in (*one.busy, *three.busy))
    assert content(one) == content(three)
    assert content(one)["fields"] == {"page": "integer"}
    assert content(one)["late"] == {"dims": 8, "bits": 2}
    assert versions.verify(Storage(one.index), one.version) == []
    assert (one.passages, one.duplicates, one.rejected) == (600, 1, 1)
    assert one.recall_at_10 == 1.0
    assert one.activated
    assert [example["line"] for example in one.rejected_examples] == [301, 302]
    assert one.rejected_examples[1]["reason"] == "duplicate id, first in passages.jsonl:18"
    assert not list(Storage(one.index).list(layout.STAGING))


@pytest.mark.parametrize("packed", [False, True])
def test_one_process_stores_the_same_bytes(build: Build, corpus: Path, tmp_path: Path, packed: bool) -> None:
    source, changes = corpus, {"index_kind": "rabitq"}
    if packed:
        source, changes = tmp_path / "corpus.jsonl.gz", {"late_interaction": "stored", "late_dims": 8}
        source.write_bytes(gzip.compress(corpus.read_bytes()))
    settings = settings_for(source, tmp_path / "here", **changes)
    with session.this_process(settings.threads) as here:
        alone = Builder(settings, here, Reporter(Console(file=io.StringIO()))).build()
    joint = build(tmp_path / "on-ray", source=str(source), workers=3, **changes)
    assert content(alone) == content(joint)
    for name in ("passages", "duplicates", "rejected", "rejected_examples"):
        assert getattr(alone, name) == getattr(joint, name)


def test_a_trained_kind_is_equal_on_every_run_and_its_recall_is_known(build: Build, tmp_path: Path) -> None:
    changes = {"index_kind": "rabitq", "recall_target": 0.9}
    one, three = build(tmp_path / "one", workers=1, **changes), build(tmp_path / "three", workers=3, **changes)
    assert content(one) == content(three)
    assert one.recall_at_10 is not None
    assert 0.9 <= one.recall_at_10 <= 1
    index = versions.read_manifest(Storage(one.index), one.version).index
    assert next(point for point in index.curve if point.recall >= 0.9).search == index.search
    everything = build(tmp_path / "all", index_kind="IVF8,Flat", index_search="nprobe=8")
    assert everything.recall_at_10 == 1.0


def test_a_plan_that_is_published_is_only_activated(build: Build, tmp_path: Path) -> None:
    first = build(tmp_path / "index", activate=False)
    storage = Storage(first.index)
    assert not first.activated
    assert versions.read_current(storage) is None
    again = build(tmp_path / "index")
    assert (again.built, again.activated, again.version) == (False, True, first.version)
    rebuilt = build(tmp_path / "index", rebuild=True)
    assert rebuilt.built
    assert rebuilt.version > first.version
    assert content(rebuilt) == content(first)
    current = versions.read_current(storage)
    assert current is not None
    assert (current.version, current.previous) == (rebuilt.version, first.version)
    assert not list(storage.list(layout.STAGING))


def test_a_run_whose_plan_was_replaced_makes_the_version_of_the_other_run(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged, other = Builder._staged, "20990101T000000000-00000000"

    def overtaken(self: Builder, plan: Plan) -> Plan:
        mine = staged(self, plan)
        self.storage.write(layout.plan(plan.hash), mine.model_copy(update={"version": other}).to_bytes())
        return mine

    monkeypatch.setattr(Builder, "_staged", overtaken)
    summary = build(tmp_path / "index")
    storage = Storage(summary.index)
    assert summary.version == other
    assert versions.list_versions(storage) == [other]
    assert versions.verify(storage, other) == []
    assert not list(storage.list(layout.STAGING))


def test_a_run_that_finds_staging_cleared_takes_what_the_other_run_has_published(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = Builder._staged

    def overtaken(self: Builder, plan: Plan) -> Plan:
        monkeypatch.setattr(Builder, "_staged", staged)
        build(tmp_path / "index")
        raise NotFound("the plan is gone")

    monkeypatch.setattr(Builder, "_staged", overtaken)
    summary = build(tmp_path / "index")
    assert (summary.built, summary.activated) == (False, True)
    assert versions.list_versions(Storage(summary.index)) == [summary.version]


def test_what_is_published_but_not_current_is_told_and_made_current_by_the_next_run(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise Unavailable("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(versions, "activate", full)
        with pytest.raises(Unavailable, match="is published, but not current: no space"):
            build(tmp_path / "index")
    again = build(tmp_path / "index")
    assert (again.built, again.activated) == (False, True)


def test_compressed_input_is_spooled_and_gives_the_same_shards(build: Build, corpus: Path, tmp_path: Path) -> None:
    source = tmp_path / "packed"
    source.mkdir()
    lines = corpus.read_bytes().splitlines(keepends=True)
    for name, part in (("a", lines[:250]), ("b", lines[250:])):
        (source / f"{name}.jsonl.gz").write_bytes(gzip.compress(b"".join(part)))
    packed, plain = build(tmp_path / "packed-index", source=str(source)), build(tmp_path / "plain-index")
    assert content(packed)["shards"] == content(plain)["shards"]
    assert "spool" in packed.seconds
    assert [(example["file"], example["line"]) for example in packed.rejected_examples] == [
        ("b.jsonl.gz", 51),
        ("b.jsonl.gz", 52),
    ]


def test_an_index_root_on_s3_gets_the_same_files(build: Build, tmp_path: Path, s3_uri: str) -> None:
    assert content(build(s3_uri, unit_passages=300)) == content(build(tmp_path / "index", unit_passages=300))


@pytest.mark.parametrize("remote", [False, pytest.param(True, marks=only_long)])
def test_a_changed_source_embeds_what_changed_and_copies_the_rest(
    build: Build, cluster: Cluster, corpus: Path, tmp_path: Path, request: pytest.FixtureRequest, remote: bool
) -> None:
    root = request.getfixturevalue("s3_uri") if remote else tmp_path / "index"
    stored = {"late_interaction": "stored", "late_dims": 8, "unit_passages": 300}
    first = build(root, **stored)
    lines = [line for line in corpus.read_text().splitlines() if '"p7"' not in line]
    source = tmp_path / "changed.jsonl"
    source.write_text("\n".join([*lines, '{"id": "new", "text": "a passage that is new", "page": 0}']) + "\n")
    settings = settings_for(source, root, **stored)
    foreseen = estimate(Builder(settings, cluster, Reporter(Console(file=io.StringIO()))))
    assert (foreseen.base, 590 < foreseen.reused < foreseen.passages) == (first.version, True)
    again = build(root, source=str(source), **stored)
    assert (again.base, again.reused, again.embedded, again.removed) == (first.version, 599, 1, 1)
    assert (first.base, first.reused, first.embedded, first.removed) == (None, 0, 600, None)
    assert "base" in again.seconds
    assert any(name == "vectors" and "599 reused" in value for name, value in again.rows())
    fresh = build(tmp_path / "fresh", source=str(source), **{**stored, "late_interaction": "none"})
    late = layout.LATE + "/"

    def files(summary: Summary) -> dict[str, str]:
        manifest = versions.read_manifest(Storage(summary.index), summary.version)
        return {file.path: file.sha256 for file in manifest.all_files() if late not in file.path}

    assert files(again) == files(fresh)
    assert versions.verify(Storage(again.index), again.version) == []
    assert not list(Storage(again.index).list(layout.STAGING))


def test_damage_of_the_base_ends_the_build_and_reembedding_helps(build: Build, corpus: Path, tmp_path: Path) -> None:
    first = build(tmp_path / "index")
    storage = Storage(first.index)
    path = f"{layout.shard_dir(first.version, 1)}/{layout.VECTORS}"
    whole = storage.read(path)
    storage.write(path, whole[:-1] + bytes([whole[-1] ^ 1]))
    source = tmp_path / "longer.jsonl"
    source.write_text(corpus.read_text() + '{"id": "new", "text": "a passage that is new", "page": 0}\n')
    with pytest.raises(CorruptIndex, match=r"vectors cannot be copied from .*vectors\.faiss.*--reembed"):
        build(tmp_path / "index", source=str(source))
    again = build(tmp_path / "index", source=str(source), reembed=True)
    assert (again.base, again.embedded) == (None, 601)


def test_all_rejected_input_publishes_nothing(build: Build, tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    source.write_text('{"id": "a"}\nnonsense\n')
    with pytest.raises(InvalidArgument, match="all 2 records were rejected"):
        build(tmp_path / "index", source=str(source))
    assert versions.list_versions(Storage(str(tmp_path / "index"))) == []


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"encoder": "/no/such/model"}, ShoalError, "/no/such/model"),
        ({"backend": "abacus"}, InvalidArgument, "abacus"),
        ({"index_kind": "IVF,Nonsense"}, InvalidArgument, "IVF,Nonsense"),
        ({"index_kind": "IVF512,Flat", "train_passages": 100}, InvalidArgument, "IVF512,Flat"),
        ({"source": "/no/such/file.jsonl"}, InvalidArgument, "/no/such/file.jsonl"),
        ({"index": "/dev/null/index"}, InvalidArgument, "/dev/null/index"),
    ],
)
def test_a_mistake_is_named_without_a_stack_trace(
    build: Build, tmp_path: Path, changes: dict[str, Any], error: type[ShoalError], message: str
) -> None:
    with pytest.raises(error) as caught:
        build(**{"index": tmp_path / "index", **changes})
    assert message in caught.value.message
    assert "Traceback" not in str(caught.value)
    assert isinstance(caught.value, InvalidArgument | ModelUnavailable | NotFound)


def test_an_input_that_changes_while_it_is_read_ends_the_build(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "growing.jsonl"
    source.write_text('{"id": "a", "text": "one"}\n')
    staged = Builder._staged

    def grow(self: Builder, plan: Any) -> Any:
        with source.open("a") as file:
            file.write('{"id": "b", "text": "two"}\n')
        return staged(self, plan)

    monkeypatch.setattr(Builder, "_staged", grow)
    with pytest.raises(InvalidArgument, match="has changed since the plan"):
        build(tmp_path / "index", source=str(source))


def test_a_dry_run_estimates_and_writes_nothing(cluster: Cluster, corpus: Path, tmp_path: Path) -> None:
    settings = settings_for(corpus, tmp_path / "index", workers=2)
    outcome = estimate(Builder(settings, cluster, Reporter(Console(file=io.StringIO()))))
    assert not (tmp_path / "index").exists()
    assert 500 < outcome.passages < 700
    assert (outcome.shards, outcome.workers, outcome.dim, outcome.published) == (3, 2, 32, None)
    assert outcome.embed_seconds is not None
    assert outcome.disk_bytes > 2 * 600 * 32 * 4
    assert outcome.rows()


def test_a_dry_run_reads_the_head_of_compressed_input(cluster: Cluster, corpus: Path, tmp_path: Path) -> None:
    source = tmp_path / "corpus.jsonl.gz"
    source.write_bytes(gzip.compress(corpus.read_bytes()))
    settings = settings_for(source, tmp_path / "index")
    outcome = estimate(Builder(settings, cluster, Reporter(Console(file=io.StringIO()))))
    assert outcome.embed_seconds is not None
    assert not (tmp_path / "index").exists()


def test_workers_get_a_gpu_each(
    cluster: Cluster, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(corpus, tmp_path / "index", gpus_per_worker=None)
    workers = session.embedding_workers(settings, cluster)
    assert workers == Workers(count=2, cpus=1, gpus=1)
    seen = tmp_path / "seen"
    seen.mkdir()

    class Recorder:
        def __init__(self, *arguments: Any) -> None:
            import os

            import ray

            gpus = ray.get_runtime_context().get_accelerator_ids()["GPU"]
            (seen / f"{os.getpid()}").write_text(",".join(gpus) + "|" + os.environ["CUDA_VISIBLE_DEVICES"])

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            import time

            import numpy as np

            time.sleep(0.05)
            counts = {"unit": batch["item"], "lines": [1], "rejected": [0], "rows": np.array([[1, 0, 0]])}
            return counts | {
                "fields": ["{}"],
                "left_out": ["{}"],
                "documents": [1],
                "full": [0],
                "superseded": [0],
                "worker": ["w"],
                "started": [0.0],
                "ended": [1.0],
                "busy_s": [0.5],
            }

    monkeypatch.setattr(embedding, "Embedder", Recorder)
    builder = Builder(settings, cluster, Reporter(Console(file=io.StringIO())))
    plan, tally = builder.plan(), Tally(40, 3)
    busy = embedding.Busy()
    embedded = embedding.embed_on_ray(settings, plan, builder.storage, list(range(40)), workers)
    done = embedding.count(embedded, tally, busy)
    assert sorted(done) == list(range(40))
    assert busy.shares() == [20.0]
    assert sorted(path.read_text() for path in seen.iterdir()) == ["0|0", "1|1"]
    assert tally.shard_rows.tolist() == [40, 0, 0]


def test_a_worker_that_fits_no_node_is_told_of(cluster: Cluster) -> None:
    assert session.shortage(Workers(count=9, cpus=4, gpus=2)) is None
    for workers, lack in ((Workers(1, 5, 0), "5 CPUs and 0 GPUs"), (Workers(1, 1, 2.5), "1 CPUs and 2.5 GPUs")):
        assert lack in (session.shortage(workers) or "")


def test_tasks_that_ask_for_a_gpu_get_one(cluster: Cluster) -> None:
    def visible(number: int) -> str:
        import os

        return os.environ["CUDA_VISIBLE_DEVICES"]

    assert set(spread(visible, ((n,) for n in range(6)), 4, num_cpus=1, num_gpus=1)) <= {"0", "1"}


def test_spread_gives_every_result_and_raises_what_a_task_raised(cluster: Cluster) -> None:
    def square(number: int) -> int:
        if number == 40:
            raise NotFound("number 40 is gone", param="number")
        return number * number

    assert sorted(spread(square, ((n,) for n in range(20)), 3, num_cpus=1)) == [n * n for n in range(20)]
    with pytest.raises(NotFound) as caught:
        list(spread(square, ((n,) for n in range(38, 44)), 2, num_cpus=1))
    assert (caught.value.message, caught.value.param) == ("number 40 is gone", "number")
