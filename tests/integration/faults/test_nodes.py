"""A cluster of three nodes loses one while it serves, replicas and all; what its clients see of that.

The nodes are those of cluster/local.py, and their HAProxy is set up as that of `shoal serve`. Like the faults beside
it, it takes cores that nothing else keeps busy, and runs with SHOAL_LONG_TESTS=1 only.
"""

import contextlib
import os
import signal
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

SPREAD = ("ingress", "encoder", "shard-00000", "shard-00001")
SERVICES = (*SPREAD, "reranker")


@pytest.fixture
def cluster(local: ModuleType, tmp_path: Path) -> Iterator[Any]:
    # The path of a socket has at most 97 bytes, of which Ray's names take 70.
    with tempfile.TemporaryDirectory(prefix="shr-", dir="/tmp") as folder:
        haproxy = private_ray._haproxy(Path(folder), RunSettings(index=str(tmp_path), ingress_replicas=2))
        with local.LocalCluster(nodes=3, cpus_per_node=2, env={**private_ray.SERVE, **haproxy}) as cluster:
            yield cluster


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
        with contextlib.suppress(OSError):  # it has ended
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if words[0].endswith("/raylet") and "--head" not in words:
                found.update({word.removeprefix("--node_id="): pid for word in words if word.startswith("--node_id=")})
    return found


def test_of_three_nodes_one_may_be_lost(cluster: Any, local: ModuleType, tmp_path: Path) -> None:
    root, port = tmp_path / "index", local.free_port()
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
