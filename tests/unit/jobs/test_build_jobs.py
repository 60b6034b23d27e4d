"""What a job decides and says without Ray: how many workers, which error, how far, and what it came to."""

import io
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from jobs import build_index
from jobs.build import tasks
from jobs.build.estimate import Estimate
from jobs.build_index import _require_absolute
from jobs.progress import Reporter
from jobs.report import Summary, print_rows, span
from jobs.session import Cluster, Workers, cause, embedding_workers, ray_session
from shoal.errors import Conflict, InvalidArgument, NotFound, ShoalError, Unavailable
from shoal.settings import BuildSettings
from shoal.system.terminal import format_bytes
from tests.support import tiny_models


def settings(**changes: Any) -> BuildSettings:
    return BuildSettings.model_validate({"source": "/in", "index": "/out"} | changes)


@pytest.mark.parametrize(
    ("changes", "cpus", "gpus", "expected"),
    [
        ({}, 2, 0, Workers(2, 1, 0)),
        ({"threads": 4}, 10, 0, Workers(2, 4, 0)),
        ({"workers": 3}, 8, 0, Workers(3, 1, 0)),
        ({}, 16, 4, Workers(4, 1, 1)),
        ({}, 2, 4, Workers(2, 1, 1)),  # a GPU needs a CPU to feed it
        ({"device": "cpu"}, 16, 4, Workers(16, 1, 0)),
        ({"gpus_per_worker": 0}, 16, 4, Workers(16, 1, 0)),
        ({"gpus_per_worker": 0.5}, 16, 2, Workers(4, 1, 0.5)),
        ({"gpus_per_worker": 2}, 16, 5, Workers(2, 1, 2)),
        ({}, 0, 0, Workers(1, 1, 0)),  # a cluster that has still to grow
    ],
)
def test_one_worker_for_each_gpu_or_as_many_as_cpus_allow(
    changes: dict[str, Any], cpus: float, gpus: float, expected: Workers
) -> None:
    assert embedding_workers(settings(**changes), Cluster(cpus, gpus, private=False)) == expected


def test_a_private_cluster_starts_no_more_workers_than_fit() -> None:
    assert embedding_workers(settings(workers=5), Cluster(2, 0, private=True)).count == 2
    assert embedding_workers(settings(workers=5), Cluster(2, 0, private=False)).count == 5


@pytest.mark.parametrize(
    ("changes", "option"), [({"threads": 3}, "--threads"), ({"gpus_per_worker": 1}, "--gpus-per-worker")]
)
def test_a_worker_that_fits_no_private_cluster_is_refused(changes: dict[str, Any], option: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        embedding_workers(settings(**changes), Cluster(2, 0, private=True))
    assert caught.value.param == option
    assert embedding_workers(settings(**changes), Cluster(2, 0, private=False)).count == 1


@pytest.mark.parametrize(
    ("kind", "gpus", "faiss", "expected"),
    [
        ("IVF8,Flat", 2, {"StandardGpuResources": object}, 1),
        ("IVF8,Flat", 2, {}, 0),
        ("IVF8,Flat", 0, {"StandardGpuResources": object}, 0),
        ("flat", 2, {"StandardGpuResources": object}, 0),
        ("cagra", 2, {"StandardGpuResources": object}, 1),
    ],
)
def test_index_tasks_take_a_gpu_only_where_faiss_can_use_one(
    monkeypatch: pytest.MonkeyPatch, kind: str, gpus: float, faiss: dict[str, Any], expected: float
) -> None:
    monkeypatch.setattr(
        tasks,
        "index_kind",
        lambda name: SimpleNamespace(TRAINED=name not in ("flat", "cagra"), NEEDS_GPU=name == "cagra"),
    )
    monkeypatch.setitem(sys.modules, "faiss", SimpleNamespace(**faiss))
    assert tasks.index_gpus(kind, gpus) == expected


def test_the_error_of_a_task_is_found_inside_what_ray_makes_of_it() -> None:
    inner = Conflict("the model differs", param="encoder")

    class RayTaskError(Exception):
        cause = inner

    class Both(RayTaskError, Conflict):  # Ray's wrapper is an instance of the wrapped class, too
        pass

    Both.__module__ = "ray.exceptions"
    assert cause(RayTaskError("a stack trace")) is inner
    assert cause(Both("a stack trace")) is inner
    outer = RuntimeError("outer")
    outer.__cause__ = inner
    assert cause(outer) is inner


def test_what_nobody_expected_is_one_line_unless_the_stack_trace_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.exceptions import RayTaskError

    try:
        raise KeyError("page")
    except KeyError as error:
        remote = RayTaskError("index", "Traceback (most recent call last):\n  remote", error)
    for raised in (remote, remote.as_instanceof_cause()):
        told = cause(raised)
        assert type(told) is ShoalError
        assert str(told) == "a task of the build failed: KeyError: 'page' (SHOAL_TRACEBACK=1 shows where)"
    monkeypatch.setenv("SHOAL_TRACEBACK", "1")
    assert cause(remote) is remote


def test_a_worker_that_is_lost_for_good_is_told_with_the_remedy() -> None:
    from ray.exceptions import OutOfMemoryError, WorkerCrashedError

    for lost in (WorkerCrashedError(), OutOfMemoryError("Task was killed: the node runs low on memory.\nlong advice")):
        told = cause(lost)
        assert isinstance(told, Unavailable)
        assert "fewer workers or smaller units" in str(told)
        assert "\n" not in str(told)


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def ray_session() -> None:
        raise AssertionError("no cluster is to be started")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(build_index, "ray_session", ray_session)


@pytest.mark.usefixtures("no_cluster")
def test_a_model_that_could_not_be_kept_is_told_before_a_cluster_starts(tmp_path: Path) -> None:
    source, model = tmp_path / "in.jsonl", tiny_models.save_bi_encoder(tmp_path / "model", "mean")
    source.write_text('{"id": "a", "text": "red fish"}\n')
    options = [f"--source={source}", f"--index={tmp_path / 'index'}", f"--encoder={model}", "--device=cpu"]
    result = CliRunner().invoke(build_index.app, [*options, f"--model-cache-dir={source / 'models'}"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: no files can be written in {source / 'models'} (Not a directory)")
    assert "--model-cache-dir" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_temporary_folder_that_cannot_be_written_is_told_before_ray_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("jobs.session.ray_parent", lambda: str(tmp_path / "file"))
    with pytest.raises(InvalidArgument, match="TMPDIR"), ray_session():
        raise AssertionError("no cluster is to be started")


@pytest.mark.parametrize("field", ["source", "index"])
def test_relative_paths_are_refused_on_a_cluster(field: str) -> None:
    _require_absolute(settings(source="s3://bucket/in", index="~/index"))
    with pytest.raises(InvalidArgument, match="here/it") as caught:
        _require_absolute(settings(**{field: "here/it"}))
    assert caught.value.param == f"--{field}"


def test_a_relative_encoder_is_refused_on_a_cluster() -> None:
    _require_absolute(settings(encoder="some/model-of-a-hub"))
    with pytest.raises(InvalidArgument) as caught:
        _require_absolute(settings(encoder="./model"))
    assert caught.value.param == "--encoder"


def test_a_step_that_the_storage_failed_is_tried_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    faults: list[Exception] = [Unavailable("reset"), Unavailable("reset")]

    @tasks.retry_on_unavailable
    def step(number: int) -> int:
        if faults:
            raise faults.pop()
        return number

    assert step(7) == 7
    assert waited == list(tasks.WAITS_S[:2])
    faults[:] = [Unavailable("down")] * 9
    with pytest.raises(Unavailable, match="down"):
        step(7)
    assert len(faults) == 9 - 1 - len(tasks.WAITS_S)
    faults[:] = [NotFound("gone")]
    with pytest.raises(NotFound):
        step(7)
    assert len(waited) == 2 + len(tasks.WAITS_S)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_every_few_seconds_and_no_more() -> None:
    clock, out = Clock(), io.StringIO()
    reporter = Reporter(Console(file=out, width=40), clock)
    with reporter.stage("embed", 50) as stage:
        stage.start_at(10)
        for _ in range(40):
            clock.now += 0.5
            stage.advance(1000)
    lines = out.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0] == "embed: 20 of 50 units, 2,000 passages/s, 15s left"
    assert reporter.seconds == {"embed": 20.0}


def test_a_log_says_that_a_long_step_was_begun_and_a_bar_says_it_by_itself() -> None:
    for is_terminal in (False, True):
        clock, out = Clock(), io.StringIO()
        console = Console(file=out, width=100, force_terminal=is_terminal, legacy_windows=False)
        with Reporter(console, clock).stage("embed", 1) as stage:
            stage.announce("1 of 1 units are to do")
            begun = out.getvalue()
            clock.now += 4
            stage.advance(200)
        assert ("embed: 1 of 1 units are to do\n" in begun) is not is_terminal
        assert ("passages/s" in out.getvalue()) is is_terminal


def test_a_terminal_gets_a_bar_that_leaves_no_trace_but_the_next_line() -> None:
    clock, out = Clock(), io.StringIO()
    reporter = Reporter(Console(file=out, width=100, force_terminal=True, legacy_windows=False), clock)
    with reporter.stage("embed", 2) as stage:
        clock.now += 1
        stage.advance(500)
    assert "passages/s" in out.getvalue()


def test_the_summary_names_what_was_built_and_what_was_refused() -> None:
    summary = Summary(
        index="/out", version="v1", plan="abc", built=True, activated=True, passages=1000, duplicates=2, rejected=1,
        shards=4, bytes=3 * 2**20, recall_at_10=0.9876, units=9, units_reused=3, workers=2, passages_per_s=250.0,
        seconds={"embed": 3.0, "total": 4.0},
        rejected_examples=[{"file": "in.jsonl", "line": 7, "reason": "text is missing", "id": "a"}],
    )  # fmt: skip
    out = io.StringIO()
    print_rows(Console(file=out, width=30), summary.title, summary.rows())
    text = out.getvalue()
    for part in ("v1 (active)", "1,000", "3.0 MiB", "0.9876", "9, 3 of them from an earlier run", "250 passages/s"):
        assert part in text
    assert "in.jsonl:7: text is missing" in text
    assert summary.to_json()["rejected_examples"][0]["id"] == "a"


def test_an_estimate_says_what_it_does_not_know() -> None:
    estimate = Estimate(
        index="/out", plan="abc", files=3, input_bytes=2**30, passages=10**6, units=250, shards=4, workers=2,
        index_kind="flat", dim=384, shard_bytes=2**29, resident_bytes=2**28, disk_bytes=2**32, unit_bytes=2**23,
        embed_seconds=None, published="v1",
    )  # fmt: skip
    rows = dict(estimate.rows())
    assert rows["embedding"] == "time unknown"
    assert "4.0 GiB" in rows["disk"]
    assert "nothing to do" in rows["published"]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59, "59s"), (61, "1m01s"), (7384, "2h03m")])
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(12, "12 B"), (2048, "2.0 KiB"), (3.5 * 2**40, "3.5 TiB")])
def test_sizes(count: float, text: str) -> None:
    assert format_bytes(count) == text
