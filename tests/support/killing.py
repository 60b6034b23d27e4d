"""An index that clients write and read while processes of it are killed, and what has to be true afterwards."""

import os
import random
import subprocess
import sys
from pathlib import Path

import httpx

from shoal.index_root import versions
from shoal.index_root.log import Log
from shoal.index_root.storage import Storage
from shoal.settings import LexicalSettings
from tests.support.history import entries_of
from tests.support.history_checker import Checker
from tests.support.history_clients import Clients, initial
from tests.support.indexes import passages, publish
from tests.support.servers import wait

ROOT = Path(__file__).parents[2]
ENDED_S = 600.0
"""Seconds within which a compaction ends; nothing here is a goal. On S3 it takes some 600 requests."""
SERVED = ("--reranker=none", "--watch-s=0.1")
"""Options of every server."""


def written_root(folder: Path) -> Path:
    """An index of which half of the registers are built, and other passages beside them."""
    publish(folder / "index", "v1", [*passages(20), *initial()], lexical=LexicalSettings(), writable=True)
    return folder / "index"


class Compaction:
    """One `shoal compact` in a process of its own."""

    def __init__(self, root: Path | str) -> None:
        command = [sys.executable, "-c", "from shoal.cli.main import main; main()", "compact", "--index", str(root)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def kill(self) -> None:
        """SIGKILL it, unless it has ended."""
        self.process.kill()
        self.process.communicate()

    def finish(self) -> tuple[int, str]:
        """Wait for its end; returns its exit code, and what it said."""
        said, _ = self.process.communicate(timeout=ENDED_S)
        return self.process.returncode, said


def problems_of(root: Path | str) -> list[str]:
    """What is wrong with the published versions of an index root."""
    storage = Storage(str(root))
    return [problem for name in versions.list_versions(storage) for problem in versions.verify(storage, name)]


def current_version(root: Path | str) -> str:
    """The version that is current."""
    current = versions.read_current(Storage(str(root)))
    assert current is not None
    return current.version


class Compactions:
    """Compactions of an index, killed or not, and how long one takes in operations of the clients."""

    def __init__(self, root: Path | str, clients: Clients, chance: random.Random) -> None:
        self._root = root
        self._clients = clients
        self._chance = chance
        self._operations = 0

    def run(self, url: str) -> None:
        """Run one to its end, until a server has its version."""
        begun = self._clients.done
        code, said = Compaction(self._root).finish()
        assert code == 0, said
        self._operations = self._clients.done - begun
        assert problems_of(self._root) == []
        wait(lambda: self._is_served(url))

    def begin(self) -> Compaction:
        """Begin one, and wait for any moment within it."""
        started = Compaction(self._root)
        self._clients.wait(self._chance.randint(1, max(1, self._operations)))
        return started

    def kill(self) -> None:
        """Kill one at any moment."""
        self.begin().kill()
        assert problems_of(self._root) == []

    def _is_served(self, url: str) -> bool:
        described = httpx.get(f"{url}/v1/index", timeout=60)
        return described.status_code == 200 and described.json()["version"] == current_version(self._root)


def check(clients: Clients, root: Path | str, *, within_s: float | None = None, one_replica: bool = False) -> None:
    """Check what clients saw, and that the index is whole; prints what that was."""
    assert not clients.unexpected, "\n".join(clients.unexpected)
    problems = problems_of(root)
    assert not problems, "\n".join(problems)
    checker = Checker(clients.history, entries_of(Log.open(str(root)).read(0)))
    checker.check_attempts()
    checker.check_reads(within_s, one_replica)
    answered = sum(attempt.answer is not None for attempt in clients.history.attempts)
    print(
        f"{len(checker.log)} entries, {len(clients.history.attempts)} attempts, {answered} answered, at most "
        f"{clients.most_attempts} of one request; {len(clients.history.reads)} answers to reads, {clients.incomplete} "
        f"incomplete, at most {max(0.0, checker.latest()):.2f} s behind what was acknowledged"
    )
    assert not checker.faults, "\n".join(checker.faults)
    assert len(checker.log) > 20, "nearly nothing was written"
