"""What a server serves that starts: on a broken version, without all shards, or before its replicas."""

import asyncio
import shutil
from pathlib import Path

import pytest

from serve.versions.activation import PATIENCE_S, PREPARE_S, REFUSED_S
from shoal.errors import CorruptIndex, DeadlineExceeded, Unavailable
from shoal.index_root import versions
from shoal.index_root.storage import Storage
from shoal.serving.plan import ServingShape
from tests.support.activation import FakeControl, FakeServices, Server
from tests.support.indexes import passages, publish


async def test_a_server_that_starts_on_a_broken_current_serves_the_version_before_it(root: Path) -> None:
    versions.activate(Storage(str(root)), "v2")
    server = Server(root)
    server.shards[0].fails["v2"] = CorruptIndex("damaged")
    await server.activation.follow()
    assert server.activation.describe(None).version == "v1"
    assert server.activation.describe(None).problem == "v2 cannot be served: damaged"


async def test_whatever_keeps_the_version_before_from_being_served_current_is_followed_on(root: Path) -> None:
    versions.activate(Storage(str(root)), "v2")
    server = Server(root)
    server.shards[0].fails = {"v2": CorruptIndex("damaged"), "v1": MemoryError("no memory for v1")}
    await server.activation.follow()
    assert await server.activation.missing(0) == [
        "v2 cannot be served: damaged; nor can the version before it: no memory for v1"
    ]
    server.shards[0].fails.clear()
    server.time += REFUSED_S
    await server.activation.follow()
    assert server.activation.describe(None).version == "v2"


async def test_the_version_before_a_broken_one_is_served_as_soon_as_its_shards_are_there(root: Path) -> None:
    versions.activate(Storage(str(root)), "v2")
    server = Server(root)
    server.shards[0].fails = {"v2": CorruptIndex("damaged")}
    server.shards[1].fails = {"v1": Unavailable("shard 1 has no replica")}
    await server.activation.follow()
    assert "nor can the version before it: shard 1 has no replica" in (await server.activation.missing(0))[0]
    server.shards[1].fails.clear()
    await server.activation.follow()
    assert server.activation.describe(None).version == "v1"
    assert server.activation.describe(None).problem == "v2 cannot be served: damaged"
    assert server.shards[0].tries == 3, "the broken one was not read again"


async def test_a_server_that_starts_on_a_broken_current_takes_it_from_no_other(root: Path) -> None:
    manifest = versions.read_manifest(Storage(str(root)), "v2")
    versions.activate(Storage(str(root)), "v2")
    first, second = Server(root, shards=0), Server(root, shards=0)
    shared = FakeServices(ServingShape.of(manifest), [FakeControl([]) for _ in range(2)])
    first.beside = second.beside = [shared]
    await first.activation.follow()
    shutil.rmtree(root / "versions" / "v2")
    await second.activation.follow()
    assert second.activation.describe(None).version == "v1"
    assert first.activation.describe(None).version == "v2"
    assert await first.activation.missing(0) == []


async def test_replicas_that_are_still_starting_are_waited_for(root: Path) -> None:
    versions.activate(Storage(str(root)), "v2")
    server = Server(root)
    server.shards[0].fails["v2"] = Unavailable("shard 0 has no replica")
    await server.activation.follow()
    assert await server.activation.missing(0) == ["v2 cannot be served: shard 0 has no replica"]
    server.shards[0].fails.clear()
    await server.activation.follow()
    assert await server.activation.missing(0) == []


async def test_a_server_that_starts_while_a_shard_is_gone_makes_do_with_the_others(root: Path) -> None:
    server = Server(root)
    server.shards[1].fails["v1"] = Unavailable("shard 1 has no replica")
    await server.activation.follow()
    with pytest.raises(Unavailable, match="shard 1 has no replica"):
        server.activation.describe(None)
    server.time += PATIENCE_S + 1
    await server.activation.follow()
    assert (server.activation.describe(None).version, server.activation.describe(None).problem) == ("v1", None)
    assert "switch v1 without 1" in server.log
    assert await server.activation.missing(0) == ["shard 1 has not loaded version v1"]


async def test_services_that_start_late_serve_the_current_version_and_not_the_one_before_it(root: Path) -> None:
    versions.activate(Storage(str(root)), "v2")
    manifest = versions.read_manifest(Storage(str(root)), "v2")
    server = Server(root, shards=0)
    await server.activation.follow()
    server.time += PATIENCE_S + 1
    late = FakeServices(ServingShape.of(manifest), [FakeControl(server.log) for _ in range(2)])
    looks: list[list[FakeServices]] = [[], [late]]  # they are there when the version before would be looked for
    server.find = lambda: looks.pop(0) if looks else [late]
    await server.activation.follow()
    with pytest.raises(Unavailable, match="waits for replicas"):
        server.activation.describe(None)
    await server.activation.follow()
    assert server.activation.describe(None).version == "v2"


async def test_a_server_that_fell_back_takes_the_current_version_without_a_shard_too(root: Path) -> None:
    wide = publish(root, "v3", passages(30), shards=3)
    server = Server(root)
    await server.activation.follow()
    server.time += PATIENCE_S + 1
    await server.activation.follow()
    assert server.activation.describe(None).version == "v1"
    services = FakeServices(ServingShape.of(wide), [FakeControl(server.log) for _ in range(3)])
    services.shards[2].fails["v3"] = Unavailable("shard 2 has no replica")
    server.beside.append(services)
    await server.activation.follow()
    assert server.activation.describe(None).version == "v3"
    assert "switch v3 without 2" in server.log


async def test_a_server_that_starts_does_not_wait_for_a_shard_that_hangs(root: Path) -> None:
    server = Server(root)
    await server.activation.follow()
    assert server.shards[0].patience_s == pytest.approx(PATIENCE_S)
    await server.activation.activate("v2")
    assert server.shards[0].patience_s == pytest.approx(PREPARE_S), "loading may take long"
    idle = Server(root)
    idle.time += PATIENCE_S
    idle.shards[0].fails["v2"] = Unavailable("shard 0 has no replica")
    await idle.activation.follow()
    idle.shards[0].fails.clear()
    await idle.activation.activate("v2")
    assert idle.shards[0].patience_s == pytest.approx(PREPARE_S), "who asks for a version waits for it"
    other = Server(root)
    other.shards[1].fails["v2"] = DeadlineExceeded("shard 1 has not answered in time")
    await other.activation.follow()
    other.time += PATIENCE_S + 1
    await other.activation.follow()
    assert "switch v2 without 1" in other.log
    assert other.shards[0].patience_s == pytest.approx(1)


async def test_what_is_broken_counts_more_than_what_does_not_answer(root: Path) -> None:
    versions.activate(Storage(str(root)), "v2")
    server = Server(root)
    server.shards[0].fails["v2"] = Unavailable("shard 0 has no replica")
    server.shards[1].fails["v2"] = CorruptIndex("damaged")
    await server.activation.follow()
    assert server.activation.describe(None).problem == "v2 cannot be served: damaged"


@pytest.mark.parametrize(
    "fails", [[Unavailable("gone"), Unavailable("gone")], [Unavailable("gone"), MemoryError("none is left")]]
)
async def test_but_not_with_none_at_all_nor_with_one_that_fails(root: Path, fails: list[Exception]) -> None:
    server = Server(root)
    for shard, error in zip(server.shards, fails, strict=True):
        shard.fails["v1"] = error
    await server.activation.follow()
    server.time += PATIENCE_S + 1
    await server.activation.follow()
    with pytest.raises(Unavailable, match="v1 cannot be served"):
        server.activation.describe(None)


async def test_searches_wait_for_a_server_that_starts_until_it_serves_or_has_waited(root: Path) -> None:
    server = Server(root)
    server.shards[1].fails["v1"] = Unavailable("shard 1 has no replica")
    server.shards[0].fails["v1"] = Unavailable("shard 0 has no replica")
    twice = asyncio.Event()
    server.shards[0].meanwhile = lambda: twice.set() if server.shards[0].tries > 1 else None
    watch = asyncio.create_task(server.activation.watch(0.001))
    await twice.wait()
    assert not server.activation.settled.is_set()
    server.time += PATIENCE_S + 1
    await server.activation.settled.wait()
    watch.cancel()
    other = Server(root)
    watch = asyncio.create_task(other.activation.watch(0.001))
    await other.activation.settled.wait()
    watch.cancel()
    assert "switch v1" in other.log
