"""Processes of a server on Ray are killed at any moment while clients write and read: no client sees what may not be.

tests/processes/test_killed_under_load.py does it to servers without Ray and to compactions. Here are 16 moments.
"""

import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.history_clients import writing_and_reading
from tests.support.history_process import kill_client
from tests.support.killing import SERVED, Compactions, check, written_root
from tests.support.long import only_long
from tests.support.servers import Server, replicas, running, wait

pytestmark = only_long

BLOWS = ("ingress", "shard-00001", "client", "compaction", "shard-00000", "encoder", "ingress")
SEEDS = range(2)
PROCESSES = ("--encoder-replicas=1", "--retriever-replicas=1")
"""Options that give the encoder and each shard a process of its own."""
MOST_OPERATIONS = 60
"""Operations of clients between two blows, at most."""
PAUSE_S = 0.02
"""Seconds for which a client rests between two operations, so that servers have a share of the cores."""


@pytest.mark.parametrize("seed", SEEDS)
def test_replicas_of_a_server_on_ray_are_killed_under_writes(tmp_path: Path, seed: int) -> None:
    root, chance = written_root(tmp_path), random.Random(seed)
    with running(tmp_path, root, *SERVED, *PROCESSES) as server:
        server.wait_ready()
        with writing_and_reading(server.url, seed=seed, pause_s=PAUSE_S) as clients:
            compactions = Compactions(root, clients, chance)
            for blow in BLOWS:
                clients.wait(chance.randint(1, MOST_OPERATIONS))
                if blow == "compaction":
                    compactions.kill()
                    compactions.run(server.url)
                elif blow == "client":
                    kill_client(tmp_path, server.url, clients, chance.randint(1, MOST_OPERATIONS))
                else:
                    strike(server, blow)
            clients.end(server.url)
    check(clients, root, one_replica=True)


def strike(server: Server, service: str) -> None:
    """Kill the only replica of a service, and wait for another one."""
    wait(lambda: len(replicas(server, service)) == 1)  # one that was replaced may be about to end
    (victim,) = replicas(server, service)
    os.kill(victim, signal.SIGKILL)
    wait(lambda: replicas(server, service) - {victim})


def test_a_server_on_ray_is_killed_as_a_whole_under_writes(tmp_path: Path) -> None:
    root, chance = written_root(tmp_path), random.Random(1)
    with writing_and_reading(seed=1, pause_s=PAUSE_S) as clients:
        for is_last in (False, False, True):
            with running(tmp_path, root, *SERVED) as server:
                server.wait_ready()
                clients.turn_to(server.url)
                clients.wait(chance.randint(1, MOST_OPERATIONS))
                if is_last:
                    clients.end(server.url)
                    break
                for process in server.descendants():
                    with suppress(ProcessLookupError):  # some end when others do
                        os.kill(process, signal.SIGKILL)
                clients.turn_to()
    check(clients, root, one_replica=True)
