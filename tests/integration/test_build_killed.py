"""SIGKILL at any moment of a build, and the same command again: nothing is lost, nothing is done twice."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shoal.index_root import layout, versions
from shoal.index_root.storage import Storage
from shoal.system.processes import descendants
from tests.support.long import LONG, only_long

ROOT = Path(__file__).parents[2]
PASSAGES, UNIT, SHARDS = 2000, 50, 3
UNITS = PASSAGES // UNIT
MOMENTS = 10 if LONG else 2
TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def cluster(local: ModuleType, s3_endpoint: str) -> Iterator[Any]:
    with local.LocalCluster(nodes=1, cpus_per_node=2) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "passages.jsonl"
    lines = [
        json.dumps({"id": f"p{n}", "text": f"passage {n} about topic{n % 30}", "page": n if n % 99 else n / 2})
        for n in range(PASSAGES - 2)
    ]
    path.write_text("\n".join([*lines[:100], "not json", lines[3], *lines[100:]]) + "\n")
    return path


class Run:
    """One `python -m jobs.build_index` in a process group of its own."""

    def __init__(self, corpus: Path, index: Path | str, environment: dict[str, str], *more: str) -> None:
        self.storage = Storage(str(index))
        command = [sys.executable, "-m", "jobs.build_index", "--source", str(corpus), "--index", str(index), "--json"]
        command += ["--encoder", "hashing:32", "--shards", str(SHARDS), "--unit-passages", str(UNIT), *more]
        command += ["--late-interaction", "stored", "--late-dims", "8"]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def reach(self, steps: int) -> bool:
        """Wait until so many units and shards are committed; false if the build ended before."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None:
            if steps_of(self.storage) >= steps:
                return True
            assert time.monotonic() < deadline, "the build hangs"
            time.sleep(0.005)
        return False

    def finish(self) -> dict[str, Any]:
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        assert self.process.returncode == 0, err
        summary: dict[str, Any] = json.loads(out)
        return summary


def committed_steps(storage: Storage) -> int:
    """Units and shards that are committed, wherever the root is."""
    paths = storage.files(layout.STAGING)
    return sum(path.endswith(".json") and path.count("/") == 2 for path in paths)


def entries(folder: Path) -> dict[str, int]:
    """What a folder holds, and when each was written; what is renamed or taken away meanwhile is left out."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                found[path.name] = path.stat().st_mtime_ns
    return found


def staging(storage: Storage) -> Path | None:
    folder = storage.local_path(layout.STAGING)
    plans = list(entries(folder))
    return folder / plans[0] if plans else None


def commits(storage: Storage, kind: str) -> dict[str, int]:
    """Committed units or shards, and when each was written."""
    folder = staging(storage)
    return {} if folder is None else {name: at for name, at in entries(folder / kind).items() if name.endswith(".json")}


def unit_commits(storage: Storage) -> dict[str, int]:
    return commits(storage, "units")


def steps_of(storage: Storage) -> int:
    return len(unit_commits(storage)) + len(commits(storage, "shards"))


def content(storage: Storage, version: str) -> dict[str, Any]:
    """What two builds of one plan have in common: everything but names of times; checksums stand for the files."""
    assert versions.verify(storage, version) == []
    body = versions.read_manifest(storage, version).model_dump(exclude={"version", "created_at"})
    for measured in (body["index"], *body["index"]["curve"]):
        del measured["latency_ms"]
    return body


@pytest.fixture(scope="module")
def unkilled(cluster: Any, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    index = tmp_path_factory.mktemp("unkilled")
    summary = Run(corpus, index, joined(cluster)).finish()
    assert (summary["units_reused"], summary["passages"]) == (0, PASSAGES - 2)
    whole = content(Storage(str(index)), summary["version"])
    assert whole["fields"] == {"page": "number"}
    return whole


def joined(cluster: Any) -> dict[str, str]:
    return {**cluster.env, "RAY_ADDRESS": cluster.address}


def test_a_driver_killed_at_random_moments_loses_nothing(
    cluster: Any, corpus: Path, unkilled: dict[str, Any], tmp_path: Path
) -> None:
    seed = int(os.environ.get("SHOAL_TEST_SEED", random.SystemRandom().randrange(10**6)))
    print(f"SHOAL_TEST_SEED={seed}")
    chance = random.Random(seed)
    killed, roots, committed = 0, 1, dict[str, int]()
    while True:
        run = Run(corpus, tmp_path / f"index{roots}", joined(cluster))
        before = steps_of(run.storage)
        target = before + chance.randrange((UNITS + SHARDS - before) // 2 + 2)
        print(f"kill {killed}: from {before} to {target} of {UNITS + SHARDS} steps")
        if killed < MOMENTS and run.reach(target):
            time.sleep(chance.uniform(0, 0.3 if target >= UNITS else 0.05))
            if run.process.poll() is None:
                run.kill()
                killed += 1
                # Once it is published, the build takes its staging area away, maybe not all of it before it dies.
                if staging(run.storage) is not None and versions.read_current(run.storage) is None:
                    now = unit_commits(run.storage)
                    assert committed.items() <= now.items(), f"a committed unit was embedded again (seed {seed})"
                    committed = now
                continue
        # This run was not killed: it completes what the killed ones began.
        summary = run.finish()
        if summary["built"]:
            # A worker whose driver was killed may still have committed the unit that it was at.
            assert summary["units_reused"] >= len(committed), f"seed {seed}"
        current = versions.read_current(run.storage)
        assert current is not None
        assert current.version == summary["version"]
        assert content(run.storage, summary["version"]) == unkilled, f"seed {seed}"
        assert staging(run.storage) is None
        if killed == MOMENTS:
            break
        roots, committed = roots + 1, {}


@pytest.mark.parametrize(
    ("title", "steps"),
    [("ray::MapWorker", 12), *([("ray::MapWorker", 35)] if LONG else []), ("ray::index", UNITS)],
)
def test_a_killed_worker_is_replaced(
    cluster: Any, local: ModuleType, corpus: Path, unkilled: dict[str, Any], tmp_path: Path, title: str, steps: int
) -> None:
    run = Run(corpus, tmp_path / "index", joined(cluster))
    assert run.reach(steps)
    deadline = time.monotonic() + 5
    victims: list[int] = []
    while not victims and run.process.poll() is None and time.monotonic() < deadline:
        victims = [pid for pid in descendants(cluster.pid) if title_of(pid).startswith(title)]
    if victims:  # an index task may be over before it is seen
        os.kill(victims[0], signal.SIGKILL)
    summary = run.finish()
    assert content(run.storage, summary["version"]) == unkilled


def test_a_killed_private_cluster_stops_working_and_can_be_continued(
    request: pytest.FixtureRequest, local: ModuleType, corpus: Path, unkilled: dict[str, Any], tmp_path: Path
) -> None:
    # Sockets have short names, and a killed Ray leaves its folder.
    folder = Path(tempfile.mkdtemp(prefix="shk-", dir="/tmp"))
    request.addfinalizer(lambda: shutil.rmtree(folder, ignore_errors=True))
    alone = {"RAY_ADDRESS": "", "TMPDIR": str(folder), "SHOAL_IN_PROCESS_MIB": "0"}
    run = Run(corpus, tmp_path / "index", alone)
    assert run.reach(10)
    # Ray's two agents of the node look for their raylet now and then, and end within a minute or two.
    family = [pid for pid in descendants(run.process.pid) if "Agent" not in title_of(pid)]
    assert len(family) > 3
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.communicate()
    deadline = time.monotonic() + 30
    while alive := [pid for pid in family if title_of(pid)]:
        assert time.monotonic() < deadline, f"still running: {[title_of(pid) for pid in alive]}"
        time.sleep(0.1)
    committed = len(unit_commits(run.storage))
    again = Run(corpus, tmp_path / "index", alone)
    summary = again.finish()
    assert summary["units_reused"] == committed
    assert content(again.storage, summary["version"]) == unkilled


def test_a_killed_process_without_ray_can_be_continued(corpus: Path, unkilled: dict[str, Any], tmp_path: Path) -> None:
    alone, committed = {"RAY_ADDRESS": ""}, 0
    for steps in (5, UNITS - 5, UNITS + 1):
        run = Run(corpus, tmp_path / "index", alone)
        if run.reach(steps):
            assert len(descendants(run.process.pid)) == 0
            run.kill()
        committed = max(committed, len(unit_commits(run.storage)))
    again = Run(corpus, tmp_path / "index", alone)
    summary = again.finish()
    assert not summary["built"] or summary["units_reused"] >= committed > 5
    assert content(again.storage, summary["version"]) == unkilled


def test_a_build_killed_on_s3_is_continued(cluster: Any, corpus: Path, unkilled: dict[str, Any], s3_uri: str) -> None:
    reused = 0
    for steps in (UNITS // 3, UNITS) if LONG else (UNITS // 3,):
        run = Run(corpus, s3_uri, joined(cluster))
        deadline = time.monotonic() + TIMEOUT_S
        while committed_steps(run.storage) < steps:
            assert run.process.poll() is None, "the build ended before its units were seen"
            assert time.monotonic() < deadline, "the build hangs"
            time.sleep(0.02)
        run.kill()
        if versions.list_versions(run.storage):  # it was faster than the look at it
            break
        reused = min(committed_steps(run.storage), UNITS)
    run = Run(corpus, s3_uri, joined(cluster))
    summary = run.finish()
    assert reused >= UNITS // 3
    assert not summary["built"] or summary["units_reused"] >= reused
    assert content(run.storage, summary["version"]) == unkilled
    assert not list(run.storage.files(layout.STAGING))


@only_long  # tests/integration/test_build.py has what one finds of the other
def test_two_runs_of_one_build_at_once_publish_a_whole_index(
    cluster: Any, corpus: Path, unkilled: dict[str, Any], tmp_path: Path
) -> None:
    runs = [Run(corpus, tmp_path / "index", joined(cluster)) for _ in range(2)]
    for run in runs:
        summary = run.finish()
        assert summary["passages"] == PASSAGES - 2
        assert content(run.storage, summary["version"]) == unkilled


def title_of(pid: int) -> str:
    """The command line of a running process; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
