"""The child process that compacts for a server: what it says, its priority, and that it never outlives the server."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from serve.versions.compacting import ChildCompaction
from tests.support.servers import wait
from tests.support.written import Root


def test_a_child_compacts_and_its_lines_are_heard(tmp_path: Path) -> None:
    root, lines = Root(tmp_path), list[str]()
    root.write([{"id": "a", "text": "one"}])
    child = ChildCompaction(["--index", root.storage.uri, "--if-due", "--due-rows=1"], lines.append)
    wait(lambda: child.outcome() is not None)
    assert child.outcome() == 0
    assert "holds all that was written up to position 1" in child.last_line()
    assert lines[-1] == child.last_line()


def test_one_that_fails_says_why(tmp_path: Path) -> None:
    child = ChildCompaction(["--index", str(tmp_path / "nothing")], lambda line: None)
    wait(lambda: child.outcome() is not None)
    assert child.outcome() == 2
    assert "nothing" in child.last_line()


def test_it_is_gone_when_it_was_ended_or_its_server_was_killed(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    os.mkfifo(tmp_path / "index" / "CURRENT")  # which it reads in vain, for ever
    arguments = ["--index", str(tmp_path / "index")]
    child = ChildCompaction(arguments, lambda line: None)
    child.end()
    assert child.outcome() == -signal.SIGKILL
    program = (
        "import sys; from serve.versions.compacting import ChildCompaction as C; "
        "c = C(sys.argv[1:], print); print(c._process.pid, flush=True); sys.stdin.read()"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    pid = int(server.stdout.readline())
    wait(lambda: "\nThreads:\t1\n" not in Path(f"/proc/{pid}/status").read_text())  # it has begun to watch
    assert os.getpriority(os.PRIO_PROCESS, pid) >= min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)
    server.kill()
    server.communicate()
    wait(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    """Whether a process runs, and is not merely waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
