"""Live shards: what stays where it was found, merges of runs, look-ups, and what versions they can be laid over."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from shoal.errors import Conflict, InvalidArgument, Unavailable
from shoal.index_root import layout
from shoal.index_root.manifest import VectorIndexInfo
from shoal.index_root.storage import Storage
from shoal.indexes import index_kind
from shoal.indexing.plan import shard_of
from shoal.lexical.scoring import TermStatistics
from shoal.metadata import MAX_FIELDS
from shoal.records import Passage
from shoal.settings import IndexSettings
from shoal.shard import live_fields
from shoal.shard.live import KEPT_S, LiveShard
from shoal.shard.messages import ShardHits, ShardQuery, ShardSearch
from shoal.shard.reader import Shard
from shoal.shard.row_keys import ReadKeys
from shoal.shard.runs import runs_to_merge, size_class
from tests.support.live import Corpus, ranking

WORDS = ("otter", "heron", "newt", "river", "stone", "fish", "quick", "red", "the", "of")


def text_of(random: np.random.Generator, most: int = 12) -> str:
    return " ".join(random.choice(WORDS, random.integers(1, most)))


def one(name: str, text: str, **metadata: object) -> list[Passage]:
    return [Passage(f"{name}#1", text, metadata=metadata)]  # type: ignore[arg-type]


def corpus_of(folder: Path, count: int, shards: int = 1, late: bool = False) -> Corpus:
    corpus, random = Corpus(folder, shards, late), np.random.default_rng(3)
    for number in range(count):
        corpus.documents[f"d{number}"] = one(f"d{number}", text_of(random), number=number)
    return corpus.open()


def test_scores_of_words_have_the_bits_of_a_fresh_build_after_thousands_of_changes(tmp_path: Path) -> None:
    corpus, random = corpus_of(tmp_path, 1200, shards=2), np.random.default_rng(4)
    for _ in range(30):
        names = [f"d{number}" for number in random.choice(2000, 70, replace=False)]
        corpus.write({name: [] if random.random() < 0.4 else one(name, text_of(random)) for name in names})
    shards, _ = corpus.fresh()
    assert corpus.statistics.passages == len(corpus.documents) == sum(shard.count for shard in corpus.live)
    compared = 0
    for text in ("otter", "heron newt", "the of the river", "quick red fish stone otter heron newt river"):
        query = corpus.query(text, "lexical", None, {})
        mine, fresh = ranking(corpus.live, query, 3000), ranking(shards, query, 3000)
        assert mine == fresh  # floats that are equal have equal bits but for the sign of 0, which no score is
        compared += len(fresh["lexical"])
    assert compared > 2000


def test_rows_that_were_found_can_be_fetched_for_a_minute_after_their_run_was_merged(tmp_path: Path) -> None:
    now = 0.0
    corpus = corpus_of(tmp_path, 3)
    corpus.live = [
        LiveShard(shard, corpus.manifest, 0, threads=1, statistics=corpus.statistics.of_query, clock=lambda: now)
        for shard in corpus.base
    ]
    (shard,) = corpus.live
    corpus.write({"new0": one("new0", "lynx zero")})
    query = corpus.query("lynx", "hybrid", None, {})
    row = int(shard.search([query], 1, False).by_retriever["lexical"].rows[0, 0])
    for number in range(1, 6):
        corpus.write({f"new{number}": one(f"new{number}", f"lynx {number}")})
    corpus.write({"new0": []})
    assert shard.live_rows == 6
    assert shard.dead_rows == 1
    assert shard.fetch([row]).passages[0].text == "lynx zero"
    assert shard.ids.find(["new0#1", "new5#1"])[0] == -1
    now = KEPT_S + 1
    corpus.write({"other": one("other", "x")})
    with pytest.raises(Unavailable, match="search again") as error:
        shard.fetch([row])
    assert error.value.retry_after_s == 1
    for outside in (-1, 10_000):
        with pytest.raises(InvalidArgument, match="outside"):
            shard.fetch([outside])


def test_runs_are_merged_and_what_has_gone_is_dropped(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, 2)
    (shard,) = corpus.live
    for number in range(40):
        corpus.write({f"new{number}": one(f"new{number}", f"lynx {number}")})
    assert len(shard._state.segments) <= 5  # the version's, and three of a size class at most
    assert shard.live_rows == 40
    corpus.write({f"new{number}": [] for number in range(40)})
    assert (shard.live_rows, shard.dead_rows, shard.live_bytes, shard.count) == (0, 0, 0, 2)
    assert [
        len(ids)
        for ids in shard.search([corpus.query("lynx", "lexical", None, {})], 5, False).by_retriever["lexical"].ids
    ] == [0]


def test_ten_thousand_rows_that_came_one_by_one_lie_in_a_few_runs() -> None:
    @dataclass
    class Run:
        rows: int
        alive_count = 1

        @property
        def size_class(self) -> int:
            return size_class(self.rows)

    runs: list[Run] = []
    most = copied = 0
    for _ in range(10_000):
        runs.append(Run(1))
        while old := runs_to_merge(runs):  # type: ignore[arg-type]
            runs = [run for run in runs if run not in old]
            runs.append(Run(sum(run.rows for run in old)))  # type: ignore[attr-defined]
            copied += runs[-1].rows
        most = max(most, len(runs))
    assert most == 3
    assert copied / 10_000 < 60


def test_documents_of_a_shard_that_began_empty_change_and_go(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, 1, shards=8)
    (empty, *_) = (shard for shard in corpus.live if not shard.count)
    number = corpus.live.index(empty)
    name = next(name for name in (f"new{place}" for place in range(99)) if shard_of(name, 8) == number)
    for text in ("lynx", "lynx otter"):
        corpus.write({name: one(name, text)})
        (row,) = empty.ids.find([f"{name}#1"])
        assert empty.fetch([row]).passages[0].text == text
    assert empty.count == 1
    corpus.write({name: []})
    assert (empty.count, empty.ids.list("", None, 9)) == (0, [])


def test_passages_come_with_hits_and_in_the_order_that_they_were_asked_for(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, 4, late=True)
    (shard,) = corpus.live
    corpus.write({"a": one("a", "lynx"), "b": one("b", "lynx otter"), "d0": []})
    hits = shard.search([corpus.query("lynx", "lexical", None, {})], 5, True).by_retriever["lexical"]
    assert hits.passages is not None
    assert [passage.id for passage in hits.passages[0]] == hits.ids[0] == ["a#1", "b#1"]
    rows = [int(hits.rows[0, 1]), 2, int(hits.rows[0, 0])]
    fetched = shard.fetch(rows, with_vectors=True)
    assert [passage.id for passage in fetched.passages] == ["b#1", shard.fetch([2]).passages[0].id, "a#1"]
    assert fetched.vectors is not None
    np.testing.assert_array_equal(fetched.vectors[2], corpus.model.encode_passages(["lynx"])[0])


def test_rows_are_grouped_by_what_they_hold_wherever_they_lie(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, 4)
    (shard,) = corpus.live
    corpus.write({"a": one("a", "lynx", number=9, colour="red"), "d0": [], "b": one("b", "lynx")})
    rows = shard.ids.find(["a#1", "d3#1", "b#1"])
    keys = ReadKeys(rows, "number", texts=True).answer(shard)
    assert keys.values == [9, 3, None]
    assert keys.texts is not None
    assert keys.texts[0] == keys.texts[2] != keys.texts[1]
    assert ReadKeys(rows, "colour", texts=False).answer(shard).values == ["red", None, None]


def test_a_document_is_looked_up_with_all_that_is_stored_of_it(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, 4, late=True)
    (shard,) = corpus.live
    corpus.write({"new": [Passage("new#1", "lynx otter lynx", "T", {"tag": "x"}), Passage("new#2", "otter")], "d1": []})
    stored, gone, old, never = shard.lookup(["new", "d1", "d2", "nothing"])
    assert gone is None
    assert never is None
    assert stored is not None
    assert stored.position == 1
    assert [one.passage for one in stored.passages] == list(corpus.documents["new"])
    assert stored.passages[0].terms == {"t": 1, "lynx": 2, "otter": 1}
    assert stored.passages[0].length == 4
    written = corpus.written(corpus.documents["new"][1])
    assert stored.passages[1].vector is not None
    assert stored.passages[1].codes is not None
    assert written.codes is not None
    np.testing.assert_array_equal(stored.passages[1].vector, written.vector)
    np.testing.assert_array_equal(stored.passages[1].codes, written.codes)
    assert (stored.retired.terms, stored.retired.length, stored.retired.passages) == (
        {"t": 1, "lynx": 1, "otter": 2},
        5,
        2,
    )
    assert old is not None
    assert old.position == 0
    assert old.passages[0].passage == corpus.documents["d2"][0]


def test_entries_are_seen_once_and_those_of_other_shards_move_the_position_alone(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, 6, shards=3)
    entry = corpus.entry({"new": one("new", "lynx")})
    for _ in range(2):
        for shard in corpus.live:
            shard.apply([entry])
    assert [shard.position for shard in corpus.live] == [1, 1, 1]
    assert sorted(shard.live_rows for shard in corpus.live) == [0, 0, 1]
    hits = [shard.search([corpus.query("lynx", "dense", None, {})], 1, False) for shard in corpus.live]
    assert [found.position for found in hits] == [1, 1, 1]


def test_shards_that_nothing_was_written_to_answer_filters_by_fields_that_came_to_others(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, shards=3, late=False)
    corpus.documents = {f"d{number}": [Passage(f"d{number}#1", "otter")] for number in range(6)}
    corpus.open()
    corpus.write({"new": one("new", "lynx", year=2020)})
    query = corpus.query("lynx", "lexical", {"year": {"$gte": 2000}}, {"year": "integer"})
    assert [name for name, _, _ in ranking(corpus.live, query, 9)["lexical"]] == ["new#1"]
    # A coordinator may have seen an entry before a shard has.
    behind = LiveShard(corpus.base[0], corpus.manifest, 0, threads=1)
    assert behind.search([query], 9, False).matches == [0]
    assert len(behind.values("year", query.filter)) == 0


def test_a_version_that_lacks_what_writes_need_says_how_to_get_it(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, 3)
    entry = corpus.entry({"new": one("new", "lynx")})
    storage = Storage(str(tmp_path / "1"))
    for lacking in (layout.DOCUMENTS, layout.LEXICAL_COUNTS):
        files = [file for file in corpus.manifest.shards[0].files if not file.path.endswith(lacking)]
        old = corpus.manifest.model_copy(
            update={"shards": [corpus.manifest.shards[0].model_copy(update={"files": files})]}
        )
        shard = LiveShard(Shard.open(storage, old, 0, cache=None, threads=1), old, 0, threads=1)
        with pytest.raises(Conflict, match="built before documents could be written to an index; build it again"):
            shard.apply([entry])
        with pytest.raises(Conflict, match="build it again"):
            shard.lookup(["new"])
        assert shard.position == 0
        query = ShardQuery("otter", corpus.model.encode_queries(["otter"])[0], "dense")
        assert len(shard.search([query], 3, False).by_retriever["dense"].ids[0]) == 3


@pytest.mark.parametrize("kind", ["IVF4,Flat", "HNSW8"])
def test_what_has_gone_is_not_found_by_an_approximate_index(tmp_path: Path, kind: str) -> None:
    corpus = corpus_of(tmp_path, 60)
    (base,) = corpus.base
    vectors = base.vectors(np.arange(60))
    assert vectors is not None
    settings = IndexSettings(index_kind=kind, index_search="nprobe=4" if kind.startswith("IVF") else "")
    module, path = index_kind(kind), tmp_path / "approximate.faiss"
    module.build([vectors], vectors.shape[1], path, module.train(vectors, settings, 1), 1)
    info = VectorIndexInfo(kind=kind, search=settings.index_search, recall_at_10=None, latency_ms=None)
    manifest = corpus.manifest.model_copy(update={"index": info})
    folder = tmp_path / "1" / layout.shard_dir(manifest.version, 0)
    (folder / layout.VECTORS).write_bytes(path.read_bytes())
    opened = Shard.open(Storage(str(tmp_path / "1")), manifest, 0, cache=None, threads=1, verify=False)
    shard = LiveShard(opened, manifest, 0, threads=1)
    gone = {f"d{number}" for number in range(0, 60, 3)}
    shard.apply([corpus.entry({**{name: [] for name in gone}, "new": one("new", "otter")})])
    hits = shard.search([corpus.query("otter heron", "dense", None, {})], 60, False).by_retriever["dense"]
    found: Sequence[str] = hits.ids[0]
    assert set(found) == {f"d{number}#1" for number in range(60) if number % 3} | {"new#1"}
    assert len(found) == 41


def test_new_fields_get_the_type_of_their_first_value_and_integers_widen() -> None:
    types = live_fields.widened(
        {"year": "integer", "odd": "mixed"}, {"rank": 1, "year": 2, "odd": ["x"], "day": "2026-01-31"}
    )
    assert types == {"day": "timestamp", "odd": "mixed", "rank": "integer", "year": "integer"}
    assert live_fields.widened(types, {"year": 2001}) is types
    assert live_fields.widened(types, {"rank": 1.5})["rank"] == "number"
    for metadata in ({"rank": "x"}, {"day": "someday"}, {"year": True}, {"year": ["x"]}):
        with pytest.raises(InvalidArgument, match=f"metadata field {next(iter(metadata))} has type"):
            live_fields.widened(types, metadata)


def test_fields_beyond_the_most_get_no_type_the_same_ones_wherever_they_are_read() -> None:
    """Each has a column in every run: passages that bring ever new names would take all memory, at each start again."""
    metadata = {f"field-{number:03}": number for number in range(MAX_FIELDS)}
    types = live_fields.widened({"year": "integer"}, dict(reversed(metadata.items())))
    assert len(types) == MAX_FIELDS
    assert types == live_fields.widened({"year": "integer"}, metadata)
    assert set(metadata) - set(types) == {f"field-{MAX_FIELDS - 1:03}"}
    assert live_fields.widened(types, {"other": "red", "year": 2020}) is types
    with pytest.raises(InvalidArgument, match="year"):
        live_fields.widened(types, {"other": "red", "year": "red"})


def test_passages_whose_names_are_data_make_a_run_of_few_columns(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, 5)
    shard = LiveShard(corpus.base[0], corpus.manifest, 0, threads=1)
    metadata = {f"new-{number}": {f"{number}-{field}": field for field in range(50)} for number in range(20)}
    shard.apply([corpus.entry({name: one(name, "otter", **fields) for name, fields in metadata.items()})])
    assert len(shard.fields) == MAX_FIELDS
    rows = range(corpus.base[0].count, shard.count)
    assert {passage.id: passage.metadata for passage in shard.fetch(rows).passages} == {
        f"{name}#1": fields for name, fields in metadata.items()
    }


def test_statistics_and_positions_travel() -> None:
    statistics = TermStatistics(7, 30, ("a", "b", "a"), (3, 0, 3))
    queries = [ShardQuery("a b a", None, "lexical", statistics=statistics), ShardQuery("x", None, "lexical")]
    travelled = pickle.loads(pickle.dumps(ShardSearch("v", queries, 3, False)))
    assert [query.statistics for query in travelled.queries] == [statistics, None]
    assert pickle.loads(pickle.dumps(ShardHits({}, None, 9))).position == 9
