"""A catalog whose folder other processes change too, and what its indexes are made with and told of."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shoal.catalog.catalog import Catalog
from shoal.catalog.folder import CatalogFolder
from shoal.catalog.management import CatalogManager, NewIndex
from shoal.encoders import Encoder, load_encoder
from shoal.errors import Conflict, NotFound, Unavailable
from shoal.index_root import layout
from shoal.index_root.storage import Storage
from shoal.settings import CatalogSettings, CreateSettings, EncoderSettings, ServeSettings
from shoal.writing.requests import PassageWrite, WriteRequest
from tests.support.catalogs import NAMES, loaded, request, soon


@asynccontextmanager
async def opened(folder: Path, **limits: Any) -> AsyncIterator[Catalog]:
    settings = ServeSettings(index="unused", reranker="overlap")
    catalog = Catalog(settings, CatalogSettings(catalog=str(folder), **limits))
    await catalog.open()
    try:
        yield catalog
    finally:
        catalog.close()


async def ask(catalog: Catalog, name: str) -> None:
    async with catalog.use(name, soon()) as engine:
        (answer,) = await engine.search([request(name)])
    assert answer.results[0].passage.text.endswith(name)


async def test_what_another_process_removes_is_gone_for_who_asks_and_stays_for_who_is_answered(folder: Path) -> None:
    async with opened(folder) as catalog:
        async with catalog.use("fish", soon()) as engine:
            shutil.rmtree(folder / "fish")
            await catalog.look()
            assert "fish" not in catalog.entries
            with pytest.raises(NotFound):
                await ask(catalog, "fish")
            (answer,) = await engine.search([request("a fish")])
            assert len(answer.results) == 1
        with pytest.raises(Unavailable):  # nobody uses it any more
            engine.version  # noqa: B018
        await ask(catalog, "birds")
        await catalog.look()
        assert loaded(catalog) == ["birds"]


async def test_an_index_that_another_process_makes_anew_is_served_as_it_is_now(folder: Path) -> None:
    async with opened(folder) as catalog:
        await ask(catalog, "fish")
        shutil.rmtree(folder / "fish")
        CatalogFolder(str(folder)).create("fish", CreateSettings(index=str(folder / "fish"), encoder="hashing:32"))
        await catalog.look()
        async with catalog.use("fish", soon()) as engine:
            description = await engine.describe()
            assert (description.dim, description.passages) == (32, 0)


async def test_a_write_does_not_make_the_folder_of_an_index_again_that_was_removed(folder: Path) -> None:
    CatalogFolder(str(folder)).create("new", CreateSettings(index=str(folder / "new"), encoder="hashing:32"))
    async with opened(folder) as catalog, catalog.use("new", soon()) as engine:
        shutil.rmtree(folder / "new")
        with pytest.raises((NotFound, Unavailable)):
            await engine.write(WriteRequest(passages=[PassageWrite("a", "a late fish")], deadline=soon()))
        assert not (folder / "new").exists()


async def test_what_was_written_late_to_an_index_that_was_removed_is_no_part_of_the_next_one(folder: Path) -> None:
    (folder / "new" / "log" / "entries").mkdir(parents=True)
    (folder / "new" / layout.log_entry(1)).write_bytes(b"of the one before")
    async with opened(folder) as catalog:
        manager = CatalogManager(catalog)
        await manager.create(NewIndex("new", dimension=3))
        assert not (folder / "new" / "log").exists()


async def test_indexes_that_others_answer_for_keep_their_names_and_folders(folder: Path) -> None:
    given = (folder / "birds", folder.parent / "articles")
    settings = ServeSettings(index="unused", reranker="overlap")
    limits = CatalogSettings(catalog=str(folder), max_indexes=4)
    catalog = Catalog(settings, limits, elsewhere=[str(root) for root in given])
    manager = CatalogManager(catalog)
    assert await manager.names() == ["fish", "otters"]
    assert not await catalog.holds("birds")
    with pytest.raises(Conflict, match="there is an index 'articles' already"):
        await manager.create(NewIndex("articles", dimension=3))
    with pytest.raises(Conflict, match="--max-indexes"):
        await manager.create(NewIndex("new", dimension=3))
    with pytest.raises(NotFound):
        await manager.remove("birds")
    assert (folder / "birds" / layout.CURRENT).exists()
    catalog.close()


class RemoteStorage:
    """A folder of this machine that takes itself for one on a store."""

    is_local = False

    def __init__(self, folder: Path) -> None:
        self._storage = Storage(str(folder))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


@pytest.mark.parametrize("is_local", [True, False])
def test_index_roots_that_nobody_can_ask_for_are_named(folder: Path, is_local: bool) -> None:
    for name in ("Fish", "my_fish", "-fish", "fish-"):
        shutil.copytree(folder / "fish", folder / name)
    (folder / "Notes").mkdir()
    catalog = CatalogFolder(str(folder))
    if not is_local:
        catalog._storage = RemoteStorage(folder)  # type: ignore[assignment]
    assert catalog.strange_names() == ["-fish", "Fish", "my_fish"]
    assert catalog.names() == ["birds", "fish", "fish-", "otters"]
    assert catalog.gone({"fish": "v1", "fish-": "v1", "birds": "v2", "never": "v1"}) == ["birds", "never"]


async def test_indexes_that_are_not_loaded_are_read_side_by_side(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(len(NAMES), timeout=30)
    read = CatalogManager._read_description

    def read_together(manager: CatalogManager, root: str) -> Any:
        together.wait()
        return read(manager, root)

    monkeypatch.setattr(CatalogManager, "_read_description", read_together)
    async with opened(folder) as catalog:
        summaries = await CatalogManager(catalog).summaries(lambda name: True)
        assert [(each.name, each.passages, each.problem) for each in summaries] == [(name, 20, None) for name in NAMES]


async def test_the_encoder_of_an_index_that_is_made_is_loaded_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[EncoderSettings] = []

    def load(settings: EncoderSettings) -> Encoder:
        loads.append(settings)
        return load_encoder(settings)

    for module in ("shoal.engine.model_pool", "shoal.engine.models", "shoal.indexing.empty"):
        monkeypatch.setattr(f"{module}.load_encoder", load)
    async with opened(folder, encoders=["hashing:32"]) as catalog:
        manager = CatalogManager(catalog)
        await asyncio.gather(*(manager.create(NewIndex(name, encoder="hashing:32")) for name in ("new", "newer")))
        for name in ("new", "newer"):
            async with catalog.use(name, soon()) as engine:
                assert (await engine.describe()).dim == 32
        assert [settings.encoder for settings in loads] == ["hashing:32"]
