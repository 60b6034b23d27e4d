"""Processes are killed at any moment while clients write and read: no client sees what an index may not do.

The moments are counted in operations of the clients, and chosen by a seed; with SHOAL_LONG_TESTS=1 there are
sixteen times as many. tests/integration/faults/test_replicas_killed.py does it to replicas of a server on Ray.
"""

import os
import random
import signal
from pathlib import Path

import httpx
import pytest

from tests.support.history_clients import Clients, writing_and_reading
from tests.support.killing import SERVED, Compaction, check, current_version, problems_of, written_root
from tests.support.long import LONG
from tests.support.servers import Server, running, wait

LOCAL_BLOWS = ("both", "compaction", "server")[: 3 if LONG else 1]
LOCAL_SEEDS = range(8 if LONG else 1)
MOST_OPERATIONS = 60
"""Operations of clients between two blows, at most."""
PAUSE_S = 0.02
"""Seconds for which a client rests between two operations, so that servers have a share of the cores."""


class Compactions:
    """Compactions of an index, killed or not, and how long one takes in operations of the clients."""

    def __init__(self, root: Path, clients: Clients, chance: random.Random) -> None:
        self._root = root
        self._clients = clients
        self._chance = chance
        self._operations = 0

    def run(self, server: Server) -> None:
        """Run one to its end, until the server has its version."""
        begun = self._clients.done
        code, said = Compaction(self._root).finish()
        assert code == 0, said
        self._operations = self._clients.done - begun
        assert problems_of(self._root) == []
        wait(lambda: self._is_served(server))

    def begin(self) -> Compaction:
        """Begin one, and wait for any moment within it."""
        started = Compaction(self._root)
        self._clients.wait(self._chance.randint(1, max(1, self._operations)))
        return started

    def kill(self) -> None:
        """Kill one at any moment."""
        self.begin().kill()
        assert problems_of(self._root) == []

    def _is_served(self, server: Server) -> bool:
        described = httpx.get(f"{server.url}/v1/index", timeout=60)
        return described.status_code == 200 and described.json()["version"] == current_version(self._root)


@pytest.mark.parametrize("seed", LOCAL_SEEDS)
def test_a_local_server_and_compactions_are_killed_under_writes(tmp_path: Path, seed: int) -> None:
    root, chance = written_root(tmp_path), random.Random(seed)
    with writing_and_reading(seed=seed, pause_s=PAUSE_S) as clients:
        compactions = Compactions(root, clients, chance)
        for number, blow in enumerate([*LOCAL_BLOWS, None]):
            with running(tmp_path, root, "--local", *SERVED) as server:
                server.wait_ready()
                clients.turn_to(server.url)
                if blow == "compaction":
                    compactions.kill()
                if number == 0 or blow in ("compaction", None):  # one that was killed is gone on with
                    compactions.run(server)
                if blow is None:
                    clients.end(server.url)
                    break
                clients.wait(chance.randint(1, MOST_OPERATIONS))
                begun = compactions.begin() if blow == "both" else None
                os.kill(server.process.pid, signal.SIGKILL)
                clients.turn_to()
                if begun is not None:
                    begun.kill()
    check(clients, root, one_replica=True)
