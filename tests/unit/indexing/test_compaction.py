"""Compaction: the version that it makes is that of a build from nothing of the same documents."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import shoal
from shoal.encoders import load_encoder
from shoal.errors import CorruptIndex, InvalidArgument
from shoal.index_root import layout, versions
from shoal.index_root.log_entry import DocumentWrite, LogEntry, WrittenPassage
from shoal.index_root.manifest import Manifest, ShardEntry
from shoal.index_root.storage import Storage
from shoal.indexes._structure import emptied
from shoal.indexing import compaction
from shoal.indexing.carried import Carried
from shoal.indexing.commits import committed_units
from shoal.indexing.compaction import compact
from shoal.indexing.empty import create_index
from shoal.indexing.plan import Plan, shard_of
from shoal.late.codec import Codec
from shoal.settings import CompactSettings, CreateSettings, EncoderSettings
from shoal.shard.reader import Shard
from shoal.shard.stored_rows import StoredRows
from tests.support.building import DIM, jsonl, records
from tests.support.incremental import STORED, Build, files_of, publish, train
from tests.support.manifests import describe
from tests.support.written import NOTHING, Document, LogWriter, MemoryLog

MEMORY = Path("/dev/shm")
POSITIONAL = (layout.POSITIONS, layout.DELETED)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where that can be had."""
    with tempfile.TemporaryDirectory(prefix="shoal-test-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder)


class Live:
    """An index root with a log that lies in memory."""

    def __init__(self, folder: Path, lines: Sequence[Document], **options: Any) -> None:
        self.folder = folder
        self.options = options
        build = Build(folder / "index", jsonl(folder / "base.jsonl", [dict(line) for line in lines]), **options)
        if build.plan.index.index_kind.startswith("ivf"):
            train(build)
        self.manifest, _ = publish(build)
        self.storage = build.storage
        self.log = MemoryLog()
        codec = self.codec() if self.manifest.late is not None else None
        self.writer = LogWriter(self.log, self.manifest, load_encoder(build.settings), codec)

    def codec(self) -> Codec:
        assert self.manifest.late is not None
        return Codec.from_projection(StoredRows(self.storage, self.manifest, 0).projection(), self.manifest.late.bits)

    def compact(self, **options: Any) -> Manifest:
        done = compact(CompactSettings(index=self.storage.uri, **options), self.log)
        assert done is not None
        assert versions.verify(self.storage, done.version) == []
        return done

    def fresh(self, lines: Sequence[Document]) -> Manifest:
        """A build of documents in this order, from nothing."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            source = jsonl(Path(name) / "fresh.jsonl", [dict(line) for line in lines])
            build = Build(Path(name) / "index", source, **self.options)
            if self.manifest.late is not None:
                build.storage.write(layout.codec(build.plan.hash), self.codec().to_bytes())
            manifest, _ = publish(build)
        return manifest


def stored(storage: Storage, manifest: Manifest) -> dict[str, tuple[Document, Any, int]]:
    """Every passage of a version: the record, its vector and its position."""
    found: dict[str, tuple[Document, Any, int]] = {}
    for entry in manifest.shards:
        shard = Shard.open(storage, manifest, entry.shard, cache=None, threads=1)
        fetched = shard.fetch(list(range(shard.count)), True)
        positions = StoredRows(storage, manifest, entry.shard).positions(np.arange(shard.count)).tolist()
        assert fetched.vectors is not None
        for passage, vector, position in zip(fetched.passages, fetched.vectors, positions, strict=True):
            record = {"id": passage.id, "text": passage.text, **passage.metadata}
            found[passage.id] = ({**record, "title": passage.title} if passage.title else record, vector, position)
        shard.close()
    return found


def state(lines: Sequence[Document], log: Sequence[Sequence[Document | str]]) -> list[Document]:
    """The documents that there are after all entries: rows of the base first, then those of the log in their order."""
    base = {line["id"]: line for line in reversed(lines)}
    written: dict[str, Document] = {}
    for write in (write for entry in log for write in entry):
        id_ = write if isinstance(write, str) else write["id"]
        base.pop(id_, None)
        written.pop(id_, None)
        if not isinstance(write, str):
            written[id_] = write
    order = [line for line in lines if base.pop(line["id"], None) is not None]
    return [*order, *written.values()]


def test_the_log_and_what_stays_of_the_base_become_a_version(tmp_path: Path) -> None:
    live = Live(tmp_path, records(30))
    log: list[list[Document | str]] = [
        [{"id": "p3", "text": "written anew", "page": 7}, {"id": "q1", "text": "new"}],
        ["p4", "absent"],
        [{"id": "p3", "text": "and once more", "page": 8}, "q1", {"id": "q2", "text": "new too", "title": "A"}],
    ]
    for entry in log:
        live.writer.append(entry)
    compacted = live.compact()
    expected = state(records(30), log)
    found = stored(live.storage, compacted)
    assert {id_: record for id_, (record, _, _) in found.items()} == {line["id"]: line for line in expected}
    assert {id_: position for id_, (_, _, position) in found.items() if position} == {"p3": 3, "q2": 3}
    deleted = [
        pair for entry in compacted.shards for pair in StoredRows(live.storage, compacted, entry.shard).deleted()
    ]
    assert sorted(deleted) == [("absent", 2), ("p4", 2), ("q1", 3)]
    assert (compacted.complete_to, compacted.format_version) == (3, 2)
    assert versions.read_current(live.storage).version == compacted.version  # type: ignore[union-attr]
    assert compacted.build["base"] == {
        "version": live.manifest.version, "reused": 28, "embedded": 2, "removed": 2
    }  # fmt: skip
    assert (compacted.counts.duplicates, compacted.counts.rejected) == (0, 0)
    assert not [name for name in live.storage.list(layout.STAGING) if name == compacted.plan]
    assert compact(CompactSettings(index=live.storage.uri), live.log) is None


WORDS = ("shoal", "index", "vector", "shard", "word", "late")
IDS = st.integers(0, 9).map(lambda number: f"d{number}")
DOCUMENTS = st.builds(
    lambda id_, words, title, page: {
        "id": id_, "text": " ".join(words), **({"title": title} if title else {}), **({"page": page} if page else {})
    },
    IDS,
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=8),
    st.sampled_from([None, "Title"]),
    st.sampled_from([None, 1, 2, 1.5, "three"]),
)  # fmt: skip
LOGS = st.lists(st.lists(st.one_of(DOCUMENTS, IDS), min_size=1, max_size=4), min_size=1, max_size=8)


@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    lines=st.lists(DOCUMENTS, min_size=1, max_size=12, unique_by=lambda line: line["id"]), log=LOGS, late=st.booleans()
)
def test_any_log_over_any_base_is_a_fresh_build_of_the_same_documents(
    lines: list[Document], log: list[list[Document | str]], late: bool
) -> None:
    options = STORED if late else {}
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        live = Live(Path(name), lines, **options)
        first = len(log) // 2
        for entry in log[:first]:
            live.writer.append(entry)
        if first:
            live.compact()
        for entry in log[first:]:
            live.writer.append(entry)
        compacted = live.compact()
        expected = state(lines, log)
        found = stored(live.storage, compacted)
        assert {id_: record for id_, (record, _, _) in found.items()} == {line["id"]: line for line in expected}
        assert compacted.complete_to == len(log)
        if not expected:
            assert compacted.counts.passages == 0
            return
        fresh = live.fresh(expected)
        own = {
            path: digest for path, digest in files_of(compacted).items() if not path.endswith((".json", *POSITIONAL))
        }
        theirs = {path: digest for path, digest in files_of(fresh).items() if not path.endswith(".json")}
        assert own == theirs
        assert (compacted.fields, compacted.lexical, compacted.counts.passages) == (
            fresh.fields, fresh.lexical, fresh.counts.passages
        )  # fmt: skip


def test_a_compaction_that_was_interrupted_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "UNIT_PASSAGES", 2)
    live = Live(tmp_path, records(10))
    for number in range(6):
        live.writer.append([{"id": f"q{number}", "text": f"text {number}"}])
    read = live.log.read

    class Killed(Exception):
        """What ends the process in the middle."""

    def dying(after: int, limit: int | None = None) -> Iterator[LogEntry]:
        if (after, limit) == (4, 2):  # the last unit of the log
            raise Killed
        return read(after, limit)

    monkeypatch.setattr(live.log, "read", dying)
    with pytest.raises(Killed):
        live.compact()
    monkeypatch.setattr(live.log, "read", read)
    (staged,) = [plan for plan in plans(live.storage) if plan.carried is not None]
    assert len(committed_units(live.storage, staged.hash)) == len(staged.units) - 1
    live.writer.append([{"id": "later", "text": "written meanwhile"}])
    compacted = live.compact()
    assert (compacted.version, compacted.complete_to, compacted.counts.passages) == (staged.version, 6, 16)
    assert live.compact().complete_to == 7
    assert "later" in stored(live.storage, versions.current_manifest(live.storage))


def plans(storage: Storage) -> list[Plan]:
    return [Plan.from_bytes(storage.read(layout.plan(name))) for name in storage.list(layout.STAGING)
            if storage.exists(layout.plan(name))]  # fmt: skip


def test_a_version_that_was_published_and_not_made_current_is_made_so(tmp_path: Path) -> None:
    live = Live(tmp_path, records(5))
    live.writer.append(["p1"])
    waiting = live.compact(activate=False)
    assert versions.read_current(live.storage).version == live.manifest.version  # type: ignore[union-attr]
    again = live.compact()
    assert again.version != live.manifest.version
    assert (again.complete_to, waiting.complete_to, again.counts) == (1, 1, waiting.counts)


def test_what_was_trained_serves_on_unless_asked_to_train_anew(tmp_path: Path) -> None:
    live = Live(tmp_path, records(400), index_kind="ivf", shards=2)
    live.writer.append([{"id": f"q{n}", "text": f"quite another {n % 5} topic {n}"} for n in range(200)])

    def trained(manifest: Manifest) -> list[bytes]:
        return [
            emptied(live.storage.local_path(f"{layout.shard_dir(manifest.version, shard)}/{layout.VECTORS}"))
            for shard in range(2)
        ]

    compacted = live.compact()
    assert (compacted.index.kind, compacted.counts.passages) == ("ivf", 600)
    assert trained(compacted) == trained(live.manifest)
    live.writer.append(["p1"])
    anew = live.compact(retrain=True)
    assert set(trained(anew)).isdisjoint(trained(live.manifest))


def test_the_kind_grows_with_the_index_unless_another_was_asked_for() -> None:
    manifest = describe("v1", [ShardEntry(shard=0, count=9, files=[])], dim=64)
    assert kind_for(manifest, 100_000) == "ivf_sq8"
    assert kind_for(manifest, 100_000, index_kind="flat") == "flat"
    asked_for = manifest.model_copy(update={"index": manifest.index.model_copy(update={"kind": "hnsw"})})
    assert kind_for(asked_for, 100_000) == "hnsw"
    assert kind_for(asked_for, 100_000, index_kind="auto") == "ivf_sq8"


def kind_for(manifest: Manifest, written: int, **options: Any) -> str:
    rows = [entry.count for entry in manifest.shards]
    carried = Carried(version=manifest.version, after=0, position=1, rows=rows, entries=[0, 1])
    plan = compaction.plan_compaction(CompactSettings(index="index", **options), manifest, carried, written)
    return plan.index.index_kind


def test_an_empty_index_and_one_that_became_empty_are_compacted(tmp_path: Path) -> None:
    manifest = create_index(CreateSettings(index=str(tmp_path), encoder=f"hashing:{DIM}"))
    log = MemoryLog()
    writer = LogWriter(log, manifest, load_encoder(EncoderSettings(encoder=f"hashing:{DIM}")))
    writer.append([{"id": "a", "text": "the first one", "page": 1}, {"id": "b", "text": "the second one"}])
    filled = compact(CompactSettings(index=str(tmp_path)), log)
    assert filled is not None
    assert (filled.counts.passages, filled.fields) == (2, {"page": "integer"})
    writer.append(["b", "a"])
    empty = compact(CompactSettings(index=str(tmp_path)), log)
    assert empty is not None
    assert (empty.counts.passages, empty.complete_to) == (0, 2)
    with shoal.open(tmp_path) as index:
        assert index.search("the first one").results == []


def test_texts_that_are_cut_stay_together_in_any_number_of_shards(tmp_path: Path) -> None:
    lines = [{"id": f"p{n}", "text": f"passage {n} is about the topic {n % 7}. " * 4} for n in range(20)]
    live = Live(tmp_path, lines, chunk_characters=80)
    pieces = [written_piece(live, f"p7#{number}", f"piece {number}") for number in (1, 2, 3)]
    live.log.entries.append(
        LogEntry(1, "", 0.0, live.manifest.encoder.digest, None, None, (), (
            DocumentWrite("p7", NOTHING, tuple(pieces)), DocumentWrite("p8", NOTHING, ())))
    )  # fmt: skip
    compacted = live.compact(shards=5)
    found = stored(live.storage, compacted)
    assert {id_: record["text"] for id_, (record, _, _) in found.items() if id_.startswith("p7#")} == {
        "p7#1": "piece 1", "p7#2": "piece 2", "p7#3": "piece 3"
    }  # fmt: skip
    assert {id_.partition("#")[0] for id_ in found} == {f"p{n}" for n in range(20)} - {"p8"}
    assert len(compacted.shards) == 5
    for entry in compacted.shards:
        stored_rows = StoredRows(live.storage, compacted, entry.shard)
        ids, _ = stored_rows.passages(np.arange(entry.count))
        assert {shard_of(id_.partition("#")[0], 5) for id_ in ids} <= {entry.shard}


def written_piece(live: Live, id_: str, text: str) -> WrittenPassage:
    vector = load_encoder(EncoderSettings(encoder=f"hashing:{DIM}")).encode_passages([text])[0]
    return WrittenPassage(id_, text, None, None, vector, None, {}, 0)


def test_an_entry_that_is_gone_or_does_not_fit_publishes_nothing(tmp_path: Path) -> None:
    live = Live(tmp_path, records(10))
    live.writer.append([{"id": "a", "text": "one"}])
    live.writer.append([{"id": "b", "text": "two"}])
    whole = list(live.log.entries)
    published = versions.list_versions(live.storage)
    del live.log.entries[0]
    live.log.entries.append(replace(whole[1], position=3))
    with pytest.raises(CorruptIndex, match="no entry 1 any more"):
        live.compact()
    live.log.entries[:] = [replace(whole[0], encoder="sha256:other"), whole[1]]
    with pytest.raises(CorruptIndex, match="vectors of entry 1 of the log were not made as those"):
        live.compact()
    live.log.entries[:] = [replace(whole[0], codec="other"), whole[1]]
    with pytest.raises(CorruptIndex, match="codes of tokens of entry 1"):
        live.compact()
    assert versions.list_versions(live.storage) == published
    live.log.entries[:] = whole
    assert live.compact().counts.passages == 12


def test_a_damaged_base_is_told_before_anything_is_carried_over(tmp_path: Path) -> None:
    live = Live(tmp_path, records(10))
    live.writer.append(["p1"])
    path = live.storage.local_path(f"{layout.shard_dir(live.manifest.version, 1)}/{layout.VECTORS}")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptIndex, match="does not match the checksum"):
        live.compact()


def test_vectors_that_were_only_approximated_cannot_be_carried_over() -> None:
    manifest = describe("v1", [ShardEntry(shard=0, count=9, files=[])], dim=64, kind="SQ8")
    with pytest.raises(InvalidArgument, match="approximations of its vectors only") as refused:
        kind_for(manifest, 1)
    assert refused.value.param == "index_kind"


def test_prune_leaves_what_a_compaction_starts_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = Live(tmp_path, records(5))
    live.writer.append(["p1"])
    monkeypatch.setattr(compaction, "publish_units", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        live.compact()
    create = versions.list_versions(live.storage)
    versions.prune(live.storage, 0)
    assert versions.list_versions(live.storage) == create
