"""Builds that copy what has not changed from the version before: they hold what a build from nothing holds."""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import Conflict, CorruptIndex
from shoal.evaluation.absent import absent_passages
from shoal.index_root import layout, versions
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexing.base import check_shard
from shoal.indexing.losses import BuildReport, read_report
from shoal.indexing.plan import Plan
from shoal.indexing.publish import reuse_of
from shoal.indexing.tokens import inherit_codec, read_codec
from shoal.late.writer import FILES as LATE_FILES
from shoal.shard.stored_rows import StoredRows
from tests.support.building import DIM, Refusing, jsonl, passages_of, records
from tests.support.incremental import STORED, Build, changed, files_of, forget_documents, publish, train

MEMORY = Path("/dev/shm")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where that can be had: several builds in each test would wait for a disk longer than for all else."""
    with tempfile.TemporaryDirectory(prefix="shoal-test-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder)


def test_only_what_is_new_or_changed_is_embedded(tmp_path: Path) -> None:
    publish(Build(tmp_path / "index", jsonl(tmp_path / "old.jsonl", records(60))))
    build = Build(tmp_path / "index", jsonl(tmp_path / "new.jsonl", changed(60)))
    manifest, encoded = publish(build)
    assert encoded == ["something else", "Now with a title passage 4 about topic 4", "a new passage"]
    fresh, _ = publish(Build(tmp_path / "fresh", tmp_path / "new.jsonl"))
    assert files_of(manifest) == files_of(fresh)
    assert reuse_of(manifest) == {"base": build.plan.base, "reused": 57, "embedded": 3, "removed": 1}
    assert reuse_of(fresh) == {"base": None, "reused": 0, "embedded": 60, "removed": None}
    assert (manifest.plan, manifest.counts) == (fresh.plan, fresh.counts)
    assert not versions.verify(build.storage, manifest.version)


WORDS = ("shoal", "index", "vector", "shard", "word", "late")
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=16).map(" ".join)
RECORDS = st.lists(
    st.tuples(st.integers(0, 11), TEXTS, st.sampled_from([None, "Title"]), st.integers(0, 3)), min_size=1, max_size=24
)


@settings(max_examples=15)
@given(
    RECORDS,
    RECORDS,
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([{}, STORED, {"chunk_characters": 50}]),
    st.booleans(),
)
def test_it_equals_a_build_from_nothing(
    before: list[Any], after: list[Any], shards: int, other_shards: int, options: dict[str, Any], kept: bool
) -> None:
    """Whatever was added, changed, removed or repeated, and into however many shards it goes."""
    with tempfile.TemporaryDirectory(prefix="shoal-test-", dir=MEMORY if MEMORY.is_dir() else None) as name:
        folder = Path(name)
        if kept:
            after = before[::2] + after
        old, new = jsonl(folder / "old.jsonl", lines(before)), jsonl(folder / "new.jsonl", lines(after))
        base, _ = publish(Build(folder / "index", old, shards=shards, **options))
        build = Build(folder / "index", new, shards=other_shards, **options)
        manifest, encoded = publish(build)
        fresh = Build(folder / "fresh", new, shards=other_shards, **options)
        if build.plan.stores_tokens:
            fresh.storage.write(layout.codec(fresh.plan.hash), read_codec(build.plan, build.storage).to_bytes())
        expected, _ = publish(fresh)
        assert files_of(manifest) == files_of(expected)
        known, there = contents(folder / "index", base), contents(folder / "fresh", expected)
        counts = reuse_of(manifest)
        assert counts["reused"] + counts["embedded"] == manifest.counts.passages == len(there)
        assert counts["removed"] == len(known.keys() - there.keys())
        assert counts["reused"] >= sum(known.get(identity) == text for identity, text in there.items())
        if "chunk_characters" not in options:
            same = sum(
                known.get(one["id"]) == " ".join(filter(None, (one.get("title"), one["text"]))) for one in lines(after)
            )
            assert len(encoded) <= len(after) - same


def lines(drawn: list[tuple[int, str, str | None, int]]) -> list[dict[str, Any]]:
    return [
        {"id": f"r{number}", "text": text, "page": page} | ({} if title is None else {"title": title})
        for number, text, title, page in drawn
    ]


def contents(root: Path, manifest: Manifest) -> dict[str, str]:
    """What an encoder reads of every passage of a version, by id."""
    found: dict[str, str] = {}
    for entry in manifest.shards:
        ids, texts = StoredRows(Storage(str(root)), manifest, entry.shard).passages(np.arange(entry.count))
        found |= dict(zip(ids, texts, strict=True))
    return found


def test_of_records_that_were_cut_unchanged_pieces_are_copied_wherever_they_lie_now(tmp_path: Path) -> None:
    sentences = [f"Sentence number {n} stands here all alone and nowhere else. " for n in range(12)]
    texts = {"long": sentences, "other": sentences[:5]}
    cut = {"chunk_characters": 70, "shards": 2}

    def source(name: str) -> Path:
        return jsonl(tmp_path / name, [{"id": key, "text": "".join(parts)} for key, parts in texts.items()])

    publish(Build(tmp_path / "index", source("old.jsonl"), **cut))
    texts["long"] = ["A sentence that stands in front of all others today. ", *sentences[:6], *sentences[7:]]
    build = Build(tmp_path / "index", source("new.jsonl"), **cut)
    manifest, encoded = publish(build)
    assert encoded == ["A sentence that stands in front of all others today."]
    fresh, _ = publish(Build(tmp_path / "fresh", tmp_path / "new.jsonl", **cut))
    assert files_of(manifest) == files_of(fresh)
    assert reuse_of(manifest) == {"base": build.plan.base, "reused": 16, "embedded": 1, "removed": 0}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("flat", np.float32),
        ("ivf", np.float32),
        ("hnsw", np.float32),
        ("IVF2,Flat", np.float32),
        ("rabitq", np.float16),
    ],
)
def test_vectors_are_as_exact_as_the_kind_of_the_base_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, dtype: type
) -> None:
    base = Build(tmp_path / "index", jsonl(tmp_path / "old.jsonl", records(300)), index_kind=kind, shards=2)
    train(base)
    publish(base)
    build = Build(tmp_path / "index", jsonl(tmp_path / "new.jsonl", changed(300)), shards=3)
    assert build.remark is not None
    assert ("in float16" in build.remark) == (dtype == np.float16)
    _, encoded = publish(build)
    assert len(encoded) == 3
    wanted = Build(tmp_path / "fresh", tmp_path / "new.jsonl", shards=3)
    publish(wanted)
    found, expected = (passages_of(each, each.index()) for each in (build, wanted))
    new = {"p3", "p4", "new"}
    assert found.keys() == expected.keys()
    for identity, (shard, vector) in expected.items():
        rounded = vector if identity in new else vector.astype(dtype).astype(np.float32)
        assert found[identity][0] == shard
        np.testing.assert_array_equal(found[identity][1], rounded)


def test_a_version_without_look_up_files_is_looked_up_by_its_ids(tmp_path: Path) -> None:
    old = Build(tmp_path / "index", jsonl(tmp_path / "old.jsonl", records(60)), **STORED)
    manifest, _ = publish(old)
    forget_documents(old, manifest)
    build = Build(tmp_path / "index", jsonl(tmp_path / "new.jsonl", changed(60)), shards=2, **STORED)
    _, encoded = publish(build)
    assert sorted(encoded, reverse=True) == [
        "something else",
        "a new passage",
        "Now with a title passage 4 about topic 4",
    ]


@pytest.mark.parametrize(
    ("before", "now", "reason"),
    [
        ({}, {"encoder": "hashing:8"}, "another encoder, which differs in dim"),
        ({}, {"max_length": 9}, "another encoder, which differs in max_length"),
        ({}, STORED, "stores no token vectors"),
        (STORED, {**STORED, "late_bits": 4}, "stores no token vectors"),
        ({"index_kind": "SQ8"}, {}, r"keeps approximations of its vectors only \(index_kind SQ8\)"),
    ],
)
def test_where_nothing_can_be_copied_the_reason_is_told(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], reason: str
) -> None:
    old = Build(tmp_path / "index", jsonl(tmp_path / "old.jsonl", records(40)), **before)
    train(old)
    publish(old)
    build = Build(tmp_path / "index", jsonl(tmp_path / "new.jsonl", changed(40)), **now)
    assert build.plan.base is None
    assert build.remark is not None
    assert build.remark.startswith("every passage is embedded anew: ")
    assert re.search(reason, build.remark)


def test_another_shard_layout_was_used_for_pieces_before_they_were_kept_together(tmp_path: Path) -> None:
    cut = {"chunk_characters": 50}
    old = Build(tmp_path / "index", jsonl(tmp_path / "old.jsonl", records(20)), **cut)
    manifest, _ = publish(old)
    forget_documents(old, manifest)
    build = Build(tmp_path / "index", jsonl(tmp_path / "new.jsonl", changed(20)), **cut)
    assert build.plan.base is None
    assert build.remark is not None
    assert "had a look-up of records" in build.remark


def test_vectors_that_the_input_brings_are_never_copied_in_either_direction(tmp_path: Path) -> None:
    def given(scale: float) -> list[dict[str, Any]]:
        return [record | {"v": [scale, *[1.0] * (DIM - 1)]} for record in records(20)]

    brings = {"vectors_field": "v"}
    publish(Build(tmp_path / "index", jsonl(tmp_path / "one.jsonl", given(1)), **brings))
    build = Build(tmp_path / "index", jsonl(tmp_path / "two.jsonl", given(-3)), **brings)
    assert (build.plan.base, build.remark) == (None, None)
    manifest, encoded = publish(build)
    assert encoded == []
    assert reuse_of(manifest) == {"base": None, "reused": 0, "embedded": 0, "removed": None}
    wanted = np.array([-3, *[1] * (DIM - 1)]) / np.sqrt(9 + DIM - 1)
    np.testing.assert_allclose(StoredRows(build.storage, manifest, 0).vectors(np.array([0]))[0], wanted, atol=1e-6)
    computed = Build(tmp_path / "index", jsonl(tmp_path / "three.jsonl", records(20)))
    assert computed.plan.base is None
    assert computed.remark is not None
    assert "came with its input" in computed.remark


def test_reembed_copies_nothing(tmp_path: Path) -> None:
    publish(Build(tmp_path / "index", jsonl(tmp_path / "old.jsonl", records(20))))
    build = Build(tmp_path / "index", jsonl(tmp_path / "new.jsonl", changed(20)), reembed=True)
    assert (build.plan.base, build.remark) == (None, None)
    assert len(publish(build)[1]) == 20


def test_a_build_goes_on_only_with_the_base_that_it_began_with(tmp_path: Path) -> None:
    first, _ = publish(Build(tmp_path / "index", jsonl(tmp_path / "old.jsonl", records(20))))
    new = jsonl(tmp_path / "new.jsonl", changed(20))
    begun = Build(tmp_path / "index", new)
    second, _ = publish(Build(tmp_path / "index", jsonl(tmp_path / "other.jsonl", records(10))))
    later = Build(tmp_path / "index", new)
    assert (begun.plan.base, later.plan.base) == (first.version, second.version)
    assert begun.plan.content_hash == later.plan.content_hash == Build(tmp_path / "fresh", new).plan.hash
    assert begun.plan.hash != later.plan.hash
    assert begun.plan.hash[:8] == later.plan.hash[:8] == begun.plan.version[-8:]
    versions.activate(begun.storage, first.version)
    assert Build(tmp_path / "index", new).plan.hash == begun.plan.hash


def test_prune_keeps_what_a_build_copies_from_and_a_base_that_is_gone_is_told(tmp_path: Path) -> None:
    first, _ = publish(Build(tmp_path / "index", jsonl(tmp_path / "old.jsonl", records(20))))
    build = Build(tmp_path / "index", jsonl(tmp_path / "new.jsonl", changed(20)))
    build.storage.write(layout.plan(build.plan.hash), build.plan.to_bytes())
    for name in ("two", "three"):
        publish(Build(tmp_path / "index", jsonl(tmp_path / f"{name}.jsonl", records(5)), reembed=True))
    assert versions.prune(build.storage, keep=0) == []
    assert versions.prune(build.storage, keep=0, idle_s=0) == [first.version]
    with pytest.raises(Conflict, match=f"version {first.version}, whose vectors .* run the same command again"):
        build.embed()


def test_damage_of_the_base_is_found_before_it_is_copied(tmp_path: Path) -> None:
    first, _ = publish(Build(tmp_path / "index", jsonl(tmp_path / "old.jsonl", records(60)), **STORED))
    build = Build(tmp_path / "index", jsonl(tmp_path / "new.jsonl", changed(60)), **STORED)
    read = {layout.VECTORS, layout.PASSAGES, layout.DOCUMENTS, layout.ORDER, *LATE_FILES}
    for file in first.shards[1].files:
        path = f"{layout.version_dir(first.version)}/{file.path}"
        whole = build.storage.read(path)
        build.storage.write(path, bytes([whole[0] ^ 1]) + whole[1:])
        problems = check_shard(build.plan, 1, build.storage)
        assert [file.path in problem for problem in problems] == [True] * (file.path.partition("/")[2] in read)
        assert check_shard(build.plan, 0, build.storage) == []
        build.storage.write(path, whole)


def test_a_damaged_reduction_of_token_vectors_is_not_taken_over(tmp_path: Path) -> None:
    """It would have stayed in staging: codes of a base that was restored would have been read with it."""
    first, _ = publish(Build(tmp_path / "index", jsonl(tmp_path / "old.jsonl", records(60)), **STORED))
    build = Build(tmp_path / "index", jsonl(tmp_path / "new.jsonl", changed(60)), **STORED)
    build.storage.write(layout.plan(build.plan.hash), build.plan.to_bytes())
    path = f"{layout.shard_dir(first.version, 0)}/{layout.LATE_PROJECTION}"
    whole = build.storage.read(path)
    for damaged in (bytes([whole[0] ^ 1]) + whole[1:], whole[:-1] + bytes([whole[-1] ^ 64])):
        build.storage.write(path, damaged)
        with pytest.raises(CorruptIndex, match=f"{layout.LATE_PROJECTION} does not match .*--reembed"):
            inherit_codec(build.plan, build.storage)
        assert not build.storage.exists(layout.codec(build.plan.hash))
    build.storage.write(path, whole)
    inherit_codec(build.plan, build.storage)
    assert (
        read_codec(build.plan, build.storage).axes == StoredRows(build.storage, first, 0).projection()[:, :-2]
    ).all()


def test_a_passage_of_a_title_alone_is_copied(tmp_path: Path) -> None:
    lines = [
        {"id": "title", "title": "Only a title", "text": ""},
        {"id": "both", "title": "Fish", "text": "They swim."},
    ]
    publish(Build(tmp_path / "index", jsonl(tmp_path / "old.jsonl", lines)))
    more = [*lines, {"id": "new", "title": "Another title", "text": ""}]
    _, encoded = publish(Build(tmp_path / "index", jsonl(tmp_path / "new.jsonl", more)))
    assert encoded == ["Another title"]


def test_texts_of_a_base_are_read_as_if_a_stranger_had_written_them(tmp_path: Path) -> None:
    """Lengths that lead out of the file, with a checksum that fits, ended the process."""
    first, _ = publish(Build(tmp_path / "index", jsonl(tmp_path / "old.jsonl", records(60)), shards=1))
    storage = Storage(str(tmp_path / "index"))
    path = f"{layout.shard_dir(first.version, 0)}/{layout.PASSAGES}"
    data = storage.read(path)
    ends = np.cumsum([0, *(len(one["id"]) for one in records(60))]).astype(np.int32).tobytes()
    assert data.count(ends) == 1
    storage.write(path, data.replace(ends, ends[:4] + np.int32(2**30).tobytes() + ends[8:]))
    rows = StoredRows(storage, first, 0)
    with pytest.raises(CorruptIndex, match="passages"):
        rows.passages(np.arange(60))
    entry = first.shards[0].model_copy(update={"files": []})  # as of a version without look-up files
    with pytest.raises(CorruptIndex, match="passages"):
        _ = StoredRows(storage, first.model_copy(update={"shards": [entry]}), 0).documents
    with pytest.raises(CorruptIndex, match="passages"):
        absent_passages(storage, first, {"query": {"p59": 1, "gone": 1}})


def test_passages_that_are_longer_than_the_encoder_reads_are_told_of_copies_too(tmp_path: Path) -> None:
    lines = [{"id": str(n), "text": "word " * words} for n, words in enumerate((3, 20, 21, 500))]

    def report_of(name: str, lines: list[dict[str, Any]]) -> BuildReport:
        build = Build(tmp_path / "index", jsonl(tmp_path / f"{name}.jsonl", lines), max_length=20).embed()
        version = build.publish()
        versions.activate(build.storage, version)
        return read_report(build.storage, versions.read_manifest(build.storage, version))

    assert (report_of("one", lines).full, report_of("two", [*lines, {"id": "n", "text": "new"}]).full) == (3, 0)
    report = report_of("three", [*lines[:3], {"id": "n", "text": "new"}, {"id": "l", "text": "long " * 30}])
    assert (report.full, report.full_copied) == (1, 3)
    (remark,) = report.remarks
    assert remark.startswith("1 of 1 passages that were embedded, and up to 3 of 4 whose vectors were copied, are as")
    assert report_of("four", [lines[0], lines[1]]).full_copied == 2


def test_a_unit_that_is_embedded_already_is_left_alone(tmp_path: Path) -> None:
    publish(Build(tmp_path / "index", jsonl(tmp_path / "old.jsonl", records(20))))
    build = Build(tmp_path / "index", jsonl(tmp_path / "new.jsonl", changed(20))).embed()
    before = build.staged()
    build.encoder = Refusing()  # type: ignore[assignment]
    assert build.embed().staged() == before


def test_a_plan_that_an_older_shoal_staged_goes_on_without_a_base(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(20)))
    body = build.plan.model_dump(exclude={"base", "base_passages", "content_hash"})
    old = Plan.from_bytes(json.dumps(body).encode())
    assert (old.base, old.content_hash) == (None, "")
    assert old.moved(build.plan) == build.plan
