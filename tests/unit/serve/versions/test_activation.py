import asyncio
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from serve.versions.activation import PATIENCE_S, PREPARE_S, REFUSED_S, Activation
from serve.versions.liveness import BUSY_S
from shoal.errors import Conflict, CorruptIndex, DeadlineExceeded, EncoderMismatch, NotFound, Unavailable
from shoal.index_root import versions
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.serving.plan import ServingShape
from tests.support.indexes import damage, passages, publish


class FakeControl:
    """A shard whose replicas load what they are told to, unless `fails` holds an error for the version."""

    def __init__(self, log: list[str], now: Callable[[], float] = lambda: 0.0) -> None:
        self._now = now
        self.patience_s = 0.0
        self.loaded: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.tries = 0
        self.busy = False
        self.meanwhile: Callable[[], object] = lambda: None
        self._log = log

    async def prepare(self, version: str, deadline: float) -> None:
        self.tries += 1
        self.patience_s = deadline - self._now()
        await asyncio.sleep(0)
        self.meanwhile()
        if version in self.fails:
            raise self.fails[version]
        self.loaded.append(version)
        self._log.append(f"prepare {version}")

    async def retire(self, keep: Sequence[str], deadline: float) -> None:
        self.loaded = [version for version in self.loaded if version in keep]
        self._log.append(f"retire all but {' '.join(keep)}")

    async def holds(self, version: str, deadline: float) -> bool:
        if self.busy:
            raise DeadlineExceeded("shard-00000 had not answered")
        return version in self.loaded


@dataclass(eq=False)
class FakeServices:
    """Shards that serve versions of one shape."""

    shape: ServingShape
    shards: list[FakeControl]


class Server:
    """An activation over fake shards, and what it did, in order. `beside` are the other replicas that there are."""

    def __init__(self, root: Path, shards: int = 2, expected: Manifest | None = None) -> None:
        self.log: list[str] = []
        self.time = 1000.0
        self.storage = Storage(str(root))
        self.shards = [FakeControl(self.log, lambda: self.time) for _ in range(shards)]
        self.counts: list[int] = []
        self.beside: list[FakeServices] = []
        self.find: Callable[[], list[FakeServices]] = lambda: self.beside
        manifest = expected or versions.read_manifest(self.storage, versions.list_versions(self.storage)[0])
        services = FakeServices(ServingShape(manifest.encoder, shards), self.shards) if shards else None
        self.activation = Activation(self.storage, services, self._switch, self._find, lambda: self.time)

    def _switch(self, services: FakeServices, manifest: Manifest, absent: Sequence[int]) -> None:
        self.log.append(f"switch {manifest.version}" + "".join(f" without {shard}" for shard in absent))
        self.counts = [shard.count for shard in manifest.shards]
        self.shards = services.shards

    async def _find(self, shape: ServingShape, in_use: FakeServices | None) -> FakeServices | None:
        return next((services for services in self.find() if services.shape.fits(shape)), None)

    @property
    def current(self) -> str:
        current = versions.read_current(self.storage)
        assert current is not None
        return current.version


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path, "v1", passages(20))
    publish(tmp_path, "v2", passages(30), activate=False)
    return tmp_path


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
