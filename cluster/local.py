"""An isolated Ray cluster of several nodes on this machine, for tests and for trying out.

As a script it stays in the foreground until Ctrl-C or SIGTERM:

    python -m cluster.local --nodes 3 --cpus-per-node 1

From a checkout, `python cluster/local.py` is the same.

In tests it is loaded by path and used as a context manager, `with LocalCluster(nodes=3) as cluster: ...`, which runs
the same script as a child process.

Everything listens on 127.0.0.1 only, on free ports, and writes to a folder of its own. It stops what it started and
nothing else (never `ray stop`, which ends every Ray of the user): the script adopts orphans among its descendants and
kills what remains of them. When the process that holds a LocalCluster dies, however it dies, the cluster stops too. A
guard does the same when the script itself is killed.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shoal.cli.application import search_path
from shoal.system.leftovers import mark, start_guard
from shoal.system.processes import KILL_S, STOPS, adopt_orphans, ignore_signals, kill_descendants
from shoal.system.proxies import no_proxy

ENVIRONMENT = {
    # Without token authentication any user of this machine can run code in the cluster: say so by an explicit value.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # The only switch that makes Ray call a node 127.0.0.1; without it Ray takes the outer address and binds them all.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Nodes of one machine die together: there is nothing to drain to.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
}
"""Variables of nodes and clients alike, set before they import Ray; a value from outside wins."""
APPLICATION = Path(__file__).resolve().parents[1]
"""Where serve/ and jobs/ lie."""
LOOPBACK = "127.0.0.1"
"""Where everything listens."""
OBJECT_STORE_BYTES = 256 * 2**20
"""Bytes of the object store of a node."""


class LocalCluster:
    """A local cluster that lives as long as the `with` block.

    Attributes:
        address: `host:port` for `ray.init`. A process that joins needs `env` in its environment before it imports Ray.
        job_url: URL of the dashboard, which takes `ray job submit` and `serve deploy`.
        folder: Ray's temporary directory of this cluster, removed at the end.
        env: What a client process needs, for example `subprocess.run(..., env={**os.environ, **cluster.env})`.
    """

    def __init__(
        self,
        nodes: int = 3,
        cpus_per_node: int = 1,
        gpus_per_node: int = 0,
        env: Mapping[str, str] | None = None,
        start_timeout_s: float = 120.0,
    ) -> None:
        """`env` is added to the environment of every node; GPUs are declared to Ray's scheduler, not looked for."""
        self._command = [sys.executable, __file__, "--json", "--until-eof", "--nodes", str(nodes)]
        self._command += ["--cpus-per-node", str(cpus_per_node), "--gpus-per-node", str(gpus_per_node)]
        self._env = {**os.environ, **(env or {})}
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        # The open pipe is the leash: its end closes when we stop, and when we are killed.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._env,
            start_new_session=True,
        )
        timer = threading.Timer(self._start_timeout_s, self._process.terminate)
        timer.start()
        try:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            self.stop()
            raise RuntimeError(
                f"the local cluster did not start within {self._start_timeout_s:g} s; see its stderr above"
            )
        facts = json.loads(line)
        self.address: str = facts["address"]
        self.job_url: str = facts["job_url"]
        self.folder = Path(facts["folder"])
        self.env: dict[str, str] = facts["env"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the script that owns the nodes."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Stop every process of the cluster and remove its folder; a second call does nothing."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(timeout=3 * KILL_S)
        process.stdout.close()


def free_port() -> int:
    """A TCP port that was free on 127.0.0.1 a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def prepare_environment(folder: str) -> None:
    """Set what the nodes, and everything that runs on them, find in their environment; before Ray is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["RAY_TMPDIR"] = folder
    os.environ["no_proxy"] = no_proxy()
    # `python` in the entrypoint of a job is this interpreter, whether or not its environment is activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    # As in the image, Serve finds the application on every node; a job's own working directory comes first.
    os.environ.update(search_path(APPLICATION))
    # What Ray sets in a worker whose job has a `worker_process_setup_hook`: here every worker has it.
    os.environ["__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"] = "serve.worker_setup.listen_on_loopback"
    for exporter in ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT"):
        os.environ.setdefault(exporter, str(free_port()))


def start_nodes(nodes: int, cpus: int, gpus: int) -> Any:
    """Start a head and `nodes - 1` workers as children of this process; returns the `ray.cluster_utils.Cluster`."""
    from ray.cluster_utils import Cluster

    node = {
        "node_ip_address": LOOPBACK,
        "num_cpus": cpus,
        "num_gpus": gpus,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    head = {
        "gcs_server_port": free_port(),
        "include_dashboard": True,
        "dashboard_host": LOOPBACK,
        "dashboard_port": free_port(),
        "dashboard_agent_listen_port": free_port(),
    }
    cluster = Cluster(initialize_head=True, head_node_args={**node, **head})
    for _ in range(nodes - 1):
        cluster.add_node(**node)
    cluster.wait_for_nodes()
    return cluster


def wait_for_job_api(job_url: str, timeout_s: float = 60.0) -> None:
    """Poll until jobs can be submitted; TimeoutError otherwise."""
    import httpx

    token = os.environ.get("RAY_AUTH_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            # Any answer but a server error will do: 401 is that of a cluster whose token we do not hold ourselves.
            if httpx.get(f"{job_url}/api/jobs/", headers=headers, timeout=5).status_code < 500:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"no answer from the job API at {job_url} within {timeout_s:g} s")


def usage(facts: Mapping[str, Any]) -> str:
    """What a person at a terminal wants to know about a running cluster."""
    exports = " \\\n         ".join(f"{name}={value}" for name, value in facts["env"].items())
    return f"""Ray cluster of {facts["nodes"]} nodes, reachable from this machine only.

  address    {facts["address"]}
  dashboard  {facts["job_url"]}   (jobs and Serve too)
  folder     {facts["folder"]}   (logs, removed at the end)

In another terminal:

  export {exports}
  ray status
  ray job submit --working-dir . -- python -m jobs.build_index --source /path/of/the/corpus --index /path/of/the/index
  serve deploy CONFIG     (docs/cluster.md, "Several nodes on one machine", has one)

Stop it with Ctrl-C, or: kill {os.getpid()}
"""


def stop_at_eof(stop: threading.Event) -> None:
    """Set `stop` once standard input has ended, which is when the process at its other end has."""
    sys.stdin.read()
    stop.set()


def run(nodes: int, cpus: int, gpus: int, *, as_json: bool, until_eof: bool) -> None:
    """Run the cluster in the foreground until a signal or, if asked, until stdin ends."""
    stop = threading.Event()
    folder = tempfile.mkdtemp(prefix="shr-", dir="/tmp")  # short: the path of a socket has at most 107 bytes
    prepare_environment(folder)
    mark(Path(folder))
    for number in STOPS:
        signal.signal(number, lambda *_: sys.exit(0))
    adopt_orphans()
    try:
        start_guard(Path(folder))
        cluster = start_nodes(nodes, cpus, gpus)
        # Ray has put its own handlers in place of ours.
        for number in STOPS:
            signal.signal(number, lambda *_: stop.set())
        job_url = f"http://{cluster.webui_url}"
        wait_for_job_api(job_url)
        client = {"RAY_ADDRESS": cluster.address, "RAY_API_SERVER_ADDRESS": job_url, "RAY_DASHBOARD_ADDRESS": job_url}
        client |= {name: os.environ[name] for name in ENVIRONMENT}
        facts = {"nodes": nodes, "address": cluster.address, "job_url": job_url, "folder": folder, "env": client}
        sys.stdout.write(json.dumps(facts) + "\n" if as_json else usage(facts))
        sys.stdout.flush()
        if until_eof:
            threading.Thread(target=stop_at_eof, args=(stop,), daemon=True).start()
        stop.wait()
    finally:
        ignore_signals()
        kill_descendants()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="An isolated Ray cluster of several nodes on this machine.")
    parser.add_argument("--nodes", type=int, default=3, help="nodes, the head included (default: 3)")
    parser.add_argument("--cpus-per-node", type=int, default=1, help="CPUs each node declares (default: 1)")
    parser.add_argument("--gpus-per-node", type=int, default=0, help="GPUs each node declares (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object when ready")
    parser.add_argument("--until-eof", action="store_true", help="also stop when standard input ends")
    options = parser.parse_args()
    if options.nodes < 1:
        parser.error("--nodes must be at least 1")
    run(
        options.nodes,
        options.cpus_per_node,
        options.gpus_per_node,
        as_json=options.json,
        until_eof=options.until_eof,
    )


if __name__ == "__main__":
    main()
