"""A cluster loses a node while it serves, or the records of its head; what its clients see of that.

The nodes are those of cluster/local.py, and their HAProxy is set up as that of `shoal serve`. Like the faults beside
it, it takes cores that nothing else keeps busy, and runs with SHOAL_LONG_TESTS=1 only.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from serve import private_ray
from shoal.processes import descendants
from shoal.settings import LexicalSettings, RunSettings
from tests.indexes import passages, publish
from tests.load import asking, report
from tests.long import only_long
from tests.servers import wait

pytestmark = only_long

OUTAGE_S = 10.0
"""How long the head has no records; after a minute Ray gives a cluster up."""
SPREAD = ("ingress", "encoder", "shard-00000", "shard-00001")
SERVICES = (*SPREAD, "reranker")


@contextlib.contextmanager
def cluster_of(local: ModuleType, folder: Path, count: int, **environment: str) -> Iterator[Any]:
    """A cluster whose HAProxy does what that of `shoal serve` does."""
    # The path of a socket has at most 97 bytes, of which Ray's names take 70.
    with tempfile.TemporaryDirectory(prefix="shr-", dir="/tmp") as short:
        haproxy = private_ray._haproxy(Path(short), RunSettings(index=str(folder), ingress_replicas=2))
        environment |= {**private_ray.SERVE, **haproxy}
        with local.LocalCluster(nodes=count, cpus_per_node=2, env=environment) as cluster:
            yield cluster


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


def deploy(cluster: Any, root: Path, port: int) -> None:
    """Serve with two replicas of everything, on different nodes."""
    args = {"index": str(root), "reranker": "overlap", "replicas_per_node": 1, "reranker_min_replicas": 2}
    args |= {"ingress_replicas": 2, "encoder_replicas": 2, "retriever_replicas": 2, "reranker_max_replicas": 2}
    application = {"name": "shoal", "route_prefix": "/", "import_path": "serve.app:build_app", "args": args}
    config = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [application],
    }
    response = httpx.put(f"{cluster.job_url}/api/serve/applications/", json=config, timeout=60)
    assert response.status_code == 200, response.text


def placement(cluster: Any) -> dict[str, list[str]]:
    """The nodes of the running replicas of each deployment."""
    state = httpx.get(f"{cluster.job_url}/api/serve/applications/", timeout=30).json()
    deployments = state["applications"].get("shoal", {}).get("deployments", {})
    return {
        name: [one["node_id"] for one in deployments.get(name, {}).get("replicas", []) if one["state"] == "RUNNING"]
        for name in SERVICES
    }


def raylets(cluster: Any) -> dict[str, int]:
    """The process of every worker node, by the id of the node. The head is none of them."""
    found = {}
    for pid in descendants(cluster.pid):
        words = words_of(pid)
        if words[0].endswith("/raylet") and "--head" not in words:
            found.update({word.removeprefix("--node_id="): pid for word in words if word.startswith("--node_id=")})
    return found


def serving(cluster: Any, local: ModuleType, folder: Path) -> str:
    """Publish an index and serve it; the URL, once there are two replicas of everything."""
    root, port = folder / "index", local.free_port()
    publish(root, "v1", passages(300), lexical=LexicalSettings())
    deploy(cluster, root, port)
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    wait(ready)
    wait(lambda: all(len(placement(cluster)[name]) == 2 for name in SERVICES))
    return url


def test_of_three_nodes_one_may_be_lost(local: ModuleType, tmp_path: Path) -> None:
    with cluster_of(local, tmp_path, 3) as cluster:
        url = serving(cluster, local, tmp_path)
        before = placement(cluster)
        assert all(len(set(before[name])) == 2 for name in SPREAD), before
        # Rerankers may share a node; then it is another one that is lost.
        assert len(raylets(cluster)) == 2
        workers = {node: pid for node, pid in raylets(cluster).items() if before["reranker"].count(node) < 2}
        lost = max(workers, key=lambda node: sum(node in nodes for nodes in before.values()))
        with asking(url) as load:
            wait(lambda: len(load.seen) >= 60)
            struck = time.monotonic()
            for pid in [workers[lost], *descendants(workers[lost])]:
                os.kill(pid, signal.SIGKILL)
            asked = len(load.seen)
            wait(lambda: load.is_whole_again(asked))
            wait(lambda: all(len(set(placement(cluster)[name]) - {lost}) == 2 for name in SPREAD))
            replaced = time.monotonic() - struck
    held = [name for name, nodes in before.items() if lost in nodes]
    report(load, f"a node with {', '.join(held)}", struck)
    print(f"two replicas of everything again after {replaced:.1f} s")
    assert load.failures == []
    assert load.last_flaw() is None


def test_the_records_of_the_head_may_be_lost_and_come_back_where_a_redis_keeps_them(
    local: ModuleType, redis: str, tmp_path: Path
) -> None:
    with cluster_of(local, tmp_path, 2, RAY_REDIS_ADDRESS=redis) as cluster, contextlib.ExitStack() as ends:
        url = serving(cluster, local, tmp_path)
        (gcs,) = (pid for pid in descendants(cluster.pid) if words_of(pid)[0].endswith("/gcs_server"))
        words, environment = [word for word in words_of(gcs) if word], environment_of(gcs)
        with asking(url) as load:
            wait(lambda: len(load.seen) >= 60)
            struck = time.monotonic()
            os.kill(gcs, signal.SIGKILL)
            time.sleep(OUTAGE_S)
            again = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            ends.callback(again.wait)
            ends.callback(again.kill)
            gone = time.monotonic() - struck
            asked = len(load.seen)
            wait(lambda: load.is_whole_again(asked))
            # Replacing a replica takes a controller that has found its records again.
            shard = shards(cluster)[0]
            os.kill(shard, signal.SIGKILL)
            killed = time.monotonic()
            wait(lambda: shard not in shards(cluster) and len(shards(cluster)) == 2)
            replaced = time.monotonic() - killed
    report(load, f"the head's records for {gone:.1f} s", struck)
    print(f"a replica that was killed then was there again after {replaced:.1f} s")
    assert load.failures == []
    assert load.last_flaw() is None


def shards(cluster: Any) -> list[int]:
    """The processes of the first shard."""
    return [pid for pid in descendants(cluster.pid) if "shard-00000" in words_of(pid)[0]]


def words_of(pid: int) -> list[str]:
    """The command line of a process; one empty word if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return [""]


def environment_of(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
