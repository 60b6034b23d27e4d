"""A server as a user starts it, `python -m serve.run`, with every process that comes of it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.marks import assert_none_is_left, marked, new_mark
from tests.support.serving import free_port

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
"""How long processes may take to come or to go. Nothing here is a goal: measured times are printed."""


@dataclass
class Server:
    """A running server. `mark` is in the environment of every process that comes of it, however far down."""

    process: "subprocess.Popen[str]"
    port: int
    mark: str
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self, line: str = "ready {}") -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == line.replace("{}", self.url) + "\n", self.errors()

    def errors(self) -> str:
        """What it said on stderr, but for what a busy machine makes it wait for."""
        lines = (self.folder / "stderr").read_text().splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("waiting: "))

    def temporary_folders(self) -> list[Path]:
        commands = " ".join(self.descendants().values())
        return [Path(folder) for folder in sorted(set(re.findall(r"/tmp/shoal-\w+", commands)))]

    def descendants(self) -> dict[int, str]:
        return marked(self.mark)

    def assert_nothing_is_left(self, within_s: float, but: str = "nothing") -> None:
        assert_none_is_left(self.mark, within_s, but)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", self.port))


def processes(server: Server, name: str) -> set[int]:
    """Processes of a server whose title begins so, as `ServeController`."""
    return {pid for pid, command in server.descendants().items() if command.startswith(f"ray::{name}")}


def replicas(server: Server, service: str, application: str = "shoal(-[0-9]+)?") -> set[int]:
    """Processes that are replicas of a service, such as `encoder`, in any application of the server or in one."""
    title = re.compile(f"ray::ServeReplica:{application}:{service}")
    return {pid for pid, command in server.descendants().items() if title.match(command)}


def wait(condition: Callable[[], Any]) -> None:
    """Wait until processes have come or gone."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.1)


@contextmanager
def running(folder: Path, root: Path | str | None, *options: str) -> Iterator[Server]:
    """Start a server, without an index for None; whatever happens, no process of it survives the block."""
    port, mark = free_port(), new_mark()
    # The server never asks a proxy for itself.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {mark: "1", "PYTHONPATH": str(ROOT), "http_proxy": "http://127.0.0.1:9"}
    environment.setdefault("SHOAL_COMPACT", "no")  # for those that ask for it
    index = () if root is None else ("--index", str(root))
    command = [sys.executable, "-m", "serve.run", *index, "--port", str(port), *options]
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    server = Server(process, port, mark, folder)
    try:
        yield server
    finally:
        for pid in server.descendants():
            os.kill(pid, signal.SIGKILL)
        process.wait()
