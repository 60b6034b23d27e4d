"""Builds that crash, go on, are overtaken or run twice: what is done stays, what is lost is made to the same bytes."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jobs.build import tasks
from shoal.errors import Conflict, NotFound, Unavailable
from shoal.index_root import layout, versions
from shoal.indexing import training
from shoal.indexing.commits import (
    Trial,
    committed_units,
    read_shard_commit,
    read_unit_commit,
)
from shoal.indexing.embed import embed_unit
from shoal.indexing.recall import attempt
from shoal.indexing.shards import index_shard
from tests.support.building import DIM, Build, Refusing, jsonl, records, tuned, untimed


def test_a_committed_unit_is_not_embedded_again(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(25))).embed()
    before = build.staged()
    for unit in build.plan.units:
        again = embed_unit(build.plan, unit, Refusing(), build.storage)  # type: ignore[arg-type]
        assert again == read_unit_commit(build.storage, build.plan.hash, unit.number)
    assert build.staged() == before
    assert committed_units(build.storage, build.plan.hash) == [unit.number for unit in build.plan.units]


def test_a_unit_without_its_commit_record_is_embedded_again_to_the_same_bytes(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(25))).embed()
    before = build.staged()
    build.storage.delete(layout.unit_commit(build.plan.hash, 1))
    build.storage.write(layout.unit_data(build.plan.hash, 1), b"half of a file")
    assert 1 not in committed_units(build.storage, build.plan.hash)
    build.embed()
    assert build.staged() == before


def test_a_unit_whose_data_is_gone_is_embedded_again_to_the_same_bytes(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(25))).embed()
    before = build.staged()
    build.storage.delete(layout.unit_data(build.plan.hash, 1))  # clearing the staging folder was interrupted
    assert committed_units(build.storage, build.plan.hash) == [0, 2]
    build.embed()
    assert build.staged() == before


def test_a_stored_shard_is_not_indexed_again_unless_its_files_are_gone(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(30))).embed()
    commits = build.index()
    vectors = f"{layout.shard_dir(build.plan.version, 0)}/{layout.VECTORS}"
    before, written = build.storage.read(vectors), build.storage.local_path(vectors).stat().st_mtime_ns
    assert untimed(build.index()[0]) == untimed(commits[0])
    assert build.storage.local_path(vectors).stat().st_mtime_ns == written
    for gone in (vectors, layout.shard_duplicates(build.plan.hash, 0)):
        build.storage.delete(gone)
        build.index()
        assert build.storage.read(vectors) == before
        assert build.storage.exists(gone)


def test_a_build_that_goes_on_with_other_verify_queries_measures_its_shards_again(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(30))).embed()
    vectors = build.index(queries=5)[0].entry.files
    for queries in (9, 0):
        build.storage.delete(layout.shard_commit(build.plan.hash, 2))  # killed before the last shard
        commits = build.index(queries)
        assert [commit.queries for commit in commits] == [queries] * 3
        assert commits[0].entry.files == vectors
        assert tuned(build.plan, commits).recall_at_10 == (1.0 if queries else None)


def test_shards_that_two_runs_have_measured_differently_are_not_merged(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(30))).embed()
    mixed = [build.index(queries)[shard] for shard, queries in enumerate((5, 9))]
    with pytest.raises(Conflict, match="another run of this build measures recall with 9 queries"):
        tuned(build.plan, mixed)


def test_a_shard_committed_for_another_version_is_stored_again(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(30))).embed()
    build.index()
    other = build.plan.model_copy(update={"version": "20990101T000000-other"})
    commit = index_shard(other, 0, build.storage, np.zeros((0, DIM), np.float32), 1, {})
    assert commit.version == other.version
    assert [trial.latency_ms for trial in commit.trials] == [None]
    assert build.storage.exists(f"{layout.shard_dir(other.version, 0)}/{layout.PASSAGES}")


def test_tasks_store_nothing_for_a_version_whose_plan_was_replaced(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(30))).embed()
    root, plan = build.storage.uri, build.plan
    build.storage.write(layout.plan(plan.hash), plan.model_copy(update={"version": "other"}).to_bytes())
    with pytest.raises(Conflict, match="another run of this build"):
        tasks.index(root, plan.hash, plan.version, 0, np.zeros((0, DIM), np.float32), 1, {})
    assert not build.storage.exists(layout.VERSIONS)
    build.count()
    tasks.index(root, plan.hash, "other", 0, np.zeros((0, DIM), np.float32), 1, {})
    with pytest.raises(Conflict, match="another run of this build"):
        tasks.verify(root, plan.hash, plan.version, 0)
    assert tasks.verify(root, plan.hash, "other", 0) == (0, [])


@pytest.mark.parametrize("published", [False, True])
def test_a_run_that_was_overtaken_leaves_the_files_of_the_faster_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(30))).embed()
    queries = np.zeros((0, DIM), np.float32)
    build.count()
    place = f"{layout.shard_dir(build.plan.version, 0)}/{layout.VECTORS}"

    def overtaken(*arguments: Any) -> list[Trial]:
        with monkeypatch.context() as patch:
            patch.setattr("shoal.indexing.shards.attempt", attempt)
            index_shard(build.plan, 0, build.storage, queries, 1, {})
        if published:
            build.storage.write(layout.manifest(build.plan.version), b"{}")
            build.storage.delete(layout.shard_commit(build.plan.hash, 0))
        written.append(build.storage.local_path(place).stat())
        return attempt(*arguments)

    written: list[os.stat_result] = []
    monkeypatch.setattr("shoal.indexing.shards.attempt", overtaken)
    if published:
        with pytest.raises(Conflict, match=f"another run of this build has published {build.plan.version}"):
            index_shard(build.plan, 0, build.storage, queries, 1, {})
    else:
        commit = index_shard(build.plan, 0, build.storage, queries, 1, {})
        assert commit == read_shard_commit(build.storage, build.plan.hash, 0)
    after = build.storage.local_path(place).stat()
    assert (after.st_ino, after.st_mtime_ns) == (written[0].st_ino, written[0].st_mtime_ns)


def test_a_trained_index_that_another_run_has_stored_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(30)), index_kind="ivf").embed()
    build.storage.write(layout.plan(build.plan.hash), build.plan.to_bytes())
    path = layout.trained_index(build.plan.hash)

    def train(*arguments: Any) -> bytes:
        build.storage.write(path, b"theirs")
        return b"mine"

    monkeypatch.setattr(training, "index_kind", lambda name: SimpleNamespace(train=train, TRAINED=True))
    tasks.train(build.storage.uri, build.plan.hash, build.tally.passages, 1)
    assert build.storage.read(path) == b"theirs"


def test_a_full_disk_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(30)))

    def full(path: Path, *arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shoal.indexing.embed.write_unit", full)
        with pytest.raises(Unavailable, match=f"{build.plan.hash}/scratch: no space left"):
            build.embed()
    build.embed()
    monkeypatch.setattr("shoal.indexing.shards.write_shard", full)
    with pytest.raises(Unavailable, match=f"{build.plan.hash}/scratch: no space left"):
        build.index()


def test_two_builds_of_one_plan_store_equal_files(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "in.jsonl", [*records(64), *records(5)])
    builds = [Build(tmp_path / name, source).embed() for name in ("one", "two")]
    for build in builds:
        build.publish()
    one, two = (
        {entry.path: entry for entry in versions.read_manifest(b.storage, b.plan.version).all_files()} for b in builds
    )
    assert one == two


def test_a_unit_that_vanished_is_named(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(30))).embed()
    build.storage.delete(layout.unit_data(build.plan.hash, 1))
    with pytest.raises(NotFound, match=r"00000001\.arrow"):
        build.index()
