"""What befalls a running server from outside: processes that are killed, a log disk that fills up."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shoal.system.processes import descendants
from tests.support.disks import Disk, small_disk
from tests.support.indexes import passages, publish
from tests.support.long import only_long
from tests.support.marks import assert_none_is_left, marked, new_mark
from tests.support.servers import running, wait

ROOT = Path(__file__).parents[2]
STOP_S = 60.0
DISK_BYTES = 2**22
PASSAGES = 10_000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    publish(folder, "v1", passages(100))
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        yield disk


def kill(parent: int, program: str) -> int:
    """Kill the one descendant whose program is so called, a regular expression, and tell which it was.

    It is waited for, and not told by its environment: a process that names itself anew may write over that.
    """
    pids: list[int] = []

    def is_there() -> bool:
        pids[:] = [pid for pid in descendants(parent) if re.search(program, program_of(pid))]
        return bool(pids)

    wait(is_there)
    (pid,) = pids
    os.kill(pid, signal.SIGKILL)
    return pid


def program_of(pid: int) -> str:
    """The words of a process's command line before its first option; nothing if it has ended."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return command.replace(b"\0", b" ").decode(errors="replace").split(" --")[0]


@pytest.mark.parametrize(
    ("program", "name"),
    [
        pytest.param("gcs/gcs_server", "Ray's GCS", marks=only_long),  # that of a build is killed below
        ("dashboard/agent.py|ray::DashboardAgent", "Ray's dashboard agent"),  # as it is called when it has started
        ("raylet/raylet", "Ray's raylet"),
    ],
)
def test_a_server_ends_with_the_processes_that_it_cannot_do_without(
    program: str, name: str, tmp_path: Path, root: Path
) -> None:
    with running(tmp_path, root, "--reranker=none") as server:
        server.wait_ready()
        (folder,) = server.temporary_folders()
        kill(server.process.pid, program)
        assert server.process.wait(STOP_S) == 1
        server.assert_nothing_is_left(within_s=10)
        assert not folder.exists()
        # Ray may have said before what it makes of it.
        last = server.errors().splitlines()[-1]
        assert last == f"error: {name} has ended, without which nothing works here; start again"


def test_a_build_ends_with_its_ray_and_the_same_command_goes_on(tmp_path: Path) -> None:
    source, index, mark = tmp_path / "in.jsonl", tmp_path / "index", new_mark()
    source.write_text(
        "".join(f'{{"id": "p{n}", "text": "passage {n} about topic {n % 30}"}}\n' for n in range(PASSAGES))
    )
    command = [sys.executable, "-m", "jobs.build_index", f"--source={source}", f"--index={index}", "--json"]
    command += [
        "--encoder=hashing:32",
        "--unit-passages=500",
        "--index-kind=flat",
        "--no-lexical",
        "--in-process-mib=0",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {mark: "1", "PYTHONPATH": str(ROOT)}
    build = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        wait(lambda: any(index.rglob("units/*.json")) or build.poll() is not None)
        kill(build.pid, "gcs/gcs_server")
        output, errors = build.communicate(timeout=STOP_S)
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
    assert build.returncode == 1
    message = "Ray's GCS has ended, without which nothing works here; start again"
    assert errors.splitlines()[-1] == f"error: {message}"
    assert json.loads(output)["error"]["message"] == message
    assert_none_is_left(mark, within_s=10)
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    summary = json.loads(again.stdout)
    assert summary["passages"] == PASSAGES
    assert summary["units_reused"] > 0


def test_a_proxy_that_is_killed_is_started_again_and_the_server_goes_on(tmp_path: Path, root: Path) -> None:
    with running(tmp_path, root, "--reranker=none") as server:
        server.wait_ready()
        killed = kill(server.process.pid, "/haproxy")

        def answers() -> bool:
            try:
                return httpx.post(f"{server.url}/v1/search", json={"query": "fish"}, timeout=30).status_code == 200
            except httpx.TransportError:
                return False

        wait(lambda: killed not in server.descendants())
        wait(answers)
        assert server.process.poll() is None


def logged(folder: Path) -> str:
    return "".join(file.read_text(errors="replace") for file in folder.rglob("*") if file.is_file())


def is_cut(file: Path) -> bool:
    """Whether a file ends with the last page that a full disk had for it."""
    status = file.stat()
    return file.is_file() and status.st_size > 0 and status.st_size % os.statvfs(file).f_bsize == 0


def test_a_full_log_disk_costs_no_answer_and_what_follows_is_logged(tmp_path: Path, root: Path, disk: Disk) -> None:
    logs = disk.folder / "logs"
    with running(tmp_path, root, "--reranker=none", f"--log-dir={logs}") as server:
        server.wait_ready()
        (folder,) = server.temporary_folders()
        with httpx.Client(base_url=server.url, timeout=30) as client:

            def search(request_id: str) -> None:
                answer = client.post("/v1/search", json={"query": "fish"}, headers={"x-request-id": request_id})
                assert answer.status_code == 200, answer.text
                assert answer.json()["degraded"] is None

            search("before-it-was-full")
            wait(lambda: "before-it-was-full" in logged(logs))
            disk.leave(0)
            for number in range(200):
                search(f"while-it-was-full-{number}")
            # Serve writes lines at once or when many have come; what it wrote has filled the file's last page.
            wait(lambda: any(is_cut(file) for file in logs.rglob("*")))
            disk.empty()
            wait(lambda: "log lines were lost: they could not be written (No space left on device)" in logged(logs))
            search("after-it-was-full")
            wait(lambda: "after-it-was-full" in logged(logs))
        assert "Logging error" not in logged(logs) + logged(folder)
        assert server.process.poll() is None
        assert server.errors() == ""


def test_a_server_looks_whether_it_can_write_before_it_starts_anything(tmp_path: Path, root: Path, disk: Disk) -> None:
    disk.leave(0)
    (tmp_path / "file").touch()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for option, folder in (("--log-dir", disk.folder / "logs"), ("--log-dir", tmp_path / "file" / "logs")):
        command = [sys.executable, "-m", "serve.run", f"--index={root}", "--reranker=none", f"{option}={folder}"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: no files can be written in {folder} (")
        assert done.stderr.endswith(f"; mend that, or set {option} to another folder\n")
        assert done.stderr.count("\n") == 1
