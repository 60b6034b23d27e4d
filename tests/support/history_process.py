"""A client in a process of its own, which may be killed at any moment: what it saw up to then lies in a file.

`python -m tests.support.history_process URL NAME SEED FILE` writes and reads until it is killed.
"""

import math
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tests.support.history import Attempt, Change, Read
from tests.support.history_clients import Clients, Session
from tests.support.servers import wait

ROOT = Path(__file__).parents[2]


class ClientProcess:
    """A client that writes to a server and reads it.

    Args:
        folder: Where its file lies.
        url: Of the server.
        name: Of the client, which no other has.
        seed: Of what it does.
    """

    def __init__(self, folder: Path, url: str, name: str, seed: int) -> None:
        self._name = name
        self._file = folder / f"{name}.history"
        self._file.touch()
        command = [sys.executable, "-m", "tests.support.history_process", url, name, str(seed), str(self._file)]
        self._process = subprocess.Popen(command, cwd=ROOT)

    def kill_after(self, records: int) -> None:
        """SIGKILL it once it has noted so many requests and answers."""
        try:
            wait(lambda: len(list(self._records())) >= records)
        finally:
            self._process.kill()
            self._process.wait()

    def hand_over(self, clients: Clients) -> bool:
        """Give clients what it saw, and repeat what it had no answer to; returns whether there was something."""
        attempts, begun = list[Attempt](), None
        for record in self._records():
            if isinstance(record, Read):
                clients.history.reads.append(record)
            elif not isinstance(record, Attempt):
                clients.unexpected.append(record)
            elif record.ended == math.inf:
                begun = record
            else:
                attempts.append(record)
                begun = None
        attempts += [] if begun is None else [begun]
        clients.history.attempts += attempts
        last = attempts[-1] if attempts else None
        if last is None or last.answer is not None or last.refused:
            return False
        if last.keyed:
            Session(clients, f"{self._name} again", random.Random(0)).write_until_answered(last.key, last.changes)
        return True

    def _records(self) -> Iterator[Any]:
        with self._file.open("rb") as file:
            while True:
                try:
                    yield pickle.load(file)
                except (EOFError, pickle.UnpicklingError):  # the last one was not written whole
                    return


def kill_client(folder: Path, url: str, clients: Clients, records: int) -> None:
    """Start another client, and kill it once it has noted so many requests and answers; see `ClientProcess`."""
    client = ClientProcess(folder, url, "killed", records)
    client.kill_after(records)
    print("a client was killed", "within a request" if client.hand_over(clients) else "between two requests")


class _Notes(list[Any]):
    """Writes to a file what is appended to it."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def append(self, item: Any) -> None:
        pickle.dump(item, self._file)
        self._file.flush()


class _NotingSession(Session):
    """Notes that it sends a request before it does."""

    def attempt(self, url: str, key: str, changes: Mapping[str, Change], keyed: bool = True) -> Attempt:
        begun = Attempt(self.name, key, changes, time.monotonic(), math.inf, keyed=keyed)
        self._clients.history.attempts.append(begun)
        return super().attempt(url, key, changes, keyed)


def main() -> None:
    """Write and read until this is killed."""
    url, name, seed, path = sys.argv[1:]
    clients = Clients([url], 0)
    with Path(path).open("ab") as file:
        clients.history.attempts = clients.history.reads = clients.unexpected = _Notes(file)
        _NotingSession(clients, name, random.Random(f"{seed}-{name}")).run()


if __name__ == "__main__":
    main()
