"""Replicas of a server on Ray are killed at any moment while clients write and read: no client sees what may not be.

tests/processes/test_killed_under_load.py does it to servers without Ray and to compactions.
"""

import os
import random
import signal
from pathlib import Path

from tests.support.history_clients import writing_and_reading
from tests.support.killing import SERVED, check, written_root
from tests.support.long import only_long
from tests.support.servers import Server, replicas, running, wait

BLOWS = ("ingress", "shard-00001")
PROCESSES = ("--encoder-replicas=1", "--retriever-replicas=1")
"""Options that give the encoder and each shard a process of its own."""
MOST_OPERATIONS = 60
"""Operations of clients between two blows, at most."""
PAUSE_S = 0.02
"""Seconds for which a client rests between two operations, so that servers have a share of the cores."""


@only_long
def test_replicas_of_a_server_on_ray_are_killed_under_writes(tmp_path: Path) -> None:
    root, chance = written_root(tmp_path), random.Random(0)
    with running(tmp_path, root, *SERVED, *PROCESSES) as server:
        server.wait_ready()
        with writing_and_reading(server.url, pause_s=PAUSE_S) as clients:
            for service in BLOWS:
                clients.wait(chance.randint(1, MOST_OPERATIONS))
                strike(server, service)
            clients.end(server.url)
    check(clients, root, one_replica=True)


def strike(server: Server, service: str) -> None:
    """Kill a replica, and wait for another one."""
    (victim,) = replicas(server, service)
    os.kill(victim, signal.SIGKILL)
    wait(lambda: replicas(server, service) - {victim})
