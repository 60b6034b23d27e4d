"""Nodes of a Ray cluster on this machine that are lost one by one, as machines are; all listen on loopback only.

`cluster/local.py` has its head and the other nodes in one process. Here each has processes of its own, which
`python -m tests.support.nodes FOLDER PARAMETERS` starts, and its own HAProxy on a port of its own.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.ray_adapters import private_ray
from serve.ray_adapters.haproxy import haproxy_environment
from shoal.settings import RunSettings
from tests.support.marks import marked, new_mark
from tests.support.serving import free_port

ROOT = Path(__file__).parents[2]
OBJECT_STORE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Node:
    """A node that runs. `mark` is in the environment of all its processes."""

    mark: str
    url: str
    """Where its HAProxy answers."""

    def replicas(self, service: str) -> set[int]:
        """Its processes that are replicas of a service."""
        return {
            pid for pid, title in marked(self.mark).items() if title.startswith(f"ray::ServeReplica:shoal:{service}")
        }

    def kill(self) -> None:
        """SIGKILL every process, until there is none."""
        while left := marked(self.mark):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


@contextlib.contextmanager
def node(folder: Path, port: int, environment: dict[str, str], **parameters: Any) -> Iterator[Node]:
    """Run a node until the end of the block, or until it is killed.

    folder: of the cluster. port: where Serve's proxies listen, by its config. parameters: of Ray's RayParams.
    """
    mark = new_mark()
    own, haproxy = _haproxy(Path(tempfile.mkdtemp(prefix="p", dir=folder)), port)  # a short path, for sockets in it
    command = [sys.executable, "-m", "tests.support.nodes", str(folder), json.dumps(parameters)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **private_ray.SERVE, **haproxy, **environment, mark: "1"},
        start_new_session=True,
    )
    started = Node(mark, f"http://127.0.0.1:{own}")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield started
    finally:
        started.kill()
        process.communicate()


def _haproxy(folder: Path, port: int) -> tuple[int, dict[str, str]]:
    """Set up HAProxy as `shoal serve` does, on a free port, since all nodes have one address."""
    environment = haproxy_environment(folder, RunSettings(index="unused", ingress_replicas=2))
    own, wrapper = free_port(), Path(environment["RAY_SERVE_HAPROXY_BINARY_PATH"])
    other_port = f"sed -i -E 's/^( *bind 127.0.0.1):{port}$/\\1:{own}/' \"$3\"\n"
    wrapper.write_text(wrapper.read_text().replace("exec ", f"{other_port}exec "))
    return own, environment


def main() -> None:
    """Run one node in the foreground."""
    from cluster.local import prepare_environment

    folder, parameters = sys.argv[1], json.loads(sys.argv[2])
    prepare_environment(folder)
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    head = parameters.pop("head", False)
    params = RayParams(
        node_ip_address="127.0.0.1",
        object_store_memory=OBJECT_STORE_BYTES,
        min_worker_port=0,
        max_worker_port=0,
        node_manager_port=0,
        include_log_monitor=False,
        **parameters,
    )
    Node(params, head=head, shutdown_at_exit=True, spawn_reaper=True)
    sys.stdout.write("started\n")
    sys.stdout.flush()
    signal.pause()


if __name__ == "__main__":
    main()
