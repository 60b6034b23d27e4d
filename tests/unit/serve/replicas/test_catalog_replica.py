"""Ingress replicas that serve a catalog: what one makes, writes to or removes the others see."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from serve.replicas.catalog_replica import CatalogOptions, ReplicaCatalog
from serve.replicas.ingress import CatalogIngress, Ingress, IngressReplica
from serve.telemetry import NullMeter
from serve.web.indexes import GivenIndexes, Indexes, IndexesAndCatalog
from shoal.catalog.management import NewIndex
from shoal.errors import Conflict, NotFound
from shoal.records import SearchRequest
from shoal.settings import CatalogSettings, ServeSettings
from shoal.writing.requests import PassageWrite, WriteRequest
from tests.support.indexes import passages, publish
from tests.support.replicas import soon


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    publish(tmp_path / "catalog" / "birds", "v1", passages(12, "birds"), shards=1)
    return tmp_path / "catalog"


def options_of(folder: Path, **elsewhere: Any) -> CatalogOptions:
    settings = ServeSettings(index=str(folder), reranker="overlap")
    return CatalogOptions(settings, CatalogSettings(catalog=str(folder), encoders=["hashing:32"]), **elsewhere)


def catalog_of(replica: IngressReplica) -> ReplicaCatalog:
    assert replica.catalog is not None
    return replica.catalog


async def opened(replica: IngressReplica) -> IndexesAndCatalog:
    async with asyncio.timeout(60):
        await catalog_of(replica)._opening
    names = list(replica.engines)
    given = GivenIndexes(lambda: replica.engines, names, replica.ready) if names else None
    return IndexesAndCatalog(given, lambda: catalog_of(replica).indexes, replica.ready)


@asynccontextmanager
async def replica_of(folder: Path) -> AsyncIterator[tuple[CatalogIngress, IndexesAndCatalog]]:
    options = options_of(folder)
    replica = CatalogIngress(options.settings, NullMeter, options)
    try:
        yield replica, await opened(replica)
    finally:
        end(replica)


def end(replica: IngressReplica) -> None:
    replica._sampling.cancel()
    catalog_of(replica).close()


async def found(source: IndexesAndCatalog, name: str, min_position: int = 0, **subject: Any) -> list[str]:
    engine = source.engine(name)
    assert engine is not None
    subject = subject or {"query": "a black otter"}
    request = SearchRequest(
        **{"query": "", **subject}, top_k=5, top_n=5, rerank=False, deadline=soon(), min_position=min_position
    )
    (answer,) = await engine.search([request])
    return sorted(result.passage.id for result in answer.results)


async def write(source: IndexesAndCatalog, name: str, record: str) -> int:
    engine = source.engine(name)
    assert engine is not None
    written = await engine.write(WriteRequest(passages=[PassageWrite(record, "an otter dives")], deadline=soon()))
    return written.position


async def test_what_one_replica_makes_writes_and_removes_the_other_sees(folder: Path) -> None:
    async with replica_of(folder) as (first, one), replica_of(folder) as (second, other):
        await one.create(NewIndex("otters", encoder="hashing:32"))
        await write(one, "otters", "w1")
        position = await write(other, "otters", "w2")
        for source in (one, other):
            assert await found(source, "otters", position) == ["w1", "w2"]
        assert await first.loaded_names(soon()) == await second.loaded_names(soon()) == ["otters"]
        with pytest.raises(Conflict, match="already"):
            await other.create(NewIndex("otters", dimension=3))

        await one.remove("otters")
        assert [each.name for each in await other.summaries(lambda name: True)] == ["birds"]
        await catalog_of(second).indexes.catalog.look()
        with pytest.raises(NotFound):
            await found(other, "otters")
        await other.create(NewIndex("otters", encoder="hashing:32"))
        assert await found(one, "otters") == await found(other, "otters") == []


async def test_a_catalog_alone_has_no_default_index(folder: Path) -> None:
    async with replica_of(folder) as (replica, source):
        assert await source.ready() == []
        with pytest.raises(NotFound, match="GET /v1/indexes"):
            Indexes(source)()
        assert len(await found(source, "birds")) == 5
        with pytest.raises(NotFound):
            await replica.describe_index("birds")  # which has no replicas of its own


async def test_what_is_noted_of_an_index_of_the_catalog_is_told_of_it(folder: Path) -> None:
    async with replica_of(folder) as (replica, source):
        engine = source.engine("birds")
        assert engine is not None
        assert (await engine.describe()).problem is None
        assert not catalog_of(replica).compactions.any_problem
        await replica.note("it cannot be compacted", soon(), "birds")
        assert (await engine.describe()).problem == "it cannot be compacted"
        assert catalog_of(replica).compactions.any_problem


async def test_an_index_that_was_given_keeps_its_name_beside_a_catalog(folder: Path, tmp_path: Path) -> None:
    publish(tmp_path / "articles", "v1", passages(12), shards=1)
    publish(folder / "articles", "v1", passages(12, "hidden"), shards=1)
    root = str(tmp_path / "articles")
    settings = ServeSettings(index=root, reranker="overlap")
    replica = Ingress(settings, None, catalog=options_of(folder, elsewhere=[root]))
    try:
        source = await opened(replica)
        assert len(await source.ready()) == 1  # the default index has no services here; the catalog needs none
        states = {each.name: each.state for each in await source.summaries(lambda name: True)}
        assert states == {"articles": "loading", "birds": "unloaded"}
        assert source.engine("articles") is replica
        with pytest.raises(Conflict, match="--index"):
            await source.remove("articles")
        with pytest.raises(Conflict, match="already"):
            await source.create(NewIndex("articles", dimension=3))
        assert len(await found(source, "birds")) == 5
        # One limit of how many are answered, and one telemetry, for all indexes of the replica.
        in_catalog = catalog_of(replica).indexes.engine("birds")
        assert in_catalog._admission is replica._admission
        assert in_catalog._telemetry is replica._telemetry
    finally:
        for task in (replica._comparing, replica._watch):
            task.cancel()
        end(replica)
