"""Two servers, and two compactions at once, over one index root: nothing is lost, and both see everything."""

import random
from pathlib import Path

import httpx
import pytest

from shoal.index_root.storage import Storage
from tests.support.history_clients import writing_and_reading
from tests.support.killing import SERVED, Compaction, check, current_version, problems_of, written_root
from tests.support.long import LONG, only_long
from tests.support.servers import Server, running, wait

ROUNDS = 3 if LONG else 1
OPTIONS = ("--local", *SERVED)
PAUSE_S = 0.2
"""Seconds for which clients of an index on S3 rest between two operations: its server computes in this process, too."""
WATCHED_S = 2.0
"""Seconds between two looks of a server at such an index: every 0.1 s, two of them leave it time for little else."""
NOT_FIRST = ("is published already", "has published", "was removed meanwhile", "run it again")
"""What a compaction may say that found another one at the same."""


@pytest.fixture(params=["folder", pytest.param("s3", marks=only_long)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    local = written_root(tmp_path)
    if request.param == "folder":
        return str(local)
    uri: str = request.getfixturevalue("s3_uri")
    request.getfixturevalue("monkeypatch").setenv("no_proxy", "127.0.0.1")  # servers have a proxy that is dead
    storage = Storage(uri)
    for path in sorted(local.rglob("*")):
        if path.is_file():
            storage.put(path, path.relative_to(local).as_posix())
    return uri


def test_two_servers_write_and_compact_one_root(root: str, tmp_path: Path) -> None:
    chance, is_remote = random.Random(0), root.startswith("s3:")
    options = (*OPTIONS, f"--watch-s={WATCHED_S}") if is_remote else OPTIONS
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    with running(folders[0], root, *options) as first, running(folders[1], root, *options) as second:
        for server in (first, second):
            server.wait_ready()
        with writing_and_reading(first.url, second.url, seed=2, pause_s=PAUSE_S if is_remote else 0.0) as clients:
            for _ in range(ROUNDS):
                clients.wait(chance.randint(1, 60))
                outcomes = [each.finish() for each in [Compaction(root), Compaction(root)]]
                assert any(code == 0 for code, _ in outcomes), outcomes
                assert all(code == 0 or any(part in said for part in NOT_FIRST) for code, said in outcomes), outcomes
                assert problems_of(root) == []
            clients.stop()
            clients.repeat(first.url)
            clients.repeat(second.url)
            for server in (first, second):
                wait(lambda server=server: serves(server, root))  # type: ignore[misc]
                clients.read_all(server.url)
    check(clients, root)


def serves(server: Server, root: str) -> bool:
    """Whether a server has the current version."""
    described = httpx.get(f"{server.url}/v1/index", timeout=60).json()
    return bool(described["version"] == current_version(root))
