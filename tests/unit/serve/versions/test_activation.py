"""Which version is served: activation, rollback, what is broken, which replicas."""

from dataclasses import asdict
from pathlib import Path

import pytest

from serve.versions.activation import PATIENCE_S, REFUSED_S
from serve.versions.liveness import BUSY_S
from shoal.errors import Conflict, CorruptIndex, EncoderMismatch, NotFound, Unavailable
from shoal.index_root import versions
from shoal.index_root.storage import Storage
from shoal.serving.plan import ServingShape
from tests.support.activation import FakeControl, FakeServices, Server
from tests.support.indexes import damage, passages, publish


async def test_the_first_look_loads_what_current_names(root: Path) -> None:
    server = Server(root)
    assert await server.activation.missing(0) == ["the index version is being loaded"]
    with pytest.raises(Unavailable, match="being loaded"):
        server.activation.describe(None)
    await server.activation.follow()
    assert server.log == ["prepare v1", "prepare v1", "switch v1", "retire all but v1", "retire all but v1"]
    assert sum(server.counts) == 20
    assert await server.activation.missing(0) == []
    assert asdict(server.activation.describe("overlap")) == {
        "version": "v1",
        "previous": None,
        "created_at": "2026-11-22T23:34:11+00:00",
        "passages": 20,
        "shards": 2,
        "dim": 64,
        "metric": "cosine",
        "fields": {"number": "integer"},
        "kind": "flat",
        "search": "",
        "recall_at_10": None,
        "curve": [],
        "modes": ["dense"],
        "late_interaction": "none",
        "models": {"encoder": "hashing:64", "reranker": "overlap"},
        "chunk_characters": None,
        "text_field": "text",
        "live": None,
        "problem": None,
    }


async def test_a_version_goes_live_only_after_every_shard_has_loaded_it(root: Path) -> None:
    server = Server(root)
    await server.activation.follow()
    server.log.clear()
    await server.activation.activate("v2")
    assert server.current == "v2"
    assert server.log == ["prepare v2", "prepare v2", "switch v2", "retire all but v2 v1", "retire all but v2 v1"]
    assert server.activation.describe(None).previous == "v1"


async def test_rollback_goes_to_the_previous_version_and_back(root: Path) -> None:
    server = Server(root)
    await server.activation.follow()
    with pytest.raises(Conflict, match="no previous version"):
        await server.activation.rollback()
    await server.activation.activate("v2")
    await server.activation.rollback()
    assert (server.current, server.activation.describe(None).previous) == ("v1", "v2")
    await server.activation.rollback()
    assert (server.current, server.activation.describe(None).previous) == ("v2", "v1")


async def test_a_rollback_makes_current_what_it_loaded_whatever_a_build_activates_meanwhile(root: Path) -> None:
    publish(root, "v3", passages(30), activate=False)
    server = Server(root)
    await server.activation.follow()
    await server.activation.activate("v2")
    server.shards[0].meanwhile = lambda: versions.activate(server.storage, "v3")
    await server.activation.rollback()
    assert (server.current, server.activation.describe(None).version) == ("v1", "v1")
    assert server.activation.describe(None).previous == "v3"


async def test_what_another_process_makes_current_is_followed(root: Path) -> None:
    server = Server(root)
    await server.activation.follow()
    versions.activate(server.storage, "v2")
    await server.activation.follow()
    assert server.activation.describe(None).version == "v2"
    server.log.clear()
    await server.activation.follow()
    assert server.log == []


async def test_a_version_that_a_shard_cannot_load_is_not_activated(root: Path) -> None:
    server = Server(root)
    await server.activation.follow()
    server.shards[1].fails["v2"] = CorruptIndex("vectors.faiss does not match")
    with pytest.raises(CorruptIndex, match=r"vectors\.faiss does not match"):
        await server.activation.activate("v2")
    assert server.current == server.activation.describe(None).version == "v1"


async def test_a_damaged_version_is_refused_even_if_the_shards_hold_it(root: Path) -> None:
    server = Server(root)
    await server.activation.follow()
    damage(root, "v2")
    with pytest.raises(CorruptIndex, match="version v2 is not activated"):
        await server.activation.activate("v2")
    assert server.current == server.activation.describe(None).version == "v1"


async def test_a_broken_current_leaves_the_old_version_serving_and_is_told(root: Path) -> None:
    server = Server(root)
    await server.activation.follow()
    server.shards[0].fails["v2"] = CorruptIndex("vectors.faiss does not match")
    versions.activate(server.storage, "v2")
    await server.activation.follow()
    described = server.activation.describe(None)
    assert described.version == "v1"
    assert described.problem == "v2 cannot be served: vectors.faiss does not match"
    assert await server.activation.missing(0) == []

    tries = server.shards[0].tries
    await server.activation.follow()
    assert server.shards[0].tries == tries, "verifying it again at every look would read the whole version each time"
    server.shards[0].fails.clear()
    server.time += REFUSED_S
    await server.activation.follow()
    assert (server.activation.describe(None).version, server.activation.describe(None).problem) == ("v2", None)


async def test_an_unreadable_current_is_a_problem_too(root: Path) -> None:
    server = Server(root)
    await server.activation.follow()
    (root / "CURRENT").write_text("{")
    await server.activation.follow()
    assert "CURRENT cannot be served" in server.activation.describe(None).problem
    assert server.activation.describe(None).version == "v1"


async def test_a_version_for_another_server_is_a_conflict(root: Path) -> None:
    publish(root, "v3", passages(30), shards=3, activate=False)
    other = publish(root, "v4", passages(30), encoder="hashing:32", activate=False)
    server = Server(root)
    await server.activation.follow()
    with pytest.raises(Conflict, match="version v3 has 3 shards and this server 2") as refused:
        await server.activation.activate("v3")
    assert "starts replicas for it beside these" in str(refused.value)
    with pytest.raises(EncoderMismatch) as mismatch:
        await server.activation.activate("v4")
    assert str(other.encoder) in str(mismatch.value)
    assert "hashing:64" in str(mismatch.value)
    with pytest.raises(NotFound, match="no published version v9"):
        await server.activation.activate("v9")
    assert server.current == "v1"


async def test_a_version_of_another_shape_is_served_as_soon_as_there_are_replicas_for_it(root: Path) -> None:
    wide = publish(root, "v3", passages(30), shards=3, activate=False)
    server = Server(root)
    await server.activation.follow()
    versions.activate(server.storage, "v3")
    await server.activation.follow()
    assert "v3 has 3 shards and this server 2" in server.activation.describe(None).problem
    assert server.activation.describe(None).version == "v1"
    narrow, other = server.shards, FakeServices(ServingShape.of(wide), [FakeControl(server.log) for _ in range(3)])
    server.beside.append(other)
    await server.activation.follow()  # at the next look, not only when a broken one would be tried again
    assert (server.activation.describe(None).version, server.activation.describe(None).problem) == ("v3", None)
    assert await server.activation.missing(0) == []
    assert [shard.loaded for shard in narrow] == [["v1"], ["v1"]], "rollback takes no loading"
    assert [shard.loaded for shard in other.shards] == [["v3"]] * 3
    server.beside[:] = [FakeServices(ServingShape(wide.encoder, 2), narrow)]
    await server.activation.rollback()
    assert (server.current, server.shards) == ("v1", narrow)


async def test_a_server_without_replicas_waits_for_them_and_takes_those_of_the_version_before_meanwhile(
    root: Path,
) -> None:
    first = versions.read_manifest(Storage(str(root)), "v1")
    publish(root, "v3", passages(30), shards=3)
    server = Server(root, shards=0)
    await server.activation.follow()
    assert "waits for replicas for 3 shards of hashing:64" in (await server.activation.missing(0))[0]
    with pytest.raises(Unavailable, match="waits for replicas"):
        server.activation.describe(None)
    server.beside.append(FakeServices(ServingShape.of(first), [FakeControl(server.log) for _ in range(2)]))
    await server.activation.follow()
    with pytest.raises(Unavailable, match="waits for replicas"):
        server.activation.describe(None)  # the other ingress replicas may serve v3
    server.time += PATIENCE_S + 1
    await server.activation.follow()
    assert server.activation.describe(None).version == "v1"
    assert "v3 cannot be served" in server.activation.describe(None).problem


async def test_what_a_shard_lacks_is_named(root: Path) -> None:
    server = Server(root)
    await server.activation.follow()
    server.shards[1].loaded.clear()
    assert await server.activation.missing(0) == ["shard 1 has not loaded version v1"]


async def test_a_shard_that_is_too_busy_to_answer_is_not_missing_until_it_is_silent_for_long(root: Path) -> None:
    server = Server(root)
    await server.activation.follow()
    server.shards[0].busy = True
    assert await server.activation.missing(0) == []
    server.time += BUSY_S
    assert await server.activation.missing(0) == ["shard-00000 had not answered"]
    server.shards[0].busy = False
    assert await server.activation.missing(0) == []


async def test_services_that_were_replaced_by_others_are_left(root: Path) -> None:
    publish(root, "v3", passages(30), shards=3)
    server = Server(root)
    shape = ServingShape.of(versions.read_manifest(server.storage, "v3"))
    blue, green = (FakeServices(shape, [FakeControl(server.log) for _ in range(3)]) for _ in range(2))
    server.beside.append(blue)
    await server.activation.follow()
    server.beside.append(green)
    await server.activation.follow()
    assert server.shards is blue.shards
    server.beside.remove(blue)
    await server.activation.follow()
    assert server.shards is green.shards
    assert [shard.loaded for shard in green.shards] == [["v3"]] * 3


async def test_shards_of_its_own_forget_what_neither_is_current_nor_was_before(root: Path) -> None:
    server = Server(root)
    own = server.shards
    await server.activation.follow()
    for version in ("v3", "v4"):
        manifest = publish(root, version, passages(30), shards=3)
        server.beside = server.beside or [
            FakeServices(ServingShape.of(manifest), [FakeControl(server.log) for _ in range(3)])
        ]
        await server.activation.follow()
    assert [shard.loaded for shard in own] == [[], []]
