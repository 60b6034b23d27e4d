"""Serve starts while the endpoint is deployed, and what fails is asked for again."""

import threading
from typing import Any

import pytest
from ray import serve
from ray.exceptions import RayActorError

from serve.ray_adapters import starting
from serve.ray_adapters.starting import deploy
from shoal.errors import Unavailable
from shoal.settings import RunSettings

SETTINGS = RunSettings(index="/nowhere", port=8123)
ENDPOINT: Any = object()


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once there is a controller."""
    there = threading.Event()
    monkeypatch.setattr(starting, "_get_global_client", lambda **_: there.is_set() or None)
    monkeypatch.setattr(serve, "RunTarget", lambda *_, **__: None)
    return there


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_a_proxy_that_does_not_come_up_is_waited_for_again_and_then_told_in_one_line(
    failures: int, controller: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, runs = [], []

    def start(**options: Any) -> None:
        starts.append(options["http_options"])
        if len(starts) <= failures:
            raise RayActorError
        controller.set()

    monkeypatch.setattr(serve, "start", start)
    monkeypatch.setattr(serve, "run_many", lambda *_, **__: runs.append(True))
    if failures < 3:
        deploy(SETTINGS, ENDPOINT, wait)
        assert runs == [True]
    else:
        with pytest.raises(Unavailable) as caught:
            deploy(SETTINGS, ENDPOINT, wait)
        assert caught.value.message.count("\n") == 0
        assert "less busy" in caught.value.message
    assert starts == [{"host": "127.0.0.1", "port": 8123}] * min(failures + 1, 3)


@pytest.mark.parametrize("late", [False, True])
def test_the_endpoint_is_deployed_while_the_proxy_starts(
    late: bool, controller: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed = threading.Event()

    def start(**options: Any) -> None:
        controller.set()
        assert deployed.wait(60)  # a proxy that comes up when the endpoint is deployed

    def run_many(*_: Any, **__: Any) -> None:
        deployed.set()
        if late:  # as where Serve has waited for the proxy for too long
            raise TimeoutError

    monkeypatch.setattr(serve, "start", start)
    monkeypatch.setattr(serve, "run_many", run_many)
    deploy(SETTINGS, ENDPOINT, wait)
    assert deployed.is_set()


def test_a_wait_for_the_controller_ends_with_the_processes_of_ray(
    controller: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(seconds: float) -> None:
        raise Unavailable("Ray's raylet has ended")

    ended = threading.Event()
    monkeypatch.setattr(serve, "start", lambda **_: ended.wait())
    with pytest.raises(Unavailable, match="raylet has ended"):
        deploy(SETTINGS, ENDPOINT, gone)
    ended.set()
