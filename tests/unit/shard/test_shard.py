import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import CorruptIndex, InvalidArgument, NotFound
from shoal.filters import Compare, Not
from shoal.index_root import layout
from shoal.index_root.manifest import Manifest, ShardEntry
from shoal.index_root.storage import Storage
from shoal.records import FloatArray, Passage
from shoal.shard import passages as shard_passages
from shoal.shard import reader as reader_module
from shoal.shard import writer
from shoal.shard.messages import dense_queries
from shoal.shard.passages import to_batch
from shoal.shard.reader import Shard
from shoal.shard.writer import write_shard
from tests.support.indexes import passages as some_passages
from tests.support.indexes import publish
from tests.support.manifests import describe

DIM, VERSION = 8, "v1"


def passages(count: int) -> list[Passage]:
    return [
        Passage(
            id=f"p{number}",
            text=f"text {number} ä€" + "x" * (number % 5),
            title=None if number % 3 else f"title {number}",
            metadata={} if number % 2 else {"number": number, "tags": ["a", str(number)]},
        )
        for number in range(count)
    ]


def vectors(count: int) -> FloatArray:
    found = np.random.default_rng(3).standard_normal((count, DIM), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def write(folder: Path, count: int, block: int = 1000, kind: str = "flat", number: int = 0) -> ShardEntry:
    content, rows = passages(count), vectors(count)
    blocks = ((to_batch(content[at : at + block]), rows[at : at + block]) for at in range(0, count, block))
    return write_shard(folder, blocks, shard=number, dim=DIM, kind=kind, trained=None, threads=1)


def manifest(*entries: ShardEntry, dim: int = DIM) -> Manifest:
    return describe(VERSION, entries, dim=dim)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "root"))


def written(storage: Storage, count: int, number: int = 0) -> ShardEntry:
    return write(storage.local_path(layout.shard_dir(VERSION, number)), count, number=number)


def opened(storage: Storage, count: int) -> Shard:
    return Shard.open(storage, manifest(written(storage, count)), 0, cache=None, threads=1)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = text | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.lists(text)


@given(
    st.lists(
        st.builds(
            Passage,
            id=text,
            text=text,
            title=st.none() | text,
            metadata=st.dictionaries(text, values, max_size=4),
        ),
        max_size=5,
    )
)
def test_passages_come_back_with_the_types_they_had(content: list[Passage]) -> None:
    batch = to_batch(content)
    assert batch.schema == shard_passages.PASSAGE_SCHEMA
    found = shard_passages.Passages.of_batch(batch).all()
    assert found == content
    for before, after in zip(content, found, strict=True):
        assert {key: type(value) for key, value in before.metadata.items()} == {
            key: type(value) for key, value in after.metadata.items()
        }


def test_metadata_is_canonical_json() -> None:
    one, two = ({"b": 1, "a": "ä"}, {"a": "ä", "b": 1})
    batch = to_batch([Passage("1", "x", metadata=one), Passage("2", "x", metadata=two), Passage("3", "x")])
    assert batch.column("metadata").to_pylist() == ['{"a":"ä","b":1}'] * 2 + [None]


def test_a_shard_holds_its_passages_and_says_what_it_is(storage: Storage) -> None:
    entry = written(storage, 25, number=3)
    assert (entry.shard, entry.count) == (3, 25)
    assert [file.path for file in entry.files] == [
        "shard-00003/vectors.faiss",
        "shard-00003/passages.arrow",
        "shard-00003/shard.json",
    ]
    for file in entry.files:
        assert storage.sha256(f"{layout.version_dir(VERSION)}/{file.path}") == (file.sha256, file.bytes)
    info = json.loads(storage.read(f"{layout.shard_dir(VERSION, 3)}/shard.json"))
    text_bytes = sum(len(passage.text.encode()) for passage in passages(25))
    assert info == {
        "format_version": 1,
        "shard": 3,
        "count": 25,
        "dim": DIM,
        "kind": "flat",
        "text_bytes": text_bytes,
    }


@settings(max_examples=40)
@given(
    optional=st.lists(st.tuples(st.none() | text, st.booleans()), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    sliced=st.booleans(),
)
def test_how_rows_are_cut_into_blocks_changes_no_byte(
    tmp_path_factory: pytest.TempPathFactory, optional: list[tuple[str | None, bool]], cuts: list[int], sliced: bool
) -> None:
    content = [
        Passage(f"p{row}", "text" * row, title=title, metadata={"row": row} if tagged else {})
        for row, (title, tagged) in enumerate(optional)
    ]
    count, whole, rows = len(content), to_batch(content), vectors(len(content))
    bounds = [0, *sorted(min(cut, count) for cut in cuts), count]
    blocks = [
        (whole.slice(start, stop - start) if sliced else to_batch(content[start:stop]), rows[start:stop])
        for start, stop in pairwise(bounds)
    ]
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "BATCH_ROWS", 8)
        fields = {"row": "integer"} if any(tagged for _, tagged in optional) else None
        one, two = (
            write_shard(folder / name, given, shard=0, dim=DIM, kind="flat", trained=None, threads=1, fields=fields)
            for name, given in (("one", [(whole, rows)]), ("two", blocks))
        )
    assert one == two


def test_batches_have_the_same_number_of_rows_but_for_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BATCH_ROWS", 8)
    write(tmp_path, 37, block=13)
    with pa.memory_map(str(tmp_path / layout.PASSAGES)) as file, pa.ipc.open_file(file) as reader:
        assert [reader.get_batch(number).num_rows for number in range(reader.num_record_batches)] == [8, 8, 8, 8, 5]


def test_every_row_is_found_across_batches(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BATCH_ROWS", 4)
    opened_shard = opened(storage, 23)
    rows = [*range(22, -1, -1), 5, 5]
    fetched = opened_shard.fetch(rows, with_vectors=True)
    assert fetched.passages == [passages(23)[row] for row in rows]
    assert fetched.vectors is not None
    np.testing.assert_array_equal(fetched.vectors, vectors(23)[rows])
    assert opened_shard.fetch([3]).vectors is None
    assert opened_shard.fetch([]).passages == []
    for outside in (-1, 23):
        with pytest.raises(InvalidArgument, match="outside the 23 rows"):
            opened_shard.fetch([0, outside])


@pytest.mark.parametrize("with_passages", [True, False])
def test_a_search_gives_ids_and_if_wanted_passages(storage: Storage, with_passages: bool) -> None:
    opened_shard = opened(storage, 12)
    hits = opened_shard.search(dense_queries(vectors(12)[[4, 9]]), 20, with_passages).by_retriever["dense"]
    assert hits.scores.shape == hits.rows.shape == (2, 20)
    assert hits.rows[:, 0].tolist() == [4, 9]
    assert (hits.rows[:, 12:] == -1).all()
    assert [len(ids) for ids in hits.ids] == [12, 12]
    assert hits.ids == [[f"p{row}" for row in line[:12]] for line in hits.rows.tolist()]
    if with_passages:
        assert hits.passages == [[passages(12)[row] for row in line[:12]] for line in hits.rows.tolist()]
    else:
        assert hits.passages is None


def test_hits_tell_how_many_passages_a_filter_lets_through(tmp_path: Path) -> None:
    published = publish(tmp_path, "v1", some_passages(20), shards=1)
    one = Shard.open(Storage(str(tmp_path)), published, 0, cache=None, threads=1)
    asked = np.zeros((3, 64), np.float32)
    few = Compare("number", "lte", 6)
    for with_passages in (True, False):
        hits = one.search(dense_queries(asked, [few, None, Not(few)]), 4, with_passages)
        assert hits.matches == [7, None, 13]
        assert [len(ids) for ids in hits.by_retriever["dense"].ids] == [4, 4, 4]
        again = one.search(dense_queries(asked), 4, with_passages)
        assert again.matches is None


def test_queries_of_another_dimension_are_refused(storage: Storage) -> None:
    opened_shard = opened(storage, 3)
    for queries in (np.zeros((1, DIM + 1), np.float32), np.zeros(DIM, np.float32)):
        with pytest.raises(InvalidArgument, match=r"needs \(b, 8\)"):
            opened_shard.search(dense_queries(queries), 3, with_passages=False)


def test_an_empty_shard_answers(storage: Storage) -> None:
    opened_shard = opened(storage, 0)
    hits = opened_shard.search(dense_queries(vectors(2)), 3, with_passages=True).by_retriever["dense"]
    assert (opened_shard.count, hits.ids, hits.passages) == (0, [[], []], [[], []])
    opened_shard.warm()
    opened_shard.close()


def test_a_warm_shard_answers_like_any_other_and_may_be_closed_twice(storage: Storage) -> None:
    opened_shard = opened(storage, 5)
    opened_shard.warm()
    assert opened_shard.search(dense_queries(vectors(5)[:1]), 1, with_passages=False).by_retriever["dense"].ids == [
        ["p0"]
    ]
    opened_shard.close()
    opened_shard.close()


@pytest.mark.parametrize("name", [layout.VECTORS, layout.PASSAGES, layout.SHARD])
def test_a_damaged_or_missing_file_is_named(storage: Storage, name: str) -> None:
    entry = written(storage, 9)
    file = storage.local_path(f"{layout.shard_dir(VERSION, 0)}/{name}")
    data = file.read_bytes()
    for damage in (bytes([data[0] ^ 1]) + data[1:], data[:-1], None):
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(damage)
        with pytest.raises(CorruptIndex, match=str(file)):
            Shard.open(storage, manifest(entry), 0, cache=None, threads=1)


def test_a_shard_that_is_not_what_its_manifest_says_is_corrupt(storage: Storage) -> None:
    entry = written(storage, 9)
    for wrong in (manifest(entry.model_copy(update={"count": 8})), manifest(entry, dim=9)):
        with pytest.raises(CorruptIndex, match="its manifest says"):
            Shard.open(storage, wrong, 0, cache=None, threads=1)


def test_files_that_were_not_verified_still_give_no_raw_error(storage: Storage) -> None:
    entry = written(storage, 9)
    for name in (layout.VECTORS, layout.PASSAGES):
        file = storage.local_path(f"{layout.shard_dir(VERSION, 0)}/{name}")
        whole = file.read_bytes()
        for damage in (b"", b"other", whole[:40]):
            file.write_bytes(damage)
            with pytest.raises(CorruptIndex, match=name):
                Shard.open(storage, manifest(entry), 0, cache=None, threads=1, verify=False)
        file.write_bytes(whole)


def test_an_id_that_leads_out_of_its_file_is_found_when_a_shard_is_opened(storage: Storage) -> None:
    entry = written(storage, 2)
    file = storage.local_path(f"{layout.shard_dir(VERSION, 0)}/{layout.PASSAGES}")
    offsets = np.array([0, 2, 4], np.int32)
    data = file.read_bytes()
    assert data.count(offsets.tobytes()) == 1
    file.write_bytes(data.replace(offsets.tobytes(), np.array([0, 2, 2**30], np.int32).tobytes()))
    with pytest.raises(CorruptIndex, match=layout.PASSAGES):
        Shard.open(storage, manifest(entry), 0, cache=None, threads=1, verify=False)


def test_a_shard_that_the_version_does_not_have_is_not_found(storage: Storage) -> None:
    with pytest.raises(NotFound, match="has no shard 1"):
        Shard.open(storage, manifest(written(storage, 3)), 1, cache=None, threads=1)


def test_a_remote_shard_needs_a_cache(storage: Storage) -> None:
    remote = Storage("s3://bucket/index?endpoint_override=http://127.0.0.1:1&region=us-east-1")
    with pytest.raises(InvalidArgument, match="need a cache"):
        Shard.open(remote, manifest(written(storage, 3)), 0, cache=None, threads=1)


def test_vectors_that_do_not_fit_their_passages_are_refused(tmp_path: Path) -> None:
    batch, good = to_batch(passages(3)), vectors(3)
    for wrong in (good[:2], good[:, :4], good.astype(np.float64)):
        with pytest.raises(ValueError, match="3 passages need"):
            write_shard(tmp_path, [(batch, wrong)], shard=0, dim=DIM, kind="flat", trained=None, threads=1)
    broken = good.copy()
    broken[1, 2] = np.nan
    with pytest.raises(InvalidArgument, match="'p1' is not finite"):
        write_shard(tmp_path, [(batch, broken)], shard=0, dim=DIM, kind="flat", trained=None, threads=1)


def test_what_does_not_fit_into_one_message_is_left_to_be_fetched(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = opened(storage, 40)
    sizes = [len(json.dumps(p.metadata, separators=(",", ":"))) if p.metadata else 0 for p in passages(40)]
    sizes = [n + len(p.text.encode()) + len(p.title or "") for n, p in zip(sizes, passages(40), strict=True)]
    queries = dense_queries(vectors(40)[:2])
    found = one.search(queries, 6, with_passages=True).by_retriever["dense"]
    total = sum(sizes[row] for row in found.rows.ravel().tolist())
    assert found.passages is not None
    monkeypatch.setattr(reader_module, "MESSAGE_BYTES", total)
    again = one.search(queries, 6, with_passages=True).by_retriever["dense"]
    assert again.passages == found.passages
    monkeypatch.setattr(reader_module, "MESSAGE_BYTES", total - 1)
    without = one.search(queries, 6, with_passages=True).by_retriever["dense"]
    assert without.passages is None
    assert without.ids == found.ids

    rows = [7, 3, 30, 12]
    for limit, fits in ((0, 1), (sum(sizes[row] for row in rows[:2]), 2), (sum(sizes[row] for row in rows), 4)):
        monkeypatch.setattr(reader_module, "MESSAGE_BYTES", limit)
        assert one.fetch(rows).passages == [passages(40)[row] for row in rows[:fits]]
    fetched = one.fetch(rows, with_vectors=True)
    assert fetched.vectors is not None
    assert 0 < len(fetched.vectors) == len(fetched.passages) < 4
