import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import yaml

from shoal.system.processes import descendants

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "local.py"
SHARDS = 4


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


def client_environment(cluster: Any) -> dict[str, str]:
    """Environment of a command that uses the cluster; `ray`, `serve` and `shoal` are those beside this interpreter."""
    return {**os.environ, **cluster.env, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


HOLDER = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("local", sys.argv[1])
local = importlib.util.module_from_spec(spec)
spec.loader.exec_module(local)
with local.LocalCluster(nodes=1) as cluster:
    print(cluster.pid, cluster.folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def cluster(local: ModuleType) -> Iterator[Any]:
    with local.LocalCluster(nodes=3, env={"SHOAL_TEST_MARK": "seen"}) as cluster:
        yield cluster


def test_a_driver_joins_three_nodes_that_share_an_environment(cluster):
    program = """
import os, ray
ray.init(log_to_driver=False)
look = ray.remote(scheduling_strategy="SPREAD")(lambda: os.environ["SHOAL_TEST_MARK"])
print(len(ray.nodes()), *set(ray.get([look.remote() for _ in range(10)])))
"""
    driver = subprocess.run(
        [sys.executable, "-c", program], env=client_environment(cluster), capture_output=True, text=True, timeout=120
    )
    assert driver.stdout.splitlines()[-1:] == ["3 seen"], driver.stderr


def word(number: int) -> str:
    """A word of letters for each number, so that every passage has words of its own."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


class TestApplication:
    """A build that is submitted as a job, and its index served by a declarative deploy."""

    @pytest.fixture(scope="class")
    def index(self, cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("build")
        with (folder / "corpus.jsonl").open("w") as file:
            for number in range(3000):
                json.dump({"id": f"p{number}", "text": f"passage about {word(number)} and {word(number * 7)}"}, file)
                file.write("\n")
        self.build(cluster, folder, "--shards", str(SHARDS), "--unit-passages", "50", "--workers", "3")
        return folder / "index"

    def build(self, cluster: Any, folder: Path, *options: str) -> str:
        """Build from the corpus in a folder, and return the version."""
        places = ["--source", str(folder / "corpus.jsonl"), "--index", str(folder / "index")]
        build = subprocess.run(
            ["shoal", "build", "--address", cluster.job_url, "--json", *places, "--encoder", "hashing:64", *options],
            cwd=ROOT,
            env={**client_environment(cluster), "http_proxy": "http://127.0.0.1:9"},  # never asked for this machine
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert build.returncode == 0, build.stdout + build.stderr
        summary = json.loads(build.stdout)
        assert summary["passages"] == 3000
        return str(summary["version"])

    def test_the_build_spreads_over_the_nodes(self, cluster, index):
        from ray.util.state import list_tasks

        def nodes() -> set[str]:
            tasks = list_tasks(address=cluster.job_url, detail=True, limit=10_000)
            return {task.node_id for task in tasks if "Embedder" in task.name and task.node_id}

        # One CPU a node, so three workers fill the cluster. Workers report what they did with a delay.
        wait_until(lambda: len(nodes()) == 3)

    def deploy(self, cluster: Any, folder: Path, config: dict[str, Any]) -> None:
        (folder / "serve.yaml").write_text(yaml.safe_dump(config))
        deploy = subprocess.run(
            ["serve", "deploy", str(folder / "serve.yaml")],
            env=client_environment(cluster),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert deploy.returncode == 0, deploy.stdout + deploy.stderr

    def test_shards_are_served_from_several_nodes_and_a_version_of_another_shape_by_a_second_application(
        self, cluster, index, local, tmp_path
    ):
        # Before replicas take a part of every node's only CPU: a build worker needs a whole one.
        version = self.build(cluster, index.parent, "--shards", "2", "--no-activate")
        port = local.free_port()
        config = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text())
        config["proxy_location"] = "HeadOnly"  # the nodes share one address, so one proxy can have the port
        config["http_options"]["port"] = port
        [application] = config["applications"]
        application["args"] = {"index": str(index), "reranker": "overlap", "cpus_per_replica": 0.1}
        application["args"] |= {"encoder_replicas": 1, "retriever_replicas": 1}
        self.deploy(cluster, tmp_path, config)

        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as server:

            def ready() -> bool:
                state = httpx.get(f"{cluster.job_url}/api/serve/applications/", timeout=10).json()["applications"]
                assert state[application["name"]]["status"] != "DEPLOY_FAILED", state[application["name"]]["message"]
                try:
                    return server.get("/readyz").status_code == 200
                except httpx.TransportError:
                    return False

            wait_until(ready, timeout_s=180)
            answer = server.post("/v1/search", json={"query": f"{word(1234)} and {word(1234 * 7)}", "top_k": 20}).json()
        assert answer["results"][0]["id"] == "p1234"
        assert answer["coverage"]["answered"] == SHARDS

        state = httpx.get(f"{cluster.job_url}/api/serve/applications/", timeout=10).json()
        deployments = state["applications"][application["name"]]["deployments"]
        nodes = [
            {replica["node_id"] for replica in deployment["replicas"]}
            for name, deployment in deployments.items()
            if name.startswith("shard-")
        ]
        assert len(nodes) == SHARDS
        assert len(set.union(*nodes)) > 1

        beside = {"name": "shoal-green", "route_prefix": None, "import_path": "serve.app:build_services"}
        beside["args"] = {**application["args"], "version": version}
        self.deploy(cluster, tmp_path, {**config, "applications": [application, beside]})

        def running() -> bool:
            state = httpx.get(f"{cluster.job_url}/api/serve/applications/", timeout=10).json()["applications"]
            assert state["shoal"]["status"] == "RUNNING"
            return bool(state.get("shoal-green", {}).get("status") == "RUNNING")

        wait_until(running, timeout_s=180)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as server:
            response = server.post("/v1/index/activate", json={"version": version})
            assert response.status_code == 200, response.text
            answer = server.post("/v1/search", json={"query": f"{word(1234)} and {word(1234 * 7)}", "top_k": 20}).json()
        assert (answer["index_version"], answer["coverage"]["answered"]) == (version, 2)
        assert answer["results"][0]["id"] == "p1234"


def test_everything_listens_on_loopback_only_even_while_it_serves(cluster, local):
    addresses = listening(descendants(cluster.pid))
    assert len(addresses) > 10
    assert {address.rpartition(":")[0] for address in addresses} <= {"127.0.0.1", "[::ffff:127.0.0.1]"}


def test_it_stops_while_it_serves_and_leaves_nothing(cluster, local):
    started = [cluster.pid, *descendants(cluster.pid)]
    assert len(started) > 10
    cluster.stop()
    assert alive(started) == []
    assert listening(started) == []
    assert not cluster.folder.exists()


def test_the_cluster_of_a_killed_process_stops(local):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(SCRIPT)], stdout=subprocess.PIPE, text=True) as holder:
        owner, folder = holder.stdout.readline().split()
        started = [int(owner), *descendants(int(owner))]
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
        started = [script.pid, *descendants(script.pid)]
        script.send_signal(number)
        assert script.wait(timeout=60) == 0
    assert alive(started) == []
    assert "export RAY_ADDRESS=127.0.0.1:" in printed
