"""Index versions on a real local Serve: they change under load, and no query notices but by the version it is told."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shoal.index_root import layout, versions
from shoal.index_root.storage import Storage
from tests.support.indexes import damage, passages, publish
from tests.support.load import asking
from tests.support.long import LONG
from tests.support.serving import local_ray, serving

COUNT = 200
SWAPS = 100 if LONG else 20
WATCH_S = 0.2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index root whose versions v1 to v4 have a word of their own in every passage; v1 is current."""
    folder = tmp_path_factory.mktemp("index")
    for number in (1, 2, 3, 4):
        publish(folder, f"v{number}", passages(COUNT, marker=f"of-v{number}"), activate=number == 1)
    publish(folder, "v5-three-shards", passages(COUNT), shards=3, activate=False)
    publish(folder, "v6-other-encoder", passages(COUNT), encoder="hashing:32", activate=False)
    return folder


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[httpx.Client]:
    settings = {"reranker": "none", "retriever_replicas": 2, "ingress_replicas": 2, "watch_s": WATCH_S}
    with local_ray(), serving(root, **settings) as client:
        yield client


def eventually(client: httpx.Client, version: str, times: int = 10) -> None:
    """Wait until both ingress replicas serve a version: until it is named many times in a row."""
    deadline, seen = time.monotonic() + 60, 0
    while seen < times:
        described = client.get("/v1/index").json()
        seen = seen + 1 if described["version"] == version else 0
        assert time.monotonic() < deadline, described
        time.sleep(WATCH_S / 10)


def activate(client: httpx.Client, version: str) -> dict[str, Any]:
    response = client.post("/v1/index/activate", json={"version": version})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def test_versions_change_under_load_without_an_error_or_a_mixed_answer(root: Path, server: httpx.Client) -> None:
    with asking(server.base_url, pause_s=0) as load:
        described = activate(server, "v2")
        assert (described["version"], described["previous"]) == ("v2", "v1")
        eventually(server, "v2")
        # A build publishes and activates without asking the server.
        versions.activate(Storage(str(root)), "v3")
        eventually(server, "v3")
        response = server.post("/v1/index/rollback", json={})
        assert (response.json()["version"], response.json()["previous"]) == ("v2", "v3")
        eventually(server, "v2")
    assert load.flaws == []
    assert load.versions.keys() >= {"v2", "v3"}
    current = versions.read_current(Storage(str(root)))
    assert current is not None
    assert current.version == "v2"


def test_versions_swapped_many_times_under_load_fail_and_mix_nothing(root: Path, server: httpx.Client) -> None:
    with asking(server.base_url, pause_s=0) as load:
        for number in range(SWAPS):
            activate(server, ("v3", "v2")[number % 2])
    print(f"{SWAPS} swaps, {len(load.seen)} answers: {dict(load.versions)}")
    assert load.flaws == []
    assert load.versions.keys() == {"v2", "v3"}
    eventually(server, "v2")


def test_a_version_whose_folder_is_removed_is_served_on(root: Path, tmp_path: Path, server: httpx.Client) -> None:
    version = server.get("/v1/index").json()["version"]
    folder = root / layout.version_dir(version)
    with asking(server.base_url, pause_s=0) as load:
        shutil.move(folder, tmp_path / "removed")
        seen = len(load.seen)
        deadline = time.monotonic() + 60
        while len(load.seen) < seen + 50 and not load.flaws:
            assert time.monotonic() < deadline
            time.sleep(WATCH_S)
    shutil.move(tmp_path / "removed", folder)
    assert load.flaws == []
    assert set(load.versions) == {version}


@pytest.mark.parametrize("how", ["cut off", "emptied", "removed"])
def test_a_version_that_lost_data_is_not_activated(how: str, root: Path, server: httpx.Client) -> None:
    before = server.get("/v1/index").json()["version"]
    file = root / layout.shard_dir("v4", 0) / layout.PASSAGES
    content = file.read_bytes()
    if how == "removed":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2 if how == "cut off" else 0])
    with asking(server.base_url, pause_s=0) as load:
        response = server.post("/v1/index/activate", json={"version": "v4"})
    file.write_bytes(content)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "CORRUPT_INDEX")
    assert str(file) in response.json()["message"]
    assert load.flaws == []
    assert server.get("/v1/index").json()["version"] == before


def test_a_version_that_does_not_fit_is_refused_with_the_reason(root: Path, server: httpx.Client) -> None:
    before = server.get("/v1/index").json()["version"]
    damaged = damage(root, "v4", shard=1)
    for version, code, words in (
        ("v4", "CORRUPT_INDEX", str(damaged)),
        ("v5-three-shards", "CONFLICT", "has 3 shards and this server 2"),
        ("v6-other-encoder", "ENCODER_MISMATCH", "hashing:32"),
    ):
        response = server.post("/v1/index/activate", json={"version": version})
        assert response.status_code == 409
        assert response.json()["error"]["code"] == code
        assert words in response.json()["message"]
    damage(root, "v4", shard=1)  # the same byte again: it is whole now
    described = server.get("/v1/index").json()
    assert (described["version"], described["problem"]) == (before, None)


def test_a_broken_current_is_told_while_the_old_version_is_served(root: Path, server: httpx.Client) -> None:
    storage = Storage(str(root))
    before = server.get("/v1/index").json()["version"]
    with asking(server.base_url, pause_s=0) as load:
        # Current is a version that nobody has loaded any more and whose manifest does not verify.
        manifest = root / layout.manifest("v1")
        manifest.write_bytes(manifest.read_bytes().replace(b'"cosine"', b'"cosinE"'))
        storage.write(
            layout.CURRENT, b'{"version": "v1", "previous": null, "activated_at": "2026-11-22T23:34:11+00:00"}'
        )
        deadline = time.monotonic() + 60
        while not (problem := server.get("/v1/index").json()["problem"]) or not load.versions:
            assert time.monotonic() < deadline
            time.sleep(WATCH_S)
    assert "v1 cannot be served" in problem
    assert load.flaws == []
    assert set(load.versions) == {before}
    assert server.get("/readyz").status_code == 200
    activate(server, "v3")
    eventually(server, "v3")
    assert server.get("/v1/index").json()["problem"] is None
