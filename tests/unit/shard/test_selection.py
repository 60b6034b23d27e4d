"""Filtered search against plain sorting: which rows, in which order, and whatever the shards and batches are."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.encoders import load_encoder
from shoal.errors import CorruptIndex, InvalidArgument
from shoal.filters import Exists, Filter, parse
from shoal.index_root import layout, versions
from shoal.index_root.storage import Storage
from shoal.indexes import ShardIndex, index_kind
from shoal.metadata import Observed
from shoal.records import FloatArray, Passage, RowArray
from shoal.search.merge import merge
from shoal.settings import EncoderSettings, IndexSettings
from shoal.shard import selection
from shoal.shard.columns import Columns, ColumnWriter
from shoal.shard.messages import Hits, ShardHits, dense_queries
from shoal.shard.passages import to_batch
from shoal.shard.reader import Shard
from shoal.shard.selection import Selection, Selections, select
from tests.support.filtering import POOLS, TYPES, documents, matches
from tests.support.indexes import passages, publish

DIM, COUNT = 16, 6000


def normalised(count: int, seed: int) -> FloatArray:
    found = np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


VECTORS, QUERIES = normalised(COUNT, 1), normalised(30, 2)
TOPICS = (VECTORS[:, :3] > 0) @ np.array([1, 2, 4])
"""A field that goes with the direction of a vector: of rows with topic 7 none is near a query with topic 0."""


def ids_of(rows: RowArray) -> pa.StringArray:
    return pa.array([str(row) for row in rows])


class Indexed:
    """An index of the vectors with the fields row, share (of 10,000) and topic."""

    def __init__(self, folder: Path, kind: str, search: str = "") -> None:
        options = IndexSettings(index_kind=kind, index_search=search)
        module = index_kind(kind)
        trained = module.train(VECTORS, options, 1)
        module.build([VECTORS], DIM, folder / "vectors.faiss", trained, 1)
        self.index: ShardIndex = module.open(folder / "vectors.faiss", options, 1)
        shares = np.random.default_rng(3).permutation(COUNT) * 10_000 // COUNT
        rows = [
            Passage(str(row), "x", metadata={"row": row, "share": int(share), "topic": int(topic)})
            for row, (share, topic) in enumerate(zip(shares, TOPICS, strict=True))
        ]
        observed = Observed()
        observed.see(rows[0].metadata)
        self.types = observed.types({})
        with ColumnWriter(folder / "metadata.arrow", self.types) as writer:
            writer.write(to_batch(rows).column(3))
        self.columns = Columns(folder / "metadata.arrow", self.types)
        self.fields = {"share": shares, "topic": TOPICS}

    def tree(self, document: Any) -> Filter:
        tree = parse(document, self.types, 100, 16)
        assert tree is not None
        return tree


@pytest.fixture(scope="module", params=["flat", "SQ8", "IVF32,Flat", "HNSW16"])
def indexed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Indexed:
    search = {"IVF32,Flat": "nprobe=12", "HNSW16": "efSearch=64"}.get(request.param, "")
    return Indexed(tmp_path_factory.mktemp("indexed"), request.param, search)


def nearest(allowed: np.ndarray, top_k: int) -> list[set[int]]:
    scores = QUERIES @ VECTORS.T
    scores[:, ~allowed] = -np.inf
    return [set(line[: min(top_k, int(allowed.sum()))].tolist()) for line in np.argsort(-scores, axis=1)]


@pytest.mark.parametrize("share", [10_000, 5000, 1000, 100, 10, 1, 0])
def test_the_nearest_of_the_selected_rows_are_found_at_every_selectivity(indexed: Indexed, share: int) -> None:
    selected = select(indexed.columns, indexed.index, indexed.tree({"share": {"$lt": share}}))
    assert selected.count == int((indexed.fields["share"] < share).sum())
    scores, rows = selection.search(indexed.index, QUERIES, 10, selected, ids_of)
    wanted = nearest(indexed.fields["share"] < share, 10)
    assert [len(line[line >= 0]) for line in rows] == [len(line) for line in wanted]
    found = sum(len(line & set(row.tolist())) for line, row in zip(wanted, rows, strict=True))
    assert found >= 0.95 * sum(map(len, wanted))
    assert (np.diff(np.where(rows >= 0, scores, -2), axis=1) <= 0).all()
    assert ((rows >= 0) == np.isfinite(scores)).all()


@pytest.mark.parametrize("topics", [[0], [0, 1], [7], [0, 1, 2, 3]])
def test_a_field_that_goes_with_the_topic_costs_no_recall(indexed: Indexed, topics: list[int]) -> None:
    selected = select(indexed.columns, indexed.index, indexed.tree({"topic": {"$in": topics}}))
    _, rows = selection.search(indexed.index, QUERIES, 10, selected, ids_of)
    wanted = nearest(np.isin(indexed.fields["topic"], topics), 10)
    found = sum(len(line & set(row.tolist())) for line, row in zip(wanted, rows, strict=True))
    assert found >= 0.95 * sum(map(len, wanted))


def test_few_rows_are_scanned_and_many_are_searched(indexed: Indexed) -> None:
    few, many = (select(indexed.columns, indexed.index, indexed.tree({"row": {"$lt": n}})) for n in (100, COUNT - 1))
    assert few.rows is not None
    assert few.rows.tolist() == list(range(100))
    assert few.bits is None
    assert many.rows is None
    assert many.bits is not None
    assert many.bits.nbytes == many.nbytes == COUNT / 8


def test_rows_that_a_search_with_a_selector_does_not_reach_are_scanned(tmp_path: Path) -> None:
    """One list is probed, and as far as the sample of neighbours can tell all of it is selected."""
    indexed = Indexed(tmp_path, "IVF32,Flat", "nprobe=1")
    mask = np.random.default_rng(5).random(COUNT) < 0.5
    selected = Selection(int(mask.sum()), None, np.packbits(mask, bitorder="little"))
    _, rows = selection.search(indexed.index, QUERIES, 2500, selected, ids_of)
    for line in rows:
        assert set(line.tolist()) <= set(np.flatnonzero(mask).tolist())
        assert len(set(line.tolist())) == 2500


def test_what_was_selected_is_remembered_within_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    indexed, evaluated = Indexed(tmp_path, "flat"), []
    plain = Columns.mask

    def counted(columns: Columns, tree: Filter) -> Any:
        evaluated.append(tree)
        return plain(columns, tree)

    monkeypatch.setattr(Columns, "mask", counted)
    one, two, three = (indexed.tree({"row": row}) for row in (1, 2, 3))
    room = Selections(indexed.columns, indexed.index, 1300)  # two, of some 550 bytes each
    for tree in (one, one, two, one, three, one, two):
        assert room.get(tree).rows is not None
    assert evaluated == [one, two, three, two]
    none = Selections(indexed.columns, indexed.index, 0)
    evaluated.clear()
    assert [none.get(one).count, none.get(one).count] == [1, 1]
    assert evaluated == [one, one]


MODEL = load_encoder(EncoderSettings(encoder="hashing:64"))
ASKED = MODEL.encode_queries(["red fish", "otter number n7", "snail"])


def described(count: int) -> list[Passage]:
    """Passages of which each has some of the fields, with values out of the pools."""
    chance = np.random.default_rng(7)
    content = []
    for passage in passages(count):
        found: dict[str, Any] = {}
        for name, pool in POOLS.items():
            if chance.random() < 0.7:
                found[name] = pool[chance.integers(len(pool))]
        if "tags" in found:
            found["tags"] = [POOLS["tags"][place] for place in chance.integers(4, size=chance.integers(4))]
        content.append(Passage(passage.id, passage.text, metadata=found))
    return content


def dense_hits(found: ShardHits) -> Hits:
    return found.by_retriever["dense"]


class Published:
    """The same passages as a version of so many shards."""

    def __init__(self, root: Path, shards: int) -> None:
        self.manifest = publish(root, "v1", described(80), shards=shards)
        self.shards = [
            Shard.open(Storage(str(root)), self.manifest, number, cache=None, threads=1) for number in range(shards)
        ]

    def ask(self, trees: list[Filter | None]) -> list[list[tuple[str, float]]]:
        hits = [
            (number, dense_hits(shard.search(dense_queries(ASKED, trees), 10, with_passages=True)))
            for number, shard in enumerate(self.shards)
        ]
        merged = [merge([(number, one, query) for number, one in hits], 10) for query in range(len(ASKED))]
        return [[(one.id, round(one.score, 5)) for one in line] for line in merged]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> list[Published]:
    return [Published(tmp_path_factory.mktemp("root"), shards) for shards in (1, 3, 8)]


@settings(max_examples=60)
@given(asked=st.tuples(*[st.none() | documents()] * 3))
def test_any_number_of_shards_gives_what_one_sort_of_the_matching_passages_gives(
    published: list[Published], asked: tuple[dict[str, Any] | None, ...]
) -> None:
    assert published[0].manifest.fields == TYPES
    content = described(80)
    vectors = MODEL.encode_passages([passage.text for passage in content])
    expected = []
    for query, document in zip(ASKED, asked, strict=True):
        scored = [
            (passage.id, round(float(vector @ query), 5))
            for passage, vector in zip(content, vectors, strict=True)
            if document is None or matches(document, dict(passage.metadata))
        ]
        expected.append(sorted(scored, key=lambda entry: (-entry[1], entry[0])))
    for version in published:
        trees = [None if document is None else parse(document, TYPES, 1000, 16) for document in asked]
        for found, exact in zip(version.ask(trees), expected, strict=True):
            assert [score for _, score in found] == pytest.approx([score for _, score in exact[:10]], abs=2e-5)
            assert {id_ for id_, _ in found} <= {id_ for id_, _ in exact}


def test_a_version_without_columns_opens_and_says_that_it_cannot_filter(tmp_path: Path) -> None:
    publish(tmp_path, "v1", [Passage("p", "x")], shards=1)
    storage = Storage(str(tmp_path))
    manifest = versions.read_manifest(storage, "v1")
    assert manifest.fields == {}
    assert [Path(file.path).name for file in manifest.all_files()] == ["vectors.faiss", "passages.arrow", "shard.json"]
    shard = Shard.open(storage, manifest, 0, cache=None, threads=1)
    assert dense_hits(shard.search(dense_queries(ASKED), 1, with_passages=False)).ids == [["p"]] * 3
    with pytest.raises(InvalidArgument, match="has no metadata to filter by"):
        shard.search(dense_queries(ASKED, [Exists("year")] * 3), 1, with_passages=False)


def test_columns_that_do_not_fit_the_shard_are_corrupt(tmp_path: Path) -> None:
    manifest = publish(tmp_path, "v1", passages(20), shards=1)
    path = tmp_path / layout.shard_dir("v1", 0) / layout.METADATA
    with ColumnWriter(path, manifest.fields) as writer:
        writer.write(to_batch(passages(19)).column(3))
    with pytest.raises(CorruptIndex, match="has 19 rows, its manifest says 20"):
        Shard.open(Storage(str(tmp_path)), manifest, 0, cache=None, threads=1, verify=False)
    with pytest.raises(CorruptIndex, match=layout.METADATA):
        Shard.open(Storage(str(tmp_path)), manifest, 0, cache=None, threads=1)
