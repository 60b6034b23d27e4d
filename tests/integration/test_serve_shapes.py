"""`shoal serve` under load while CURRENT goes to versions that its replicas cannot serve: another number of shards,
another encoder. Others start beside them, and no client notices but by the version it is told.

Starting so many replicas beside a load takes cores that nothing else keeps busy: it runs with SHOAL_LONG_TESTS=1 only.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shoal.index_root import versions
from shoal.index_root.storage import Storage
from tests.support.indexes import passages, publish
from tests.support.load import Load, asking
from tests.support.long import only_long
from tests.support.servers import Server, replicas, running, wait

pytestmark = only_long

COUNT = 200
# Starting replicas take the cores for seconds: whoever is late for that is not lost.
PATIENCE_MS = 20_000
OPTIONS = ("--reranker=none", "--ingress-replicas=2", "--watch-s=0.2", f"--shard-patience-ms={PATIENCE_MS}")
LIMITS = (f"--timeout-ms={PATIENCE_MS}", f"--max-timeout-ms={PATIENCE_MS}")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    for version, shards, encoder in (("v1", 2, "hashing:64"), ("v2", 3, "hashing:64"), ("v3", 3, "hashing:32")):
        content = passages(COUNT, marker=f"of-{version}")
        publish(folder, version, content, shards=shards, encoder=encoder, activate=version == "v1")
    return folder


@pytest.fixture(scope="module", params=[0, 1], ids=["inside", "beside"])
def replicas_each(request: pytest.FixtureRequest) -> int:
    """Replicas of the encoder and of each shard; 0 has those for the first version inside the endpoint."""
    count: int = request.param
    return count


@pytest.fixture(scope="module")
def server(root: Path, replicas_each: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    versions.activate(Storage(str(root)), "v1")
    own = (f"--encoder-replicas={replicas_each}", f"--retriever-replicas={replicas_each}")
    with running(tmp_path_factory.mktemp("server"), root, *OPTIONS, *LIMITS, *own) as server:
        server.wait_ready()
        yield server


def goes_to(server: Server, load: Load, version: str) -> None:
    """Wait until both ingress replicas answer from a version: until a hundred answers in a row do."""

    def settled() -> bool:
        if load.flaws:
            return True
        asked = len(load.seen)
        wait(lambda: len(load.seen) >= asked + 100 or load.flaws)
        return {one.version for one in load.seen[-100:]} == {version}

    wait(settled)
    assert load.flaws == []
    described = httpx.get(f"{server.url}/v1/index", timeout=60).json()
    assert (described["version"], described["problem"]) == (version, None)


def test_versions_of_other_shapes_go_live_without_an_error_or_a_mixed_answer(
    root: Path, server: Server, replicas_each: int
) -> None:
    storage = Storage(str(root))
    with asking(server.url, clients=2, pause_s=0) as load:
        for version in ("v2", "v3"):
            versions.activate(storage, version)
            goes_to(server, load, version)
        if replicas_each:  # nothing can return to v1 any more
            wait(lambda: not replicas(server, "", "shoal-1"))
        assert replicas(server, "", "shoal-2")
        response = httpx.post(f"{server.url}/v1/index/rollback", json={}, timeout=60)
        assert response.status_code == 200, response.text
        goes_to(server, load, "v2")
        versions.activate(storage, "v1")
        goes_to(server, load, "v1")
    print(f"{len(load.seen)} answers: {dict(load.versions)}, the slowest {max(one.seconds for one in load.seen):.2f} s")
    assert load.flaws == []
    assert load.versions.keys() == {"v1", "v2", "v3"}
    assert httpx.get(f"{server.url}/readyz", timeout=60).status_code == 200


def test_an_endpoint_that_starts_again_finds_what_serves_the_version(root: Path, server: Server) -> None:
    """Both of its replicas are killed, and CURRENT has a shape that the server was not started with."""
    versions.activate(Storage(str(root)), "v2")
    with asking(server.url, clients=2, pause_s=0) as load:
        goes_to(server, load, "v2")
    for pid in replicas(server, "ingress"):
        os.kill(pid, signal.SIGKILL)
    wait(lambda: ready(server))
    assert httpx.get(f"{server.url}/v1/index", timeout=60).json()["version"] == "v2"


def ready(server: Server) -> bool:
    try:
        return httpx.get(f"{server.url}/readyz", timeout=60).status_code == 200
    except httpx.TransportError:
        return False
