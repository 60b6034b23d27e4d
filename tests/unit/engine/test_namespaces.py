"""Namespaces of an index in this process: against brute force, over all that may happen to an index, and thousands."""

import asyncio
from collections.abc import Awaitable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shoal
from shoal.client.writes import upsert_calls
from shoal.index_root import layout
from shoal.index_root.log import Log
from shoal.index_root.storage import Storage
from shoal.index_root.versions import read_manifest
from shoal.indexing.compaction import compact
from shoal.indexing.empty import create_index
from shoal.records import FloatArray
from shoal.settings import CompactSettings, CreateSettings
from shoal.shard.columns import Columns

TENANTS = ("", "a", "ab", "b#1/c")
PATIENT: dict[str, Any] = {"shard_patience_ms": 60_000, "timeout_ms": 60_000, "max_timeout_ms": 60_000}
"""Settings of a machine that is busy with other tests."""
WORDS = ("otter", "heron", "newt", "stone", "river")
OPTIONS: tuple[dict[str, Any], ...] = (
    {"mode": "dense", "rerank": False},
    {"mode": "lexical", "rerank": False},
    {"mode": "hybrid", "facets": ["year", "tags"]},
    {"mode": "hybrid", "filter": {"year": {"$gte": 2}}, "facets": ["tags"]},
    {"mode": "lexical", "filter": {"$or": [{"tags": "x"}, {"year": {"$exists": False}}]}, "collapse": True},
    {"order_by": {"field": "year"}, "rerank": False},
    {"mode": "dense", "rerank": False, "group_by": {"field": "year", "size": 2}},
)

texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
metadata = st.fixed_dictionaries(
    {}, optional={"year": st.integers(0, 4), "tags": st.lists(st.sampled_from("xyz"), max_size=2, unique=True)}
)
writes = st.lists(st.tuples(st.sampled_from(TENANTS), st.integers(0, 6), st.none() | st.tuples(texts, metadata)))


def new_index(root: Path, **options: Any) -> shoal.Index:
    types = ["year:integer", "tags:list", "tenant:string"]
    create_index(CreateSettings(index=str(root), metadata_types=types, threads=1, **options))
    return shoal.open(root, reranker="overlap", watch_s=0.1, max_top_k=200, max_writes=60, **PATIENT)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[shoal.Index, shoal.Index]]:
    """An index with namespaces, and one whose passages say of which tenant they are."""
    folder = tmp_path_factory.mktemp("both")
    with (
        new_index(folder / "spaces", encoder="hashing:32", shards=2) as spaces,
        new_index(folder / "fields", encoder="hashing:32", shards=2) as fields,
    ):
        yield spaces, fields


def inner(tenant: str, number: int) -> str:
    return f"{TENANTS.index(tenant)}-d{number}"


def within(tenant: str, options: dict[str, Any]) -> dict[str, Any]:
    """The same search where a field says whose passages are meant."""
    own = {"tenant": f"t-{tenant}"}
    return {**options, "filter": {"$and": [own, options["filter"]]} if "filter" in options else own}


def seen(answer: Any) -> dict[str, Any]:
    results = [
        (result.id.rpartition("-")[2], result.text, round(result.score, 5), result.retrieval_rank, str(result.group))
        for result in answer.results
    ]
    facets = {name: [(count.value, count.count) for count in counts] for name, counts in (answer.facets or {}).items()}
    return {"results": results, "facets": facets}


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes, texts)
def test_a_search_in_a_namespace_is_one_that_is_filtered_by_it(
    both: tuple[shoal.Index, shoal.Index], written: list[Any], query: str
) -> None:
    """Scores too: what the words of a query are worth is counted over all namespaces, as over all tenants."""
    spaces, fields = both
    fields.delete(all=True)
    for tenant in TENANTS:
        spaces.delete(all=True, namespace=tenant)
    for tenant, number, content in written:
        if content is None:
            spaces.delete([f"d{number}"], namespace=tenant)
            fields.delete([inner(tenant, number)])
            continue
        text, values = content
        spaces.upsert([{"id": f"d{number}", "text": text, "metadata": values}], namespace=tenant)
        own = {**values, "tenant": f"t-{tenant}"}
        fields.upsert([{"id": inner(tenant, number), "text": text, "metadata": own}])
    for tenant in TENANTS:
        for options in OPTIONS:
            options = {**options, "top_k": 50, "top_n": 50}
            mine = spaces.search(query, namespace=tenant, **options)
            assert seen(mine) == seen(fields.search(query, **within(tenant, options))), (tenant, options)
        ids = [f"d{number}" for number in range(7)]
        listed = spaces.list(namespace=tenant).ids
        assert listed == [id_.partition("-")[2] for id_ in fields.list(prefix=f"{TENANTS.index(tenant)}-").ids]
        assert [passage.id for passage in spaces.fetch(ids, namespace=tenant).passages] == listed
    sizes = {size.namespace: size.passages for size in spaces.list_namespaces().namespaces}
    assert sizes == {tenant: len(ids) for tenant in TENANTS if (ids := spaces.list(namespace=tenant).ids)}


def test_namespaces_outlive_compaction_deletions_and_a_restart(tmp_path: Path) -> None:
    root = tmp_path / "index"
    with new_index(root, encoder="hashing:32", shards=2) as index:
        for tenant in TENANTS:
            index.upsert(
                ({"id": f"d{number}", "text": f"otter {tenant}", "metadata": {"year": number}} for number in range(9)),
                namespace=tenant,
            )
        index.delete(["d0", "d1"], namespace="a")
    manifest = compact(CompactSettings(index=str(root)), Log.open(str(root)))
    assert manifest is not None
    paths = [file.path for file in read_manifest(Storage(str(root)), manifest.version).all_files()]
    assert sum(path.endswith(layout.NAMESPACES) for path in paths) == 2
    for _ in range(2):
        with shoal.open(root, reranker="none", watch_s=0.1, **PATIENT) as index:
            index.delete(["d8"], namespace="ab")
            index.upsert([{"id": "new", "text": "otter", "metadata": {"year": 20}}], namespace="b#1/c")
            expected = {
                "": [f"d{number}" for number in range(9)],
                "a": [f"d{number}" for number in range(2, 9)],
                "ab": [f"d{number}" for number in range(8)],
                "b#1/c": [*(f"d{number}" for number in range(9)), "new"],
            }
            for tenant, ids in expected.items():
                for mode in ("dense", "lexical"):
                    answer = index.search("otter", namespace=tenant, mode=mode, top_k=50, facets=["year"])
                    assert sorted(result.id for result in answer.results) == ids
                    assert {result.text for result in answer.results} <= {f"otter {tenant}", "otter"}
                assert answer.facets is not None
                assert sum(count.count for count in answer.facets["year"]) == len(ids)
                assert index.list(namespace=tenant).ids == ids
                few = index.search("otter", namespace=tenant, filter={"year": {"$lt": 4}}, top_k=50)
                assert sorted(result.id for result in few.results) == [id_ for id_ in ids if id_ in "d0 d1 d2 d3"]
            sizes = {size.namespace: size.passages for size in index.list_namespaces().namespaces}
            assert sizes == {tenant: len(ids) for tenant, ids in expected.items()}


def test_thousands_of_namespaces_are_found_without_a_look_at_what_lies_in_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, count, each, cache = tmp_path / "index", 2000, 2, 100_000
    vectors = np.random.default_rng(7).standard_normal((count, each, 8)).astype(np.float32)
    calls = [
        next(upsert_calls(_records(vectors[number], number % 5), 100, 10**6, f"tenant-{number}"))
        for number in range(count)
    ]
    with new_index(root, dimension=8, lexical=False) as index:
        for start in range(0, count, 60):
            index._run(lambda engine, start=start: _all(map(engine.write, calls[start : start + 60])))
    assert compact(CompactSettings(index=str(root)), Log.open(str(root))) is not None
    read: list[int] = []
    mask = Columns.mask
    monkeypatch.setattr(Columns, "mask", lambda self, tree: read.append(self.count) or mask(self, tree))
    with shoal.open(root, reranker="none", filter_cache_bytes=cache, **PATIENT) as index:
        for number in range(0, count, 20):
            near = index.search(vector=vectors[number, 1], namespace=f"tenant-{number}")
            assert [result.id for result in near.results] == ["d1", "d0"]
            assert near.results[0].score == pytest.approx(1, abs=1e-5)
        assert read == []
        for number, found in ((3, each), (8, each), (4, 0)):
            asked: dict[str, Any] = {"filter": {"year": 3}, "namespace": f"tenant-{number}"}
            assert len(index.search(vector=vectors[number, 0], **asked).results) == found
        assert read
        assert max(read) <= each
        first = index.list_namespaces(limit=1000)
        assert [size.passages for size in first.namespaces] == [each] * 1000
        (shard,) = index._opened._calls.engine._opened().shards
        selections = shard._base._selections
        assert selections is not None
        assert 0 < selections._bytes <= cache


def _records(vectors: FloatArray, year: int) -> list[dict[str, Any]]:
    return [{"id": f"d{row}", "vector": vector, "metadata": {"year": year}} for row, vector in enumerate(vectors)]


async def _all(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    return await asyncio.gather(*calls)
