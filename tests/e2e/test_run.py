"""`python -m serve.run` as a user starts and stops it: one process, and nothing of it left behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from shoal.serving import keys
from tests.support.indexes import damage, passages, publish
from tests.support.servers import Server, running, wait
from tests.support.serving import free_port

ROOT = Path(__file__).parents[2]
START_S = 150.0
STOP_S = 60.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    publish(folder, "v1", passages(100))
    return folder


def sigterm(server: Server) -> None:
    server.process.terminate()


def ctrl_c(server: Server) -> None:
    os.killpg(server.process.pid, signal.SIGINT)  # a terminal sends it to every process of the group


@pytest.mark.parametrize(
    ("proxy", "host", "stop"),
    [("haproxy", "127.0.0.1", ctrl_c), ("ray", "127.0.0.1", sigterm), ("haproxy", "0.0.0.0", sigterm)],
)
def test_a_server_answers_and_leaves_nothing_behind(
    proxy: str, host: str, stop: Callable[[Server], None], tmp_path: Path, root: Path
) -> None:
    key, metrics_port, file = keys.make(), free_port(), tmp_path / "keys"
    file.write_text(keys.line(key, "e2e"))
    options = (f"--host={host}", f"--api-keys-file={file}", f"--metrics-port={metrics_port}", "--body-timeout-s=1")
    with running(tmp_path, root, "--reranker=overlap", f"--proxy={proxy}", *options) as server:
        server.wait_ready(f"ready http://{host}:{server.port}")
        assert httpx.post(f"{server.url}/v1/search", json={"query": "fish"}).status_code == 401
        assert httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").status_code == 200
        assert slow_body(server.port, key).startswith(b"HTTP/1.1 408")
        with httpx.Client(base_url=server.url, timeout=30, headers={"x-api-key": key}) as client:
            answer = client.post("/v1/search", json={"query": "the black otter number n8", "top_k": 10}).json()
            assert answer["results"][0]["id"] == "p8"
            assert answer["reranked"]
            assert client.get("/readyz").json() == {"ready": True}
            for body, status in (
                ({"query": ""}, 400),
                ({"query": "x" * 990_000}, 400),
                ({"query": "x" * 1_000_000}, 413),
                ({"query": "fish", "top_k": 10**9}, 400),
            ):
                refusal = client.post("/v1/search", json=body)
                assert (refusal.status_code, refusal.json()["status"]) == (status, status)
                assert len(refusal.content) < 2000
        check_listeners(server, host, metrics_port, proxy)
        assert open_to_others(server) == []
        assert maps("pandas", server) == []  # see serve/worker_setup.py
        assert maps("numpy", server) != []
        assert key not in " ".join(server.descendants().values())
        (folder,) = server.temporary_folders()
        stop(server)
        assert server.process.wait(STOP_S) == 0
        server.assert_nothing_is_left(within_s=10)
        assert not folder.exists()
        assert server.errors() == ""


def maps(library: str, server: Server) -> list[str]:
    """Processes of the server that have loaded a library."""
    found = []
    for pid, command in server.descendants().items():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if f"/site-packages/{library}/" in Path(f"/proc/{pid}/maps").read_text():
                found.append(command)
    return found


def slow_body(port: int, key: str) -> bytes:
    """The answer to a request whose body stops after its first byte."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        head = f"POST /v1/search HTTP/1.1\r\nhost: shoal\r\nx-api-key: {key}\r\ncontent-type: application/json\r\n"
        connection.sendall(f"{head}content-length: 20\r\n\r\n{{".encode())
        return connection.recv(4096)


def check_listeners(server: Server, host: str, metrics_port: int, proxy: str) -> None:
    """Compare what listens with the table "What listens where" of docs/cluster.md: all of it, and nothing else."""
    documented = documented_listeners()
    assert all(cell.startswith("loopback") for cell in documented.values())
    named = {port for port, cell in documented.items() if "`--host`" in cell}
    assert named == {"8000"}
    found = set()
    for port, process, loopback in listeners(server):
        row = row_of(port, process, server.port, metrics_port)
        assert row in documented, (port, process)
        assert loopback or (row in named and host == "0.0.0.0"), (port, process)
        found.add(row)
    assert (server.port, False) in {(port, loopback) for port, _, loopback in listeners(server)} or host != "0.0.0.0"
    # A private Ray has no dashboard, and HAProxy's ports are HAProxy's. Which process of Ray's exports the metrics, and
    # whether it can be seen at this moment, is Ray's business.
    used = documented.keys() - {"8265"} - ({"8404, 9101", REPLICA_HTTP} if proxy == "ray" else set())
    assert used - {"`--metrics-port`, else random"} <= found <= used


REPLICA_HTTP = "random, HTTP"


def row_of(port: int, process: str, endpoint: int, metrics_port: int) -> str:
    """The first cell of the row that documents a listener."""
    if port in (endpoint, metrics_port):
        return "8000" if port == endpoint else "`--metrics-port`, else random"
    if process.startswith("ray::Serve") or process.startswith("ray::Proxy"):
        return REPLICA_HTTP if answers_http(port) else "random, gRPC"
    return "8404, 9101" if "haproxy" in process.split()[0] else "6379, 10001, random"


def answers_http(port: int) -> bool:
    """Whether a port answers HTTP, as a replica behind HAProxy does."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/-/routes", timeout=10).status_code > 0
    except httpx.HTTPError:
        return False


def documented_listeners() -> dict[str, str]:
    """What listens on this machine, by the port as the table of docs/cluster.md writes it."""
    text = (ROOT / "docs" / "cluster.md").read_text().partition("## What listens where")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[2] for row in rows[2:]}


def listeners(server: Server) -> list[tuple[int, str, bool]]:
    """Ports on which the processes of a server listen: the port, the process, and whether it is on loopback."""
    owners = {}
    for pid, command in server.descendants().items():
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                owners[str(descriptor.readlink())] = command
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, state, inode = fields[1], fields[3], fields[9]
            owner = owners.get(f"socket:[{inode}]")
            if state != "0A" or owner is None:  # 0A: listening
                continue
            # The kernel writes 127.0.0.1 in the byte order of the machine, mapped into IPv6 as well.
            loopback = address.split(":")[0].endswith("0100007F") or address.startswith("0" * 24 + "01000000")
            found.append((int(address.rpartition(":")[2], 16), owner, loopback))
    return found


def open_to_others(server: Server) -> list[str]:
    """Files and sockets of a server that another user of the machine can read or write, apart from installed code."""
    if os.geteuid() != 0:
        pytest.skip("only root can look as another user")
    sockets = {line.split()[6]: line.split()[7] for line in unix_sockets() if len(line.split()) > 7}
    paths = {path for folder in server.temporary_folders() for path in map(str, folder.rglob("*"))}
    for pid in server.descendants():
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                name = str(descriptor.readlink())
                paths.add(sockets.get(name.removeprefix("socket:[").removesuffix("]"), name))
    kept = sorted(path for path in paths if path.startswith(("/", "@")) and not path.startswith(("/dev/", "/proc/")))
    look = (
        'while read -r path; do case "$path" in @*) echo "$path";; /tmp/*) [ -r "$path" ] && echo "$path";; esac; '
        '[ -w "$path" ] && echo "$path"; done; true'
    )
    other = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/"}
    seen = subprocess.run(["/bin/sh", "-c", look], input="\n".join(kept), capture_output=True, text=True, **other)  # type: ignore[call-overload]
    assert len(kept) > 20
    assert seen.returncode == 0, seen.stderr
    return sorted(set(seen.stdout.split()))


def unix_sockets() -> list[str]:
    """The lines of the kernel's table of Unix sockets, without its head."""
    return Path("/proc/net/unix").read_text().splitlines()[1:]


def test_a_killed_server_takes_its_processes_along_and_another_starts_on_its_ports(tmp_path: Path, root: Path) -> None:
    """Ray's node agents notice only after a minute that nobody is left, and one of them holds the port of metrics."""
    port = f"--metrics-port={free_port()}"
    (tmp_path / "second").mkdir()
    with running(tmp_path, root, "--reranker=none", "--json", port) as server:
        server.wait_ready('{"ready": "{}"}')
        (folder,) = server.temporary_folders()
        server.process.kill()
        server.process.wait()
        with running(tmp_path / "second", root, "--reranker=none", port) as second:
            second.wait_ready()
            server.assert_nothing_is_left(within_s=30)  # less than the minute that Ray's own agents take
            wait(lambda: not folder.exists())


def test_a_server_can_be_stopped_while_it_starts(tmp_path: Path, root: Path) -> None:
    with running(tmp_path, root) as server:
        deadline = time.monotonic() + START_S
        while not any("raylet" in line for line in server.descendants().values()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        sigterm(server)
        assert server.process.wait(STOP_S) == 0
        server.assert_nothing_is_left(within_s=10)
        assert server.process.stdout is not None
        assert server.process.stdout.read() == ""


def test_a_damaged_shard_ends_the_start_with_its_name(tmp_path: Path) -> None:
    publish(tmp_path / "index", "v1", passages(100))
    damaged = damage(tmp_path / "index", "v1", shard=1)
    with running(tmp_path, tmp_path / "index", "--reranker=none") as server:
        assert server.process.wait(START_S) == 2
        server.assert_nothing_is_left(within_s=10)
        assert server.errors().startswith(f"error: {damaged} does not match the checksum")
        assert server.errors().count("\n") == 1


def run(root: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "serve.run", "--index", str(root), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_what_cannot_be_served_is_said_in_one_line(tmp_path: Path, root: Path) -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        cases = {
            f"port {port} is in use on 127.0.0.1; choose another with --port": (root, f"--port={port}"),
            "there is no index root at": (tmp_path / "none",),
            "--top-k: ": (root, "--top-k=0"),
            "hashing:32": (root, f"--port={free_port()}", "--encoder=hashing:32"),
            "no/such-model": (root, f"--port={free_port()}", "--reranker=no/such-model"),
            "correct --host": (root, "--host=203.0.113.1"),
            "will not listen on 0.0.0.0 without API keys": (root, f"--port={free_port()}", "--host=0.0.0.0"),
            "nowhere/keys cannot be read": (root, f"--port={free_port()}", "--api-keys-file=/nowhere/keys"),
        }
        for words, (index, *options) in cases.items():
            result = run(index, *options)
            assert (result.returncode, result.stdout) == (2, ""), result.stderr
            assert words in result.stderr
            assert result.stderr.startswith("error: ")
            assert result.stderr.count("\n") == 1
