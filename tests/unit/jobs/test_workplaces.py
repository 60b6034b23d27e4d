"""A build in one process: what it publishes, how it fails and goes on, and when it is chosen. Starts no Ray."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from jobs import build_index
from jobs.build import tasks
from jobs.build.driver import Builder
from jobs.build.estimate import estimate
from jobs.build.workplaces import InProcess
from jobs.progress import Reporter
from jobs.session import Cluster, Workers, embedding_workers, this_process
from shoal.encoders import load_encoder
from shoal.errors import InvalidArgument, NotFound, ShoalError
from shoal.index_root import layout, versions
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexing import in_process
from shoal.indexing.in_process import fits_process
from shoal.settings import BuildSettings
from tests.support.building import Build, jsonl, records

STORED = {"late_interaction": "stored", "late_dims": 8}


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_held", {})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    lines = [*records(60), "not json", {"id": "p3", "text": "a second p3"}]
    return jsonl(tmp_path / "in.jsonl", lines)


def builder(settings: BuildSettings) -> Builder:
    cluster = Cluster(2, 0, private=True, in_process=True)
    return Builder(settings, cluster, Reporter(Console(file=io.StringIO(), width=1000)))


def content(storage: Storage, version: str) -> dict[str, Any]:
    """Of a manifest what builds of one plan have in common; the checksums stand for the files."""
    assert versions.verify(storage, version) == []
    manifest: Manifest = versions.read_manifest(storage, version)
    body = manifest.model_dump(exclude={"version", "created_at"})
    for measured in (body["index"], *body["index"]["curve"]):
        del measured["latency_ms"]
    return body


@pytest.mark.parametrize("changes", [{}, STORED, {"index_kind": "IVF4,Flat", "shards": 1}])
def test_one_process_publishes_what_the_stages_one_by_one_do(
    changes: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    changes = changes | {"verify_queries": 5}
    summary = builder(BuildSettings.model_validate(settings(source, tmp_path / "here") | changes)).build()
    stages = Build(tmp_path / "stages", source, **changes).embed()
    if changes.get("index_kind"):
        tasks.train_index(stages.plan, stages.storage, stages.tally.passages, 1)
    assert content(Storage(summary.index), summary.version) == content(stages.storage, stages.publish())
    assert (summary.passages, summary.duplicates, summary.rejected, summary.workers) == (60, 1, 1, 1)
    assert (summary.activated, summary.units, summary.units_reused) == (True, len(stages.plan.units), 0)
    assert [0 < share <= 1 for share in summary.busy] == [True]
    assert not list(Storage(summary.index).list(layout.STAGING))


def settings(source: Path, index: Path) -> dict[str, Any]:
    return {
        "source": str(source),
        "index": str(index),
        "encoder": "hashing:16",
        "shards": 3,
        "unit_passages": 10,
    }


def test_the_model_is_loaded_once_for_the_plan_for_what_is_learned_and_for_the_units(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[int] = []

    def load(settings: BuildSettings) -> Any:
        loaded.append(settings.threads)
        return load_encoder(settings)

    monkeypatch.setattr(tasks, "load_encoder", load)
    build = BuildSettings.model_validate(settings(source, tmp_path / "index") | STORED)
    assert builder(build).build().activated
    assert loaded == [2]
    assert not tasks._held
    builder(build.model_copy(update={"dry_run": True}))
    assert estimate(builder(build)).embed_seconds is not None
    assert loaded == [2, 2]


@pytest.mark.parametrize("error", [NotFound("the disk is gone"), KeyError("page")])
def test_what_a_unit_raises_ends_the_build_which_goes_on_where_it_was(
    error: Exception, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_unit = tasks.embed_unit

    def fail(plan: Any, unit: Any, *arguments: Any) -> Any:
        if unit.number == 3:
            raise error
        return embed_unit(plan, unit, *arguments)

    build = BuildSettings.model_validate(settings(source, tmp_path / "index") | {"verify_queries": 5})
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "embed_unit", fail)
        with pytest.raises(ShoalError, match=r"the disk is gone|a task of the build failed: KeyError: 'page'"):
            builder(build).build()
    assert versions.list_versions(Storage(build.index)) == []
    staged = Storage(build.index).local_path(layout.STAGING)
    committed = len(list(staged.glob("*/units/*.json")))
    again = builder(build).build()
    assert again.units_reused == committed > 0
    stages = Build(tmp_path / "stages", source, verify_queries=5).embed()
    assert content(Storage(again.index), again.version) == content(stages.storage, stages.publish())


def test_a_step_that_fails_is_told_as_on_ray() -> None:
    def fail(number: int) -> None:
        raise ValueError(f"{number} is wrong")

    message = "a task of the build failed: ValueError: 7 is wrong"
    with pytest.raises(ShoalError, match=message):
        InProcess().run(fail, 7, num_cpus=1)
    with pytest.raises(ShoalError, match=message):
        list(InProcess().spread(fail, [(7,)], 2, num_cpus=1))


def test_one_process_is_one_worker_with_the_threads_of_all() -> None:
    def workers(**changes: Any) -> Workers:
        chosen = BuildSettings.model_validate({"source": "/in", "index": "/out"} | changes)
        return embedding_workers(chosen, Cluster(8, 0, private=True, in_process=True))

    assert workers() == Workers(1, 8, 0)
    assert workers(workers=3) == Workers(1, 3, 0)
    assert workers(threads=3) == Workers(1, 6, 0)
    with pytest.raises(InvalidArgument, match="lower --threads"):
        workers(threads=9)


def test_an_interrupt_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with this_process(1) as cluster:
        assert (cluster.private, cluster.in_process, cluster.gpus) == (True, True, 0)
        raise KeyboardInterrupt
    assert codes == [130]


class TestWhichBuildsFitOneProcess:
    @pytest.fixture(autouse=True)
    def no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(in_process, "may_have_gpu", lambda: False)

    def fits(self, folder: Path, source_bytes: int, **changes: Any) -> bool:
        values = {"source": "/in", "index": str(folder), "in_process_mib": 1.0} | changes
        return fits_process(BuildSettings.model_validate(values), source_bytes)

    def test_by_the_bytes_of_the_source(self, tmp_path: Path) -> None:
        assert self.fits(tmp_path, 2**20)
        assert not self.fits(tmp_path, 2**20 + 1)
        assert not self.fits(tmp_path, 1, in_process_mib=0)

    def test_with_those_of_the_current_version(self, source: Path, tmp_path: Path) -> None:
        build = Build(tmp_path / "index", source).embed()
        versions.activate(build.storage, build.publish())
        size = sum(file.bytes for file in versions.current_manifest(build.storage).all_files())
        assert self.fits(tmp_path / "index", 2**20 - size)
        assert not self.fits(tmp_path / "index", 2**20 - size + 1)

    def test_where_there_is_no_gpu(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not self.fits(tmp_path, 1, gpus_per_worker=1)
        monkeypatch.setattr(in_process, "may_have_gpu", lambda: True)
        assert not self.fits(tmp_path, 1)


@pytest.mark.parametrize(
    ("option", "address", "chosen"),
    [("1", None, "process"), ("0", None, "ray"), ("1", "127.0.0.1:6379", "ray")],
)
def test_the_command_starts_ray_for_larger_builds_and_on_a_cluster_alone(
    option: str, address: str | None, chosen: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []

    @contextmanager
    def session(place: str) -> Iterator[Cluster]:
        taken.append(place)
        yield Cluster(2, 0, private=True, in_process=True)

    monkeypatch.setattr(in_process, "may_have_gpu", lambda: False)
    monkeypatch.setattr(build_index, "ray_session", lambda: session("ray"))
    monkeypatch.setattr(build_index, "this_process", lambda threads: session("process"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in settings(source, tmp_path / "index").items()]
    result = CliRunner().invoke(build_index.app, [*words, f"--in-process-mib={option}", "--json"])
    assert result.exit_code == 0, result.output
    assert taken == [chosen]
    assert json.loads(result.stdout)["passages"] == 60
