"""The disk of an index root fills up, or can only be read: what a build says, and what it leaves behind.

The disk is a file system in memory of its own, which only root may mount; elsewhere these tests are skipped.
"""

import io
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from jobs.build.driver import Builder
from jobs.progress import Reporter
from jobs.report import Summary
from jobs.session import Cluster, ray_session
from shoal.errors import InvalidArgument, Unavailable
from shoal.index_root import layout, versions
from shoal.index_root.storage import Storage
from shoal.records import SearchRequest
from shoal.settings import BuildSettings, ServeSettings
from tests.support.disks import Disk, small_disk
from tests.support.engine import local_engine
from tests.support.indexes import passages, publish
from tests.support.long import LONG, only_long

DISK_BYTES = 16 * 2**20
STEP_BYTES = 96 * 2**10
"""By so much more room has each try of the long test: a dozen of them until a build fits."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        yield disk


@pytest.fixture(scope="module")
def cluster(local: ModuleType) -> Iterator[Cluster]:
    with local.LocalCluster(nodes=1, cpus_per_node=2) as nodes, pytest.MonkeyPatch.context() as patch:
        for name, value in (nodes.env | {"RAY_ADDRESS": nodes.address}).items():
            patch.setenv(name, value)
        with ray_session() as joined:
            yield joined


Build = Callable[..., Summary]


@pytest.fixture
def build(cluster: Cluster, tmp_path: Path) -> Build:
    """Build from so many passages; a number is a plan of its own."""

    def run(index: Path, count: int, **changes: Any) -> Summary:
        source = tmp_path / f"{count}.jsonl"
        if not source.exists():
            lines = [
                json.dumps({"id": f"p{n}", "text": f"passage {n} about topic{n % 30}", "page": n}) for n in range(count)
            ]
            source.write_text("\n".join([*lines, "not json"]) + "\n")
        values = {"source": str(source), "index": str(index), "encoder": "hashing:32", "gpus_per_worker": 0}
        values |= {"shards": 2, "unit_passages": 100, "workers": 1, "index_kind": "rabitq"}
        settings = BuildSettings.model_validate(values | changes)
        return Builder(settings, cluster, Reporter(Console(file=io.StringIO()))).build()

    return run


def is_whole(index: Path, version: str) -> bool:
    """Whether a version is current and nothing of it is missing."""
    storage = Storage(str(index))
    current = versions.read_current(storage)
    return current is not None and current.version == version and versions.verify(storage, version) == []


@pytest.mark.parametrize("stage", ["_embed", "_index", "_finish"] if LONG else ["_index"])
def test_a_disk_that_fills_up_before_a_stage_of_a_build_is_told_and_costs_nothing(
    stage: str, build: Build, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = disk.folder / "index"
    first = build(index, 500)
    whole = getattr(Builder, stage)

    def fill_up(self: Builder, *arguments: Any, **options: Any) -> Any:
        disk.leave(0)
        return whole(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Builder, stage, fill_up)
        with pytest.raises(Unavailable) as full:
            build(index, 1000)
    assert f"{index}/" in full.value.message
    assert "no space left; free some and run the same command again" in full.value.message
    assert is_whole(index, first.version)
    disk.empty()
    second = build(index, 1000)
    assert is_whole(index, second.version)
    assert second.units_reused == (0 if stage == "_embed" else second.units)
    assert not list(Storage(str(index)).list(layout.STAGING))


@only_long
@pytest.mark.timeout(1200)
def test_a_disk_that_fills_up_at_any_moment_of_a_build_is_told_and_costs_nothing(build: Build, disk: Disk) -> None:
    index = disk.folder / "index"
    first = build(index, 500)
    failures: list[str] = []
    for room in itertools.count(0, STEP_BYTES):
        disk.leave(room)
        try:
            second = build(index, 1500)
            break
        except Unavailable as error:
            failures.append(error.message)
        assert is_whole(index, first.version)
    print(*failures, sep="\n")
    for failure in failures:
        assert f"{index}/" in failure
        assert "no space left; free some and run the same command again" in failure
    assert len(failures) > 3
    assert second.units_reused > 0
    assert is_whole(index, second.version)
    assert versions.verify(Storage(str(index)), first.version) == []
    assert not list(Storage(str(index)).list(layout.STAGING))


@pytest.mark.parametrize("stage", ["plan", "_index"] if LONG else ["_index"])
def test_a_root_that_can_only_be_read_is_told_and_costs_nothing(
    stage: str, build: Build, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = disk.folder / "index"
    first = build(index, 500)
    whole = getattr(Builder, stage)

    def freeze(self: Builder, *arguments: Any, **options: Any) -> Any:
        disk.remount("ro")
        return whole(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Builder, stage, freeze)
        with pytest.raises(InvalidArgument) as refused:
            build(index, 1000)
    assert f"{index}/" in refused.value.message
    assert "read-only or forbidden; give write permission or another index root" in refused.value.message
    assert is_whole(index, first.version)
    disk.remount("rw")
    second = build(index, 1000)
    assert is_whole(index, second.version)
    assert second.units_reused == (0 if stage == "plan" else second.units)


async def test_a_root_that_can_only_be_read_is_served_and_its_versions_are_not_switched(disk: Disk) -> None:
    root = disk.folder / "index"
    publish(root, "v1", passages(40))
    publish(root, "v2", passages(40), activate=False)
    disk.remount("ro")
    server = await local_engine(ServeSettings(index=str(root), encoder="hashing:64", reranker="overlap"))
    request = SearchRequest(query="red fish n0", top_k=10, top_n=3, rerank=True, deadline=time.monotonic() + 60)
    with pytest.raises(InvalidArgument, match="CURRENT: read-only or forbidden; give write permission"):
        await server.activate("v2")
    (answer,) = await server.search([request])
    assert (answer.index_version, answer.coverage.fraction) == ("v1", 1)
    disk.remount("rw")
    await server.activate("v2")
    (answer,) = await server.search([request])
    assert answer.index_version == "v2"
