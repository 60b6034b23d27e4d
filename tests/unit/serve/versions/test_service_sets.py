from pathlib import Path

import pytest

from serve.versions.service_sets import REFUSED_S, ServiceSets
from shoal.index_root import layout, versions
from shoal.index_root.storage import Storage
from shoal.serving.plan import ServingPlan, plan_serving
from shoal.settings import ServeSettings
from tests.support.indexes import passages, publish


class Started:
    """Services that were started and not ended, by number: the version that they were planned for."""

    def __init__(self, root: Path, inside: bool = False) -> None:
        self.time = 0.0
        self.running: dict[int, str] = {}
        self.settings = ServeSettings(index=str(root), reranker="none", max_timeout_ms=60_000, watch_s=1)
        plan = plan_serving(self.settings)
        self.failed: dict[int, str] = {}
        self.late = False
        self.served: str | None = None
        self.service_sets = ServiceSets(
            self.settings,
            plan,
            self._start,
            self._end,
            self.failed.get,
            lambda: self.served if self.late else self._current(),
            inside,
            lambda: self.time,
        )

    def _current(self) -> str | None:
        current = versions.read_current(Storage(self.settings.index))
        return current.version if current else None

    def _start(self, number: int, plan: ServingPlan) -> None:
        self.running[number] = plan.manifest.version

    def _end(self, number: int) -> None:
        del self.running[number]

    def look(self, after_s: float = 0.0) -> dict[int, str]:
        self.time += after_s
        self.service_sets.follow()
        return self.running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path, "v1", passages(20))
    publish(tmp_path, "v2", passages(20), activate=False)
    publish(tmp_path, "v3", passages(20), shards=3, activate=False)
    publish(tmp_path, "v4", passages(20), encoder="hashing:32", activate=False)
    return tmp_path


def test_a_version_of_the_same_shape_needs_no_others(root: Path) -> None:
    started = Started(root)
    assert started.look() == {1: "v1"}
    versions.activate(Storage(str(root)), "v2")
    assert started.look(1000) == {1: "v1"}


def test_what_the_endpoint_serves_by_itself_is_neither_started_nor_ended(root: Path) -> None:
    started, storage = Started(root, inside=True), Storage(str(root))
    assert started.look() == {}
    for version in ("v3", "v4"):
        versions.activate(storage, version)
        started.look()
    assert started.look(62) == {1: "v3", 2: "v4"}
    for version in ("v2", "v1"):
        versions.activate(storage, version)
        started.look()
    assert started.look(62) == {}


def test_services_of_another_shape_start_beside_and_the_old_end_when_nothing_can_return_to_them(root: Path) -> None:
    started, storage = Started(root), Storage(str(root))
    versions.activate(storage, "v3")
    assert started.look() == started.look(1000) == {1: "v1", 2: "v3"}, "a rollback returns to v1"
    versions.activate(storage, "v4")
    assert started.look() == {1: "v1", 2: "v3", 3: "v4"}
    assert started.look(59) == {1: "v1", 2: "v3", 3: "v4"}, "a query may still be under way"
    assert started.look(3) == {2: "v3", 3: "v4"}
    versions.activate(storage, "v1")
    assert started.look() == {2: "v3", 3: "v4", 4: "v1"}
    versions.activate(storage, "v3")
    assert started.look(1000) == {2: "v3", 3: "v4", 4: "v1"}, "v3 is needed again before its time was over"
    assert started.look(62) == {2: "v3", 4: "v1"}


def test_what_cannot_be_served_is_told_once_and_tried_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(root, "v5", passages(20), shards=1)
    versions.activate(Storage(str(root)), "v1")
    started = Started(root)
    versions.activate(Storage(str(root)), "v5")
    manifest = root / layout.manifest("v5")
    whole = manifest.read_bytes()
    manifest.write_bytes(whole.replace(b'"cosine"', b'"cosinE"'))
    assert started.look() == started.look() == {1: "v1"}
    told = capsys.readouterr().err
    assert told.startswith("shoal: ")
    assert told.count(str(manifest)) == 1
    manifest.write_bytes(whole)
    assert started.look() == {1: "v1", 2: "v5"}


def test_what_the_endpoint_still_answers_from_is_not_ended(root: Path) -> None:
    """Two other shapes in a row, before the first is there: CURRENT does not name the served version any more."""
    started, storage = Started(root), Storage(str(root))
    started.late, started.served = True, "v1"
    for version in ("v3", "v4"):
        versions.activate(storage, version)
        started.look()
    assert started.look(1000) == {1: "v1", 2: "v3", 3: "v4"}
    started.served = "v4"
    assert started.look() == {1: "v1", 2: "v3", 3: "v4"}
    assert started.look(62) == {2: "v3", 3: "v4"}


def test_services_that_cannot_start_are_told_of_and_tried_again_later(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = Started(root)
    versions.activate(Storage(str(root)), "v3")
    started.look()
    started.failed[2] = "no such model"
    assert started.look(1) == {1: "v1"}
    assert "nothing can serve 3 shards of hashing:64: no such model" in capsys.readouterr().err
    assert started.look(1) == {1: "v1"}
    assert started.look(REFUSED_S) == {1: "v1", 3: "v3"}


def test_a_failure_of_ray_is_told_and_forgets_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = Started(root)
    for version in ("v3", "v4"):
        versions.activate(Storage(str(root)), version)
        started.look()
    started.look()
    running = dict(started.running)
    started.running.clear()  # ending what is not there raises KeyError here, as Ray may while its controller starts
    started.look(62)
    assert "KeyError" in capsys.readouterr().err
    started.running = running
    assert started.look() == {2: "v3", 3: "v4"}
