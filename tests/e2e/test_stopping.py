"""What becomes of a search that runs when `python -m serve.run` is asked to stop."""

import os
import re
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.indexes import passages, publish
from tests.support.long import only_long
from tests.support.servers import Server, replicas, running, wait
from tests.support.serving import free_port

STOP_S = 90.0
QUERY = "the black otter number n8"
HELD = ("--reranker=none", "--encoder-replicas=1", "--health-check-timeout-s=600")
"""Options of a server whose encoder can be stopped for a while."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    publish(folder, "v1", passages(100))
    return folder


def sigterm(server: Server) -> None:
    server.process.terminate()


def ctrl_c(server: Server) -> None:
    os.killpg(server.process.pid, signal.SIGINT)  # a terminal sends it to every process of the group


def search(server: Server) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/search", json={"query": QUERY, "timeout_ms": 60_000}, timeout=120)


def refused(server: Server) -> bool:
    """Whether the server lets nobody in any more."""
    try:
        return httpx.get(f"{server.url}/readyz", timeout=10).status_code == 503
    except httpx.TransportError:
        return True


def held_search(server: Server, clients: ThreadPoolExecutor, metrics_port: int) -> tuple["Future[httpx.Response]", int]:
    """Begin a search that the encoder does not answer, stopped as it is. Returns the future and the encoder."""
    (encoder,) = replicas(server, "encoder")
    os.kill(encoder, signal.SIGSTOP)
    searching = clients.submit(search, server)

    def reached() -> bool:
        assert not searching.done(), searching.result().text
        return under_way(server, metrics_port)

    wait(reached)
    return searching, encoder


def under_way(server: Server, metrics_port: int) -> bool:
    """Whether a replica of the ingress has the search, by HAProxy's statistics or Ray's.

    Those of HAProxy are there at once, but an HAProxy that was reloaded meanwhile leaves it to the one before.
    """
    for path in (path for folder in server.temporary_folders() for path in folder.rglob("admin.sock")):
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(path))
            admin.sendall(b"show stat\n")
            table = b"".join(iter(lambda: admin.recv(65536), b"")).decode().splitlines()
        head = table[0].removeprefix("# ").split(",")
        lines = [dict(zip(head, line.split(","), strict=False)) for line in table[1:] if line]
        servers = [line for line in lines if line["pxname"].startswith("http-") and line["svname"] != "BACKEND"]
        if any(line["scur"] != "0" for line in servers):
            return True
    try:
        metrics = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
    except httpx.TransportError:  # not there yet
        return False
    return bool(re.search(r"^ray_serve_replica_processing_queries\{[^}]*ingress[^}]*\} [1-9]", metrics, re.MULTILINE))


@pytest.mark.parametrize(
    ("proxy", "stop"),
    [pytest.param("haproxy", sigterm, marks=only_long), ("haproxy", ctrl_c), ("ray", sigterm)],
)
def test_a_search_that_runs_is_answered_before_the_server_stops(
    proxy: str, stop: Callable[[Server], None], tmp_path: Path, root: Path
) -> None:
    metrics_port = free_port()
    options = (f"--metrics-port={metrics_port}", "--drain-s=60", f"--proxy={proxy}")
    with (
        running(tmp_path, root, *HELD, *options) as server,
        ThreadPoolExecutor() as clients,
    ):
        server.wait_ready()
        searching, encoder = held_search(server, clients, metrics_port)
        stop(server)
        wait(lambda: refused(server))
        assert not searching.done()
        os.kill(encoder, signal.SIGCONT)
        answer = searching.result(timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["results"][0]["id"] == "p8"
        assert answer.json()["degraded"] is None
        assert server.process.wait(STOP_S) == 0
        server.assert_nothing_is_left(within_s=10)


@pytest.mark.parametrize("seconds", [pytest.param(0, marks=only_long), 2])
def test_what_runs_too_long_is_cut_by_the_bound(seconds: int, tmp_path: Path, root: Path) -> None:
    metrics_port = free_port()
    options = (f"--metrics-port={metrics_port}", f"--drain-s={seconds}")
    with running(tmp_path, root, *HELD, *options) as server, ThreadPoolExecutor() as clients:
        server.wait_ready()
        searching, _ = held_search(server, clients, metrics_port)
        sigterm(server)
        assert server.process.wait(STOP_S) == 0
        server.assert_nothing_is_left(within_s=10)
        error = searching.exception(timeout=60)
        assert isinstance(error, httpx.TransportError) or searching.result().status_code >= 500
        told = "stopping: 1 requests are being answered, 1 s at most; Ctrl-C stops at once\n"
        assert server.errors() == (told if seconds else "")


def test_a_second_signal_ends_the_waiting(tmp_path: Path, root: Path) -> None:
    metrics_port = free_port()
    options = (f"--metrics-port={metrics_port}", "--drain-s=600")
    with running(tmp_path, root, *HELD, *options) as server, ThreadPoolExecutor() as clients:
        server.wait_ready()
        held_search(server, clients, metrics_port)
        ctrl_c(server)
        wait(lambda: "stopping: 1 requests" in server.errors())
        ctrl_c(server)
        assert server.process.wait(STOP_S) == 0
        server.assert_nothing_is_left(within_s=10)
