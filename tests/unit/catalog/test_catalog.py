"""Several indexes in one process: when each is loaded and unloaded, and what they share."""

import asyncio
import shutil
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shoal.catalog.catalog import LOADS_AT_ONCE, RETRY_S, Catalog
from shoal.catalog.entry import IndexEntry, expected_bytes
from shoal.catalog.index import CatalogIndex
from shoal.engine.engine import LocalEngine
from shoal.errors import CorruptIndex, DeadlineExceeded, InvalidArgument, NotFound, Overloaded
from shoal.index_root import layout
from shoal.indexing.empty import create_index
from shoal.settings import CatalogSettings, CreateSettings, ServeSettings
from tests.support.catalogs import loaded, request, soon
from tests.support.indexes import passages, publish


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Opening(LocalEngine):
    """Counts how often an engine is opened, and waits for leave to be."""

    opened = 0
    leave: asyncio.Event | None = None

    async def open(self) -> None:
        type(self).opened += 1
        if self.leave is not None:
            await self.leave.wait()
        await super().open()


@asynccontextmanager
async def opened(folder: Path, *given: Path, clock: Clock | None = None, **limits: Any) -> AsyncIterator[Catalog]:
    class Engine(Opening):
        pass

    settings = ServeSettings(index="unused", reranker="overlap")
    catalog = Catalog(
        settings,
        CatalogSettings(catalog=str(folder), **limits),
        [str(root) for root in given],
        new_engine=lambda settings, models: Engine(settings, models=models),
        clock=clock or Clock(),
    )
    catalog.engines = Engine  # type: ignore[attr-defined]
    await catalog.open()
    try:
        yield catalog
    finally:
        catalog.close()


async def search(catalog: Catalog, name: str) -> str:
    async with CatalogIndex(catalog, name).use(soon()) as engine:
        (answer,) = await engine.search([request(f"{name} number n7")])
    return answer.results[0].passage.text


async def until_room_is_wanted(catalog: Catalog) -> None:
    """Wait until a load has looked for room, and waits for what is released."""
    wanted = asyncio.Event()

    class Released(asyncio.Event):
        async def wait(self) -> Any:
            wanted.set()
            return await super().wait()

    catalog._released = Released()
    await wanted.wait()


async def test_an_index_is_loaded_when_it_is_asked_for_and_answers_by_its_own_passages(folder: Path) -> None:
    async with opened(folder) as catalog:
        assert loaded(catalog) == []
        assert (await search(catalog, "fish")).endswith("fish")
        assert (await search(catalog, "birds")).endswith("birds")
        assert loaded(catalog) == ["birds", "fish"]
        assert catalog.default is None


async def test_many_who_ask_at_once_load_it_once(folder: Path) -> None:
    async with opened(folder) as catalog:
        answers = await asyncio.gather(*(search(catalog, "fish") for _ in range(20)))
        assert len(set(answers)) == 1
        assert catalog.engines.opened == 1  # type: ignore[attr-defined]


async def test_what_is_not_there_is_not_found_and_leaves_nothing_behind(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "linked").symlink_to(folder / "fish")
    publish(folder / "Upper", "v1", passages(3), shards=1)
    async with opened(folder) as catalog:
        for name in ("nothing", "empty", "linked", "Upper", "..", "fish/../birds", "", "fish\n"):
            with pytest.raises(NotFound, match="there is no index"):
                await search(catalog, name)
            assert not await catalog.holds(name)
        assert catalog.entries == {}


async def test_indexes_given_by_their_roots_are_loaded_at_once_and_stay(folder: Path, tmp_path: Path) -> None:
    publish(tmp_path / "My Articles", "v1", passages(20, "my-articles"), shards=1)
    clock = Clock()
    async with opened(folder, tmp_path / "My Articles", folder / "fish", clock=clock, catalog_idle_s=10) as catalog:
        assert catalog.default == "my-articles"
        assert loaded(catalog) == ["fish", "my-articles"]
        assert (await search(catalog, "my-articles")).endswith("my-articles")
        clock.now += 1000
        await catalog.sweep()
        assert loaded(catalog) == ["fish", "my-articles"]
        assert catalog.memory_bytes() == 0


def test_two_roots_with_one_name_are_refused(folder: Path) -> None:
    with pytest.raises(InvalidArgument, match="would both be the index 'fish'"):
        Catalog(ServeSettings(index="x"), CatalogSettings(), [str(folder / "fish"), str(folder / "other" / "Fish")])


async def test_a_catalog_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="--catalog"):
        async with opened(tmp_path / "nowhere"):
            pass


async def test_an_idle_index_is_unloaded_and_comes_back(folder: Path) -> None:
    clock = Clock()
    async with opened(folder, clock=clock, catalog_idle_s=60) as catalog:
        before = await search(catalog, "fish")
        clock.now += 50
        await search(catalog, "birds")
        clock.now += 20
        await catalog.sweep()
        assert loaded(catalog) == ["birds"]
        assert await search(catalog, "fish") == before


async def test_those_asked_for_longest_ago_make_room_for_others(folder: Path) -> None:
    clock = Clock()
    async with opened(folder, clock=clock, catalog_memory_mib=16) as catalog:
        size = expected_bytes(str(folder / "fish"))
        catalog.limits = catalog.limits.model_copy(update={"catalog_memory_mib": (2 * size + size // 2) / 2**20})
        for name in ("fish", "birds", "fish", "otters"):
            clock.now += 1
            await search(catalog, name)
        assert loaded(catalog) == ["fish", "otters"]
        assert catalog.memory_bytes() <= 2.5 * size


async def test_an_index_in_use_is_not_unloaded_and_who_needs_its_memory_waits(folder: Path) -> None:
    async with opened(folder, catalog_memory_mib=16, catalog_idle_s=1) as catalog:
        size = expected_bytes(str(folder / "fish"))
        catalog.limits = catalog.limits.model_copy(update={"catalog_memory_mib": 1.5 * size / 2**20})
        async with catalog.use("fish", soon()) as engine:
            waiting = asyncio.create_task(search(catalog, "birds"))
            await until_room_is_wanted(catalog)
            await catalog.sweep()
            assert loaded(catalog) == ["fish"]
            assert (await engine.describe()).passages == 20
            assert not waiting.done()
        assert (await waiting).endswith("birds")
        assert loaded(catalog) == ["birds"]


async def test_memory_that_stays_taken_is_an_overload(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.catalog.catalog.ROOM_S", 0.0)
    async with opened(folder, catalog_memory_mib=16) as catalog:
        size = expected_bytes(str(folder / "fish"))
        catalog.limits = catalog.limits.model_copy(update={"catalog_memory_mib": 1.5 * size / 2**20})
        async with catalog.use("fish", soon()):
            with pytest.raises(Overloaded, match="--catalog-memory-mib"):
                await search(catalog, "birds")
        assert (await search(catalog, "birds")).endswith("birds")


async def test_an_index_larger_than_all_memory_says_so(folder: Path) -> None:
    async with opened(folder) as catalog:
        catalog.limits = catalog.limits.model_copy(update={"catalog_memory_mib": 1})
        remedies = rf"serve it by --index {folder}/fish, .* or allow more with --catalog-memory-mib"
        with pytest.raises(InvalidArgument, match=remedies):
            await search(catalog, "fish")


async def test_a_broken_index_keeps_its_reason_and_is_tried_again_after_a_while(folder: Path) -> None:
    manifest = folder / "fish" / layout.manifest("v1")
    whole = manifest.read_bytes()
    manifest.write_bytes(whole.replace(b"hashing", b"hushing"))
    clock = Clock()
    async with opened(folder, clock=clock) as catalog:
        for _ in range(2):
            with pytest.raises(CorruptIndex):
                await search(catalog, "fish")
        assert catalog.engines.opened == 0  # type: ignore[attr-defined]
        manifest.write_bytes(whole)
        with pytest.raises(CorruptIndex):
            await search(catalog, "fish")
        clock.now += RETRY_S
        assert (await search(catalog, "fish")).endswith("fish")
        assert catalog.entries["fish"].failure is None
        assert (await search(catalog, "birds")).endswith("birds")


async def test_a_failure_that_is_told_again_keeps_nothing_of_those_who_heard_it(folder: Path) -> None:
    (folder / "fish" / layout.manifest("v1")).write_bytes(b"{}")
    async with opened(folder) as catalog:
        lengths = []
        for _ in range(4):
            with pytest.raises(CorruptIndex):
                await search(catalog, "fish")
            failure = catalog.entries["fish"].failure
            assert failure is not None
            lengths.append(len(traceback.extract_tb(failure.__traceback__)))
        assert lengths[1] == lengths[2] == lengths[3]


async def test_loads_leave_threads_for_those_who_search(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_room, with_room = Catalog._make_room, asyncio.Queue[str]()

    async def make_and_tell(catalog: Catalog, entry: IndexEntry, wanted: int) -> None:
        await make_room(catalog, entry, wanted)
        with_room.put_nowait(entry.name)

    monkeypatch.setattr(Catalog, "_make_room", make_and_tell)
    names = [f"fish-{number}" for number in range(LOADS_AT_ONCE + 2)]
    for name in names:
        shutil.copytree(folder / "fish", folder / name)
    async with opened(folder) as catalog:
        catalog.engines.leave = asyncio.Event()  # type: ignore[attr-defined]
        searches = [asyncio.create_task(search(catalog, name)) for name in names]
        for _ in names:
            await with_room.get()
        for _ in range(10):
            await asyncio.sleep(0)
        assert catalog.engines.opened == LOADS_AT_ONCE  # type: ignore[attr-defined]
        catalog.engines.leave.set()  # type: ignore[attr-defined]
        await asyncio.gather(*searches)
        assert loaded(catalog) == names


async def test_idle_indexes_are_looked_for_on_after_a_mistake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.catalog.catalog.SWEEP_S", 0.001)
    looked = asyncio.Event()
    calls = 0

    async def sweep(catalog: Catalog) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise PermissionError("the folder is not ours any more")
        looked.set()

    monkeypatch.setattr(Catalog, "sweep", sweep)
    async with opened(folder):
        async with asyncio.timeout(30):
            await looked.wait()


async def test_models_may_be_given_back_after_the_end(folder: Path) -> None:
    async with opened(folder) as catalog, catalog.use("fish", soon()) as engine:
        models = engine._loaded()
    catalog.models.give_back(models)


async def test_who_cannot_wait_for_it_to_be_loaded_is_told_so_and_the_load_goes_on(folder: Path) -> None:
    async with opened(folder) as catalog:
        catalog.engines.leave = asyncio.Event()  # type: ignore[attr-defined]
        with pytest.raises(DeadlineExceeded, match="was being loaded"):
            async with catalog.use("fish", time.monotonic() + 0.01):
                pass
        catalog.engines.leave.set()  # type: ignore[attr-defined]
        assert (await search(catalog, "fish")).endswith("fish")
        assert catalog.engines.opened == 1  # type: ignore[attr-defined]


async def test_an_index_whose_folder_is_gone_is_forgotten(folder: Path) -> None:
    async with opened(folder) as catalog:
        await search(catalog, "fish")
        shutil.rmtree(folder / "fish")
        engine = catalog.entries["fish"].engine
        assert engine is not None
        await engine.refresh()
        await catalog.sweep()
        assert catalog.entries == {}
        with pytest.raises(NotFound):
            await search(catalog, "fish")


async def test_indexes_with_one_encoder_share_it_and_the_reranker(folder: Path) -> None:
    publish(folder / "wide", "v1", passages(20, "wide"), shards=1, encoder="hashing:32")
    clock = Clock()
    async with opened(folder, clock=clock, catalog_idle_s=60) as catalog:
        engines = []
        for name in ("fish", "birds", "wide"):
            async with catalog.use(name, soon()) as engine:
                engines.append(engine._loaded())
        fish, birds, wide = engines
        assert fish is birds
        assert fish is not wide
        assert fish.reranker is wide.reranker
        clock.now += 61
        await catalog.sweep()
        assert loaded(catalog) == []
        clock.now += 61
        await catalog.sweep()
        async with catalog.use("fish", soon()) as engine:
            assert engine._loaded() is not fish
            assert (await engine.rerank("fish", ["a fish", "a bird"], soon())).scores[0] > 0


async def test_the_field_of_the_text_is_known_of_an_index_that_is_not_loaded_yet(tmp_path: Path) -> None:
    create_index(CreateSettings(index=str(tmp_path / "notes"), encoder="hashing:32", text_field="note"))
    async with opened(tmp_path) as catalog:
        index = CatalogIndex(catalog, "notes")
        assert not index.is_loaded
        assert await index.text_field() == "note"
