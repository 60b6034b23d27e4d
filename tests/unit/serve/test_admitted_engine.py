"""What every request passes on its way to an engine: a slot, and what waits for an index to be loaded takes none."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from serve.local_indexes import CatalogIndexes
from shoal.catalog.catalog import Catalog
from shoal.engine.engine import LocalEngine
from shoal.errors import Overloaded
from shoal.records import SearchRequest
from shoal.settings import CatalogSettings, ServeSettings
from tests.support.indexes import passages, publish


class SlowFish(LocalEngine):
    """An engine that is opened at once, but for that of the fish, which waits for leave."""

    leave: asyncio.Event

    async def open(self) -> None:
        if self.settings.index.endswith("fish"):
            await self.leave.wait()
        await super().open()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalog")
    for name in ("birds", "fish"):
        publish(folder / name, "v1", passages(12, name), shards=1)
    return folder


@asynccontextmanager
async def indexes(folder: Path, max_requests: int) -> AsyncIterator[CatalogIndexes]:
    SlowFish.leave = asyncio.Event()
    settings = ServeSettings(index=str(folder), reranker="overlap", max_requests=max_requests)
    catalog = Catalog(
        settings,
        CatalogSettings(catalog=str(folder)),
        new_engine=lambda settings, models: SlowFish(settings, models=models),
    )
    await catalog.open()
    try:
        yield CatalogIndexes(catalog)
    finally:
        catalog.close()


def request() -> SearchRequest:
    return SearchRequest(query="otter", top_k=5, top_n=1, rerank=False, deadline=time.monotonic() + 60)


async def test_requests_that_wait_for_a_cold_index_take_no_slots_of_warm_ones(folder: Path) -> None:
    async with indexes(folder, max_requests=2) as source:
        await source.engine("birds").search([request()])
        cold = [asyncio.create_task(source.engine("fish").search([request()])) for _ in range(2)]
        await asyncio.sleep(0)
        for _ in range(3):
            (answer,) = await source.engine("birds").search([request()])
            assert answer.results[0].passage.text.endswith("birds")
        with pytest.raises(Overloaded):  # they are bounded, too
            await source.engine("fish").search([request()])
        SlowFish.leave.set()
        for (answer,) in await asyncio.gather(*cold):
            assert answer.results[0].passage.text.endswith("fish")
