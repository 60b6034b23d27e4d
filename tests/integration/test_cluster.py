import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "local.py"


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.1)


def alive(pids: list[int]) -> list[int]:
    """Those of `pids` that still run (a zombie, waiting only for its parent, does not)."""

    def state(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return "X"

    return [pid for pid in pids if state(pid) not in "XZ"]


def listening(pids: list[int]) -> list[str]:
    """Local addresses on which `pids` listen."""
    rows = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [row.split()[3] for row in rows if any(f"pid={pid}," in row for pid in pids)]


HOLDER = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("local", sys.argv[1])
local = importlib.util.module_from_spec(spec)
spec.loader.exec_module(local)
with local.LocalCluster(nodes=1) as cluster:
    print(cluster.pid, cluster.folder, flush=True)
    time.sleep(600)
"""


class TestLocalCluster:
    @pytest.fixture(scope="class")
    def cluster(self, local: ModuleType) -> Iterator[object]:
        with local.LocalCluster(nodes=3, env={"SHOAL_TEST_MARK": "seen"}) as cluster:
            yield cluster

    def test_three_nodes_take_a_job_and_share_an_environment(self, cluster):
        entrypoint = (
            "import os, ray; ray.init(); "
            "look = ray.remote(lambda: (ray.get_runtime_context().get_node_id(), os.environ['SHOAL_TEST_MARK'])); "
            "print(len({n['NodeID'] for n in ray.nodes()}), 'nodes', "
            "len(set(ray.get([look.options(scheduling_strategy='SPREAD').remote() for _ in range(30)]))), "
            "ray.get(look.remote())[1])"
        )
        job = subprocess.run(
            ["ray", "job", "submit", "--", "python", "-c", entrypoint],
            env={**os.environ, **cluster.env, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert job.returncode == 0, job.stdout + job.stderr
        assert "3 nodes 3 seen" in job.stdout

    def test_everything_listens_on_loopback_only(self, cluster, local):
        addresses = listening(local.descendants(cluster.pid))
        assert len(addresses) > 10
        assert {address.rpartition(":")[0] for address in addresses} <= {"127.0.0.1", "[::ffff:127.0.0.1]"}

    def test_it_stops_and_leaves_nothing(self, cluster, local):
        started = [cluster.pid, *local.descendants(cluster.pid)]
        assert len(started) > 10
        cluster.stop()
        assert alive(started) == []
        assert listening(started) == []
        assert not cluster.folder.exists()


def test_the_cluster_of_a_killed_process_stops(local):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(SCRIPT)], stdout=subprocess.PIPE, text=True) as holder:
        owner, folder = holder.stdout.readline().split()
        started = [int(owner), *local.descendants(int(owner))]
        holder.kill()
    wait_until(lambda: not alive(started) and not Path(folder).exists())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_script_stops_cleanly_on_a_signal(local, number):
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), "--nodes", "1"], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as script:
        printed = ""
        while "Stop it" not in printed:
            line = script.stdout.readline()
            assert line, printed
            printed += line
        started = [script.pid, *local.descendants(script.pid)]
        script.send_signal(number)
        assert script.wait(timeout=60) == 0
    assert alive(started) == []
    assert "export RAY_ADDRESS=127.0.0.1:" in printed

