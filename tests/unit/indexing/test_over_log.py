"""Builds of a source over an index that was written to: nothing that was written is lost, unless that is asked for."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pytest

import shoal
from jobs.build.tasks import Embedder
from shoal.encoders import load_encoder
from shoal.errors import Conflict, CorruptIndex, InvalidArgument
from shoal.index_root import layout, versions
from shoal.index_root.log import Log
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexing.base import choose_base, open_base
from shoal.indexing.carry import CarriedEmbedder, Carrier
from shoal.indexing.commits import Tally, read_unit_commit
from shoal.indexing.embed import embed_unit
from shoal.indexing.empty import create_index
from shoal.indexing.losses import read_report
from shoal.indexing.over_log import over_log
from shoal.indexing.plan import make_plan
from shoal.indexing.spool import spool
from shoal.records import Passage
from shoal.search.live_index import LiveIndex
from shoal.settings import CreateSettings
from shoal.shard.reader import Shard
from shoal.shard.stored_rows import StoredRows
from tests.support.building import DIM, jsonl, records
from tests.support.incremental import STORED, Build, files_of, publish
from tests.support.written import Document, Root

MEMORY = Path("/dev/shm")
POSITIONAL = (layout.POSITIONS, layout.DELETED)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where that can be had."""
    with tempfile.TemporaryDirectory(prefix="shoal-test-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder)


class Written(Protocol):
    """An index root that is built over."""

    @property
    def storage(self) -> Storage: ...

    @property
    def options(self) -> dict[str, Any]: ...


class Created(NamedTuple):
    """An index root that began without passages."""

    storage: Storage
    options: dict[str, Any]


class LiveBuild(Build):
    """A build of a source that takes over what was written."""

    def __init__(self, root: Written, source: Sequence[Document], **options: Any) -> None:
        path = Path(root.storage.uri).parent / f"source-{len(source)}.jsonl"
        if not path.exists():  # another time of the file is another plan
            jsonl(path, [dict(line) for line in source])
        super().__init__(root.storage.uri, path, **{**root.options, **options})
        plan = make_plan(self.settings, self.encoder.fingerprint())
        plan, self.written, self.remark = over_log(plan, self.storage, self.settings.drop_live, self.settings.reembed)
        self.plan = spool(plan if self.settings.reembed else choose_base(plan, self.storage)[0], self.storage)
        self.tally = Tally(len(self.plan.units), self.plan.shards)

    def embed(self) -> "LiveBuild":
        self.written.stage(self.storage, self.plan.hash)
        codec, base = self.codec(), open_base(self.plan, self.storage)
        carrier: Carrier | None = None
        for unit in self.plan.units:
            if unit.origin == "source":
                commit = embed_unit(self.plan, unit, self.encoder, self.storage, codec, base, self.written)
            else:
                embedder = CarriedEmbedder(self.plan, self.encoder, codec, base)
                carrier = carrier or Carrier(self.plan, self.storage, Log.open(self.storage), embedder)
                commit = carrier.carry(unit)
            self.tally.add_commit(commit)
        return self


def texts(root: Root, manifest: Manifest) -> dict[str, str]:
    return {passage.id: passage.text for passage in passages(root, manifest)}


def passages(root: Root, manifest: Manifest) -> list[Passage]:
    found: list[Passage] = []
    for entry in manifest.shards:
        shard = Shard.open(root.storage, manifest, entry.shard, cache=None, threads=1)
        found += shard.fetch(list(range(shard.count))).passages
        shard.close()
    return found


def changed() -> list[dict[str, Any]]:
    """The records of the source as it is later: p1 and p3 have other texts, p4 is gone, p5 is new."""
    lines = records(6)
    lines[1]["text"], lines[3]["text"] = "of the source", "changed in the source"
    return [line for line in lines if line["id"] != "p4"]


@pytest.mark.parametrize("options", [{}, STORED], ids=["vectors", "tokens"])
@pytest.mark.parametrize("compacted", [False, True], ids=["log", "compacted"])
def test_what_was_written_wins_over_the_source_and_what_was_deleted_stays_so(
    tmp_path: Path, options: dict[str, Any], compacted: bool
) -> None:
    root = Root(tmp_path, **options)
    root.write([{"id": "p1", "text": "written"}, {"id": "n1", "text": "new"}, {"id": "n2", "text": "new too"}])
    root.write(["p2", "n2"])
    if compacted:
        root.compact()
    root.write([{"id": "n1", "text": "written again", "page": 5}])
    build = LiveBuild(root, changed())
    manifest, encoded = publish(build)
    assert texts(root, manifest) == {
        "p0": "passage 0 about topic 0", "p1": "written",
        "p3": "changed in the source", "p5": "passage 5 about topic 5",
        "n1": "written again",
    }  # fmt: skip
    assert sorted(encoded) == ["changed in the source", "passage 5 about topic 5"]
    assert manifest.complete_to == 3
    assert versions.verify(root.storage, manifest.version) == []
    assert (manifest.counts.duplicates, manifest.counts.rejected) == (0, 0)
    # p1 and p2 of the source; what the version or the log had of n1, and n2 where it came and went within the log.
    assert read_report(root.storage, manifest).superseded == 2 + 1 + (not compacted)
    deleted = [pair for entry in manifest.shards for pair in StoredRows(root.storage, manifest, entry.shard).deleted()]
    assert sorted(deleted) == [("n2", 2), ("p2", 2)]


def test_the_version_is_a_fresh_build_of_the_same_documents(tmp_path: Path) -> None:
    root = Root(tmp_path)
    written = [{"id": "p1", "text": "written", "page": 1}, {"id": "n1", "text": "new"}]
    root.write(written)
    root.write(["p2"])
    manifest, _ = publish(LiveBuild(root, changed()))
    rest = [line for line in changed() if line["id"] not in ("p1", "p2")]
    fresh, _ = publish(Build(tmp_path / "fresh", jsonl(tmp_path / "fresh.jsonl", [*written, *rest])))
    own = {
        path: digest
        for path, digest in files_of(manifest).items()
        if not path.endswith(("positions.npy", "deleted.arrow"))
    }
    theirs = files_of(fresh)
    del own["report.json"], theirs["report.json"]
    assert own == theirs


def test_the_same_source_at_the_same_position_is_the_same_build(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.write(["p1"])
    manifest, _ = publish(LiveBuild(root, changed()))
    again = LiveBuild(root, changed())
    assert again.plan.content_hash == manifest.plan
    assert versions.find_plan(root.storage, again.plan.content_hash) == manifest.version
    root.write(["p3"])
    assert LiveBuild(root, changed()).plan.content_hash != manifest.plan


def test_what_was_written_can_be_left_out(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.write([{"id": "p1", "text": "written"}, {"id": "n1", "text": "new"}])
    root.compact()
    root.write(["p0"])
    build = LiveBuild(root, changed(), drop_live=True)
    assert build.remark == "all that was written up to position 2 is left out"
    manifest, _ = publish(build)
    assert texts(root, manifest) == {line["id"]: line["text"] for line in changed()}
    assert manifest.complete_to == 2
    assert texts(root, publish(LiveBuild(root, records(2)))[0]) == {
        "p0": "passage 0 about topic 0", "p1": "passage 1 about topic 1"
    }  # fmt: skip


def test_texts_that_are_cut_otherwise_cannot_lie_beside_the_build(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.write(["p1"])
    for _ in ("log", "compacted"):
        with pytest.raises(InvalidArgument, match=r"cuts its texts, or does not.*--drop-live"):
            LiveBuild(root, changed(), chunk_characters=50)
        root.write([{"id": "n", "text": "new"}])
        root.compact()
    LiveBuild(root, changed(), drop_live=True, chunk_characters=50)


def test_the_reduction_of_an_index_that_began_empty_is_that_of_a_build_over_it(tmp_path: Path) -> None:
    root = tmp_path / "index"
    settings = CreateSettings.model_validate({"index": str(root), "encoder": f"hashing:{DIM}", **STORED})
    created = create_index(settings)
    with shoal.open(root) as index:
        index.upsert([{"id": "p1", "text": "written"}, {"id": "new", "text": "new"}])
    manifest, encoded = publish(LiveBuild(Created(Storage(str(root)), STORED), records(3)))
    assert sorted(encoded) == ["passage 0 about topic 0", "passage 2 about topic 2"]
    assert manifest.counts.passages == 4
    storage = Storage(str(root))
    before, now = (StoredRows(storage, each, 0).projection() for each in (created, manifest))
    np.testing.assert_array_equal(now, before)
    with shoal.open(root) as index:
        found = index.search("written", rerank="late", top_n=1, include=["text"]).results
        assert [(result.id, result.text) for result in found] == [("p1", "written")]


@pytest.mark.parametrize(
    "options", [{"encoder": "hashing:32"}, STORED, {"encoder": "hashing:32", **STORED}], ids=["encoder", "late", "both"]
)
@pytest.mark.parametrize("compacted", [False, True], ids=["log", "compacted"])
def test_other_models_embed_anew_what_was_written(tmp_path: Path, options: dict[str, Any], compacted: bool) -> None:
    root = Root(tmp_path)
    root.write([{"id": "p1", "text": "written", "title": "Title"}, {"id": "n1", "text": "new"}, "p2"])
    if compacted:
        root.compact()
    root.write([{"id": "n2", "text": "new too"}])
    build = LiveBuild(root, changed(), **options)
    assert "embedded anew" in str(build.remark)
    manifest, encoded = publish(build)
    contents = {"n1": "new", "n2": "new too", "p1": "Title written"}
    assert set(contents.values()) <= set(encoded)
    found = {passage.id: passage for passage in passages(root, manifest)}
    assert sorted(found) == ["n1", "n2", "p0", "p1", "p3", "p5"]
    assert {id_: passage.content for id_, passage in found.items() if id_ in contents} == contents
    for entry in manifest.shards:
        shard = Shard.open(root.storage, manifest, entry.shard, cache=None, threads=1)
        rows = np.arange(shard.count)
        expected = load_encoder(build.settings).encode_passages([shard.content(row) for row in rows.tolist()])
        np.testing.assert_allclose(shard.vectors(rows), expected, atol=1e-6)
        assert (shard.codes(rows) is None) == (manifest.late is None)
        shard.close()
    # Its own log goes on behind it, with its own models.
    live = LiveIndex(root.storage, manifest)
    live.replay()
    assert (live.tail.problem, manifest.complete_to, versions.current_manifest(root.storage)) == (None, 2, manifest)


def test_what_is_written_during_such_a_build_keeps_it_from_being_current_until_it_is_embedded_too(
    tmp_path: Path,
) -> None:
    root = Root(tmp_path)
    root.write([{"id": "n1", "text": "new"}])
    build = LiveBuild(root, changed(), encoder="hashing:32")
    root.write([{"id": "n2", "text": "written meanwhile"}])
    with pytest.raises(Conflict, match=r"entry 2 .*another encoder.*build the source again while nothing is written"):
        publish(build)
    assert versions.current_manifest(root.storage).version == root.manifest.version
    again, encoded = publish(LiveBuild(root, changed(), encoder="hashing:32"))
    assert encoded == ["written meanwhile"]
    assert texts(root, again)["n2"] == "written meanwhile"
    assert again.complete_to == 2


def test_what_came_too_late_for_the_switch_is_embedded_by_the_next_build(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.write([{"id": "n1", "text": "new"}])
    manifest, _ = publish(LiveBuild(root, changed(), encoder="hashing:32"))
    root.write([{"id": "n2", "text": "of a server that had not switched yet"}])
    live = LiveIndex(root.storage, manifest)
    live.replay()
    assert "build the source again" in str(live.tail.problem)
    with pytest.raises(CorruptIndex, match="build the source again, which embeds it anew"):
        root.compact()
    again, encoded = publish(LiveBuild(root, changed(), encoder="hashing:32"))
    assert encoded == ["of a server that had not switched yet"]
    live = LiveIndex(root.storage, again)
    live.replay()
    assert (live.tail.problem, texts(root, again)["n2"]) == (None, "of a server that had not switched yet")


def test_codes_of_another_reduction_keep_a_version_from_being_current(tmp_path: Path) -> None:
    root = Root(tmp_path, **STORED)
    root.write([{"id": "n1", "text": "new"}])
    other = [{"id": "x", "text": "quite other words to learn from"}, {"id": "y", "text": "zebra"}]
    build = LiveBuild(root, other, reembed=True)
    assert "embedded anew" in str(build.remark)
    root.write([{"id": "n2", "text": "written meanwhile"}])
    with pytest.raises(Conflict, match=r"entry 2 .*another reduction of token vectors"):
        publish(build)
    again, _ = publish(LiveBuild(root, other, reembed=True))
    assert sorted(texts(root, again)) == ["n1", "n2", "x", "y"]


def test_what_has_no_text_cannot_be_embedded_anew(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.write([{"id": "v1", "text": ""}])
    for _ in ("log", "compacted"):
        with pytest.raises(InvalidArgument, match=r"'v1' was written without a text.*--drop-live"):
            LiveBuild(root, changed(), encoder="hashing:32")
        root.write([{"id": "n", "text": "new"}])
        root.compact()
    LiveBuild(root, changed(), encoder="hashing:32", drop_live=True)
    lines = [{**line, "vector": [1.0] * 32} for line in changed()]
    with pytest.raises(InvalidArgument, match="whose own come with the source"):
        LiveBuild(
            root,
            [*lines, {"id": "more", "text": "x", "vector": [1.0] * 32}],
            vectors_field="vector",
            encoder="hashing:32",
        )


def test_an_index_that_nobody_wrote_to_is_built_as_ever(tmp_path: Path) -> None:
    root = Root(tmp_path)
    plan = make_plan(root.build.settings, root.manifest.encoder)
    assert over_log(plan, root.storage, drop=False)[0] is plan
    assert not (Path(root.storage.uri) / "log").exists()


def test_prune_leaves_what_a_build_takes_over_from(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.write(["p1"])
    root.compact()
    build = LiveBuild(root, changed(), reembed=True)
    root.storage.write(f"staging/{build.plan.hash}/plan.json", build.plan.model_copy(update={"base": None}).to_bytes())
    kept = versions.current_manifest(root.storage).version
    publish(Build(root.storage.uri, jsonl(tmp_path / "other.jsonl", records(2)), reembed=True))
    publish(Build(root.storage.uri, jsonl(tmp_path / "more.jsonl", records(3)), reembed=True))
    versions.prune(root.storage, 0)
    assert kept in versions.list_versions(root.storage)


def test_workers_of_a_build_carry_over_and_embed_alike(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.write([{"id": "p1", "text": "written"}, {"id": "n1", "text": "new"}])
    root.compact()
    root.write(["p3"])
    build = LiveBuild(root, changed())
    build.written.stage(build.storage, build.plan.hash)
    build.storage.write(layout.plan(build.plan.hash), build.plan.to_bytes())
    worker = Embedder(build.settings, build.storage.uri, build.plan.hash)
    done = [worker({"item": np.array([unit.number])}) for unit in build.plan.units]
    superseded = [(unit.origin, *counts["superseded"]) for unit, counts in zip(build.plan.units, done, strict=True)]
    assert [count for count in superseded if count[0] != "base"] == [("log", 0), ("source", 2)]
    for unit in build.plan.units:
        build.tally.add_commit(read_unit_commit(build.storage, build.plan.hash, unit.number))
    manifest = versions.read_manifest(build.storage, build.publish())
    assert set(texts(root, manifest)) == {"p0", "p1", "p2", "p5", "n1"}
