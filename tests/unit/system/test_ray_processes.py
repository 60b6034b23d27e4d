"""A private Ray is started again where the machine was too busy, and its processes are known by their command lines."""

import resource
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.errors import Unavailable
from shoal.system import ray_processes
from shoal.system.ray_processes import START_ATTEMPTS, essential_processes, start_head, start_ray

TIMED_OUT = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """An entry for each time that all descendants were killed."""
    times: list[bool] = []
    monkeypatch.setattr(ray_processes, "kill_descendants", lambda: times.append(True))
    return times


@pytest.mark.parametrize("failures", range(START_ATTEMPTS))
def test_a_ray_that_was_too_slow_is_started_again(failures: int, killed: list[bool]) -> None:
    starts = []

    def init() -> None:
        starts.append(len(killed))
        if len(starts) <= failures:
            raise Exception(TIMED_OUT)

    start_ray(init)
    assert starts == list(range(failures + 1))  # whatever the attempt before had started was ended first


@pytest.mark.parametrize(
    ("error", "attempts", "words"),
    [
        (Exception(TIMED_OUT), START_ATTEMPTS, "Ray did not start within 30 s, 3 times; try again when the machine is"),
        (
            RuntimeError("Failed to start GCS.\nLast 9 lines"),
            1,
            "Ray did not start: RuntimeError: Failed to start GCS.",
        ),
        (OSError(28, "No space left on device"), 1, "Ray did not start: OSError: [Errno 28] No space left on device"),
    ],
)
def test_a_ray_that_does_not_start_is_told_in_one_line_and_ended(
    error: Exception, attempts: int, words: str, killed: list[bool]
) -> None:
    def init() -> None:
        raise error

    with pytest.raises(Unavailable) as caught:
        start_ray(init)
    assert caught.value.message.startswith(words)
    assert "\n" not in caught.value.message
    assert len(killed) == attempts


def test_a_signal_while_it_starts_is_an_interrupt(killed: list[bool]) -> None:
    def init() -> None:
        raise SystemExit(1)

    with pytest.raises(KeyboardInterrupt):
        start_ray(init)
    assert killed == []  # whoever stops does that


class FakeNode:
    """A node as Ray's own starts: it needs a moment until it is registered."""

    gcs_address = "127.0.0.1:6379"

    def __init__(self, parameters: dict[str, Any], head: bool, **_: Any) -> None:
        self.parameters, self.started, self.looks = parameters, ["gcs"], 0
        self.files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if head:
            self.start_api_server(include_dashboard=False, raise_on_failure=False)
        self.start_ray_processes()
        assert self.looks == 3  # Ray, which looks once a second, finds it at once
        NODES.append(self)

    def start_api_server(self, **_: Any) -> None:
        self.started.append("dashboard")

    def start_ray_processes(self) -> None:
        self.started.append("raylet")

    def get_gcs_client(self) -> Any:
        return self

    def get_all_node_info(self) -> dict[str, str]:
        self.looks += 1
        return {"node": "alive"} if self.looks == 3 else {}


NODES: list[FakeNode] = []


def test_a_head_has_what_a_private_ray_needs_and_is_joined_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_processes, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=lambda seconds: None))
    private = SimpleNamespace(node=SimpleNamespace(Node=FakeNode), parameter=SimpleNamespace(RayParams=dict))
    joined: list[dict[str, Any]] = []
    ray = SimpleNamespace(_private=private, init=lambda **options: joined.append(options))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        start_head(ray, {"temp_dir": "/somewhere"}, log_to_driver=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    node = NODES.pop()
    assert node.started == ["gcs", "raylet"]
    left_out = {"no_monitor": True, "include_log_monitor": False, "dashboard_agent_listen_port": 0}
    assert node.parameters == {"temp_dir": "/somewhere", **left_out}
    assert joined == [{"address": FakeNode.gcs_address, "log_to_driver": False}]
    assert node.files == (65_536 if hard == resource.RLIM_INFINITY else min(65_536, hard))


@pytest.fixture
def processes() -> Iterator[dict[int, str]]:
    """Children of this process that call themselves as Ray's do, and like some that nobody waits for."""
    programs = [
        "/opt/ray/core/src/ray/gcs/gcs_server",
        "/opt/ray/core/src/ray/raylet/raylet",
        "ray::DashboardAgent",
        "ray::RuntimeEnvAgent",
        "ray::ServeReplica:shoal:ingress",
        "/opt/shoal/raylet/log_monitor.py",
    ]
    children = [subprocess.Popen([program, "600"], executable="/bin/sleep") for program in programs]
    try:
        yield {child.pid: program for child, program in zip(children, programs, strict=True)}
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_the_processes_that_no_ray_works_without(processes: dict[int, str]) -> None:
    names = {processes[pid]: name for pid, name in essential_processes().items() if pid in processes}
    assert names == {
        "/opt/ray/core/src/ray/gcs/gcs_server": "Ray's GCS",
        "/opt/ray/core/src/ray/raylet/raylet": "Ray's raylet",
        "ray::DashboardAgent": "Ray's dashboard agent",
        "ray::RuntimeEnvAgent": "Ray's runtime environment agent",
    }
