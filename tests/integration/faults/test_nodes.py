"""A cluster loses a node while it serves, or its head; what its clients see of that.

HAProxy is set up as that of `shoal serve`. Like the faults beside it, it takes cores that nothing else keeps busy, and
runs with SHOAL_LONG_TESTS=1 only.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from shoal.settings import LexicalSettings
from tests.support.history_clients import initial, writing_and_reading
from tests.support.indexes import passages, publish
from tests.support.killing import check
from tests.support.load import asking, report
from tests.support.long import only_long
from tests.support.nodes import Node, node
from tests.support.servers import wait

pytestmark = only_long

OUTAGE_S = 10.0
"""How long the head is away; after a minute Ray gives a cluster up."""
OPERATIONS = 300
"""Of clients, before a node is lost and after."""
VISIBLE_S = 1.0
"""Seconds within which a write is promised to be visible."""
ATTEMPTS = 4
"""Of a request that writes, as `shoal.Client` makes them."""
SPREAD = ("ingress", "encoder", "shard-00000", "shard-00001")
SERVICES = (*SPREAD, "reranker")


@pytest.fixture
def redis(local: ModuleType, tmp_path: Path) -> Iterator[str]:
    """The address of a Redis on loopback."""
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server: apt-get install redis-server")
    port = local.free_port()
    words = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL)
    try:
        wait(lambda: answers(port))
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Cluster:
    """A head and two other nodes. start_head: starts another head in the place of one that is gone."""

    job_url: str
    head: Node
    others: list[Node]
    start_head: Callable[[], Node]

    def has_two_of_everything(self) -> bool:
        """Whether two replicas of every service run, on nodes that are there."""
        state = httpx.get(f"{self.job_url}/api/serve/applications/", timeout=30).json()
        deployments = state["applications"].get("shoal", {}).get("deployments", {})
        states = [[one["state"] for one in deployments.get(name, {}).get("replicas", [])] for name in SERVICES]
        there = [sum(len(one.replicas(name)) for one in (self.head, *self.others)) for name in SERVICES]
        return all(each.count("RUNNING") == 2 for each in states) and set(there) == {2}


@contextlib.contextmanager
def serving(
    local: ModuleType, index: Path, cpus_of_head: int, proxies: str, environment_of_head: dict[str, str]
) -> Iterator[Cluster]:
    """A cluster that serves an index with two replicas of everything, each on another node."""
    port, gcs, dashboard, agent = (local.free_port() for _ in range(4))
    head = {"head": True, "gcs_server_port": gcs, "num_cpus": cpus_of_head, "include_dashboard": True}
    head |= {"dashboard_host": "127.0.0.1", "dashboard_port": dashboard, "dashboard_agent_listen_port": agent}
    job_url = f"http://127.0.0.1:{dashboard}"
    # The path of a socket has at most 97 bytes, of which Ray's names take 70.
    with tempfile.TemporaryDirectory(prefix="shr-", dir="/tmp") as short, contextlib.ExitStack() as nodes:

        def start_head() -> Node:
            started = nodes.enter_context(node(Path(short), port, environment_of_head, **head))
            local.wait_for_job_api(job_url)
            return started

        first = start_head()
        other = {"gcs_address": f"127.0.0.1:{gcs}", "num_cpus": 4}
        others = [nodes.enter_context(node(Path(short), port, {}, **other)) for _ in range(2)]
        cluster = Cluster(job_url, first, others, start_head)
        publish(index, "v1", [*passages(300), *initial()], lexical=LexicalSettings(), writable=True)
        deploy(job_url, index, port, proxies)
        wait(cluster.has_two_of_everything)
        assert all(len(one.replicas(name)) < 2 for one in (first, *others) for name in SPREAD)
        yield cluster


def deploy(job_url: str, index: Path, port: int, proxies: str) -> None:
    """Deploy two replicas of everything, on different nodes."""
    args = {"index": str(index), "reranker": "overlap", "replicas_per_node": 1, "reranker_min_replicas": 2}
    args |= {"ingress_replicas": 2, "encoder_replicas": 2, "retriever_replicas": 2, "reranker_max_replicas": 2}
    application = {"name": "shoal", "route_prefix": "/", "import_path": "serve.app:build_app", "args": args}
    config = {
        "proxy_location": proxies,
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [application],
    }
    response = httpx.put(f"{job_url}/api/serve/applications/", json=config, timeout=60)
    assert response.status_code == 200, response.text


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_of_three_nodes_one_may_be_lost(local: ModuleType, tmp_path: Path) -> None:
    with serving(local, tmp_path / "index", 4, "HeadOnly", {}) as cluster:
        url = cluster.head.url
        wait(lambda: is_ready(url))
        # Rerankers may share a node; then it is another one that is lost.
        candidates = [one for one in cluster.others if len(one.replicas("reranker")) < 2]
        lost = max(candidates, key=lambda one: sum(bool(one.replicas(name)) for name in SERVICES))
        held = [name for name in SERVICES if lost.replicas(name)]
        with asking(url) as load:
            wait(lambda: len(load.seen) >= 60)
            struck = time.monotonic()
            lost.kill()
            asked = len(load.seen)
            wait(lambda: load.is_whole_again(asked))
            wait(cluster.has_two_of_everything)
            replaced = time.monotonic() - struck
    report(load, f"a node with {', '.join(held)}", struck)
    print(f"two replicas of everything again after {replaced:.1f} s")
    assert load.failures == []
    assert load.last_flaw() is None


def test_of_three_nodes_one_may_be_lost_under_writes(local: ModuleType, tmp_path: Path) -> None:
    """Writes are answered when they are repeated, and no answer is more than a second behind what was acknowledged."""
    with serving(local, tmp_path / "index", 4, "HeadOnly", {}) as cluster:
        url = cluster.head.url
        wait(lambda: is_ready(url))
        lost = max(cluster.others, key=lambda one: sum(bool(one.replicas(name)) for name in SERVICES))
        held = [name for name in SERVICES if lost.replicas(name)]
        with writing_and_reading(url) as clients:
            clients.wait(OPERATIONS)
            lost.kill()
            clients.wait(OPERATIONS)
            wait(cluster.has_two_of_everything)
            clients.wait(OPERATIONS)
            clients.stop()
            clients.repeat(url)
            clients.read_all(url)
    print(f"a node with {', '.join(held)} was killed under writes")
    check(clients, tmp_path / "index", within_s=VISIBLE_S)
    assert clients.most_attempts <= ATTEMPTS


def test_the_head_may_be_lost_and_come_back_where_a_redis_keeps_its_records(
    local: ModuleType, redis: str, tmp_path: Path
) -> None:
    """As on Kubernetes: no replicas on the head, a HAProxy on every node, and clients ask that of another node."""
    with serving(local, tmp_path / "index", 0, "EveryNode", {"RAY_REDIS_ADDRESS": redis}) as cluster:
        url = cluster.others[0].url
        wait(lambda: is_ready(url))
        with asking(url) as load:
            wait(lambda: len(load.seen) >= 60)
            struck, asked = time.monotonic(), len(load.seen)
            cluster.head.kill()
            time.sleep(OUTAGE_S)
            gone, during = time.monotonic() - struck, len(load.seen) - asked
            cluster.start_head()
            back = time.monotonic() - struck
            # Replacing a replica takes a controller that has found its records again.
            shard = min(shards(cluster))
            os.kill(shard, signal.SIGKILL)
            killed = time.monotonic()
            wait(lambda: shard not in shards(cluster) and cluster.has_two_of_everything())
            replaced = time.monotonic() - killed
            asked = len(load.seen)
            wait(lambda: load.is_whole_again(asked))
    report(load, f"the head gone for {gone:.1f} s, {during} of them meanwhile", struck)
    print(
        f"its job API answered after {back:.1f} s, and a replica that was killed then was replaced in {replaced:.1f} s"
    )
    assert during > 10  # those that were under way are no more than there are clients
    assert load.failures == []
    assert load.last_flaw() is None


def shards(cluster: Cluster) -> set[int]:
    """The processes of the first shard."""
    return {pid for one in cluster.others for pid in one.replicas("shard-00000")}
