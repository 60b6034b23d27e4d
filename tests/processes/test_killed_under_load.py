"""Processes are killed at any moment while clients write and read: no client sees what an index may not do.

The moments are counted in operations of the clients, and chosen by a seed; with SHOAL_LONG_TESTS=1 there are 40 of
them instead of one. tests/integration/faults/test_replicas_killed.py does it to a server on Ray.
"""

import os
import random
import signal
from pathlib import Path

import pytest

from tests.support.history_clients import writing_and_reading
from tests.support.history_process import kill_client
from tests.support.killing import SERVED, Compactions, check, written_root
from tests.support.long import LONG
from tests.support.servers import running

LOCAL_BLOWS = ("both", "compaction", "client")[: 3 if LONG else 1]
"""What is killed beside the server: a compaction with it, or a compaction or a client before it."""
LOCAL_SEEDS = range(8 if LONG else 1)
MOST_OPERATIONS = 60
"""Operations of clients between two blows, at most."""
PAUSE_S = 0.02
"""Seconds for which a client rests between two operations, so that servers have a share of the cores."""


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
                elif blow == "client":
                    kill_client(tmp_path, server.url, clients, chance.randint(1, MOST_OPERATIONS))
                if number == 0 or blow in ("compaction", None):  # one that was killed is gone on with
                    compactions.run(server.url)
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
