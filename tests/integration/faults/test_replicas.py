"""Processes of a served endpoint are killed or stopped under a light steady load; what its clients see of that.

The server is the one that `shoal serve` starts. With two replicas of everything no request fails; with one, requests
wait or are answered without the shard, and only what was inside a killed ingress is lost. `-rP` shows what came out.

It takes four minutes, and cores that nothing else keeps busy, since a starved replica is late like a lost one. So it
runs with SHOAL_LONG_TESTS=1 only.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from shoal.index_root import layout
from shoal.settings import LexicalSettings
from tests.support.indexes import passages, publish
from tests.support.load import TIMEOUT_MS, Load, asking, report
from tests.support.long import only_long
from tests.support.servers import Server, processes, replicas, running, wait

pytestmark = only_long

CONTROLLER = "ServeController"
CLIENTS = 3
WAITING = 4
"""Places in the queues of the server with one replica: more than there are clients of a load."""


def strike(server: Server, name: str, how: signal.Signals, count: int = 1) -> tuple[Load, int]:
    """Send a signal to one process under load, and wait for fifty whole answers in a row."""
    find = processes if name == CONTROLLER else replicas
    wait(lambda: len(find(server, name)) >= count)  # an earlier blow may have to be made good first
    before = find(server, name)
    with asking(server.url, CLIENTS) as load:
        wait(lambda: len(load.seen) >= 60)  # the server knows how long its services take
        struck = time.monotonic()
        victim = min(before)
        os.kill(victim, how)
        asked = len(load.seen)
        wait(lambda: load.is_whole_again(asked))
    report(load, f"{name} {how.name}", struck)
    return load, victim


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    publish(folder, "v1", passages(300), lexical=LexicalSettings())  # hybrid: texts take a second call to the shards
    return folder


def replicated(count: int) -> list[str]:
    services = ("retriever-replicas", "encoder-replicas", "ingress-replicas")
    reranker = [f"--reranker-min-replicas={count}", f"--reranker-max-replicas={count}"]
    return ["--reranker=overlap", *reranker, *(f"--{service}={count}" for service in services)]


@pytest.fixture(scope="module")
def pairs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two replicas of everything."""
    with running(tmp_path_factory.mktemp("pairs"), root, *replicated(2)) as server:
        server.wait_ready()
        yield server


@pytest.mark.parametrize("service", ["shard-00001", "encoder", "reranker", "ingress"])
def test_of_two_replicas_one_may_be_killed(service: str, pairs: Server) -> None:
    load, _ = strike(pairs, service, signal.SIGKILL, 2)
    assert load.failures == []
    assert load.last_flaw() is None


def test_the_controller_may_be_killed(pairs: Server) -> None:
    load, _ = strike(pairs, CONTROLLER, signal.SIGKILL)
    assert load.failures == []
    assert load.last_flaw() is None


@pytest.mark.parametrize("service", ["shard-00000", "encoder", "reranker", "ingress"])
def test_of_two_replicas_one_may_hang(service: str, pairs: Server) -> None:
    load, victim = strike(pairs, service, signal.SIGSTOP, 2)
    if victim in replicas(pairs, service):
        os.kill(victim, signal.SIGCONT)
    assert load.failures == []
    assert load.last_flaw() is None


@pytest.fixture(scope="module")
def single(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one replica of everything."""
    options = [*replicated(1), f"--max-waiting={WAITING}"]
    with running(tmp_path_factory.mktemp("single"), root, *options) as server:
        server.wait_ready()
        yield server


@pytest.mark.parametrize(("service", "lost"), [("encoder", 0), ("reranker", 0), ("ingress", CLIENTS)])
def test_without_a_second_replica_requests_wait_for_the_next(service: str, lost: int, single: Server) -> None:
    load, _ = strike(single, service, signal.SIGKILL)
    assert len(load.failures) <= lost  # what was inside the ingress, and one client is inside with one request


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_without_a_second_replica_answers_go_on_without_the_shard(how: signal.Signals, single: Server) -> None:
    load, _ = strike(single, "shard-00001", how)
    assert load.failures == []
    incomplete = {one.degraded for one in load.seen if one.degraded}
    assert incomplete <= {
        f"1 of 2 shards is missing (shard 1: {reason})" for reason in ("suspended", "unreachable", "deadline")
    }


def test_a_client_that_goes_away_frees_its_place(single: Server) -> None:
    """The encoder hangs, so that every place in its queue stays taken as long as its client waits."""
    wait(lambda: httpx.get(f"{single.url}/readyz").status_code == 200)
    (encoder,) = replicas(single, "encoder")
    os.kill(encoder, signal.SIGSTOP)

    def leave(number: int) -> str:
        try:
            body = {"query": f"impatient {number}", "timeout_ms": TIMEOUT_MS}
            return httpx.post(f"{single.url}/v1/search", json=body, timeout=0.5).text
        except httpx.ReadTimeout:
            time.sleep(0.5)  # the next one comes when word of this has reached the ingress
            return "left"

    try:
        with ThreadPoolExecutor(WAITING // 2) as clients:
            outcomes = list(clients.map(leave, range(3 * WAITING)))
    finally:
        os.kill(encoder, signal.SIGCONT)
    assert set(outcomes) == {"left"}


@pytest.mark.parametrize("how", ["cut off", "overwritten"])
def test_a_shard_whose_files_are_damaged_is_missing_until_they_are_whole(how: str, root: Path, single: Server) -> None:
    """Reading beyond the end of a mapped file kills the process (SIGBUS); noise may kill it, or is told."""
    wait(lambda: httpx.get(f"{single.url}/readyz").status_code == 200)
    before = replicas(single, "shard-00000")
    with asking(single.url) as load:
        wait(lambda: len(load.seen) >= 60)
        struck = time.monotonic()
        with damaged(root, how):
            wait(lambda: load.last_flaw() is not None)
            wait(lambda: how == "overwritten" or not replicas(single, "shard-00000") & before)
            asked = len(load.seen)
            wait(lambda: len(load.seen) >= asked + 20)
        restored = time.monotonic()
        wait(lambda: load.is_whole_again(0))
    report(load, f"files of a shard {how} for {restored - struck:.1f} s", restored)
    assert load.failures == []


def test_an_ingress_that_starts_while_a_shard_is_missing_answers_without_it(root: Path, single: Server) -> None:
    wait(lambda: httpx.get(f"{single.url}/readyz").status_code == 200)
    shard, ingress = replicas(single, "shard-00000"), replicas(single, "ingress")
    with asking(single.url) as load:
        wait(lambda: len(load.seen) >= 60)
        with damaged(root, "cut off"):
            wait(lambda: not replicas(single, "shard-00000") & shard)
            struck = time.monotonic()
            os.kill(min(ingress), signal.SIGKILL)
            wait(lambda: replicas(single, "ingress") - ingress)
            begun = time.monotonic()
            wait(lambda: sum(one.at > begun and one.degraded is not None for one in load.seen) >= 20)
        wait(lambda: load.is_whole_again(0))
    report(load, "ingress SIGKILL while a shard is missing", struck)
    assert len(load.failures) <= CLIENTS


@contextmanager
def damaged(root: Path, how: str) -> Iterator[None]:
    """Cut off or overwrite all files of the first shard, and make them whole at the end."""
    files = [file for file in (root / layout.shard_dir("v1", 0)).rglob("*") if file.is_file()]
    whole = {file: file.read_bytes() for file in files}
    noise = random.Random(0)
    try:
        for file, content in whole.items():
            if how == "cut off":
                os.truncate(file, 0)
            else:
                overwrite(file, noise.randbytes(len(content)))
        yield
    finally:
        for file, content in whole.items():
            overwrite(file, content)


def overwrite(file: Path, content: bytes) -> None:
    """Write into the same file, which processes have mapped."""
    with file.open("r+b") as opened:
        opened.write(content)
