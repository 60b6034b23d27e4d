"""The stages of a build over a folder, without Ray: embed, index, verify, publish."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidArgument
from shoal.filters import parse
from shoal.index_root import layout, versions
from shoal.index_root.manifest import FileEntry
from shoal.indexes import index_kind
from shoal.indexing.commits import (
    read_shard_commit,
)
from shoal.indexing.embed import embed_unit
from shoal.indexing.plan import shard_of
from shoal.indexing.publish import (
    describe,
    first_rejected,
    make_manifest,
    require_passages,
)
from shoal.indexing.sample import sample_vectors
from shoal.indexing.shard_rows import duplicate_rows, id_digests
from shoal.indexing.units import UnitFile, vectors_of
from shoal.indexing.verify import count_problems, verify_shard
from shoal.lexical.statistics import read_terms
from shoal.records import FloatArray
from shoal.shard.columns import ColumnWriter
from shoal.shard.messages import ShardQuery, dense_queries
from shoal.shard.reader import Shard
from tests.support.building import DIM, Build, Refusing, jsonl, passages_of, records, tuned


def test_every_passage_is_indexed_once_in_its_shard_with_its_vector(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(57))).embed()
    commits = build.index()
    found = passages_of(build, commits)
    assert set(found) == {f"p{n}" for n in range(57)}
    for n in range(57):
        shard, vector = found[f"p{n}"]
        assert shard == shard_of(f"p{n}", 3)
        np.testing.assert_array_equal(vector, build.encoder.encode_passages([f"passage {n} about topic {n % 7}"])[0])
    assert not count_problems(build.plan, build.tally, build.storage)
    assert not any(verify_shard(build.plan, commit, build.storage) for commit in commits)


def test_a_unit_file_holds_the_rows_of_a_shard_in_input_order(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", [*records(9), "", {"id": "last", "text": "x"}]))
    commit = embed_unit(build.plan, build.plan.units[0], build.encoder, build.storage)
    place = {f"p{n}": n + 1 for n in range(9)} | {"last": 11}
    with UnitFile(build.storage, build.plan.hash, 0) as file:
        for shard in range(3):
            batch = file.shard(shard)
            ids = batch.column("id").to_pylist()
            assert len(ids) == commit.rows[shard]
            assert all(shard_of(passage_id, 3) == shard for passage_id in ids)
            assert batch.column("record").to_pylist() == [place[passage_id] for passage_id in ids]
            assert vectors_of(batch).shape == (len(ids), DIM)
            assert batch.column("record").to_pylist() == sorted(batch.column("record").to_pylist())
    with UnitFile(build.storage, build.plan.hash, 0, ["id", "record"]) as file:
        assert file.shard(0).schema.names == ["id", "record"]


def test_bad_records_are_reported_with_their_lines_in_the_whole_file(tmp_path: Path) -> None:
    good = records(40)
    good[12] = '{"id": "broken'  # type: ignore[call-overload]
    good[30] = {"id": "empty", "text": ""}
    good[31] = {"text": "no id"}
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", good)).embed()
    build.index()
    report = build.report()
    assert [record["line"] for record in report] == [13, 31, 32]
    assert all(record["file"] == "in.jsonl" and record["reason"] for record in report)
    assert report[1]["id"] == "empty"
    assert first_rejected(build.plan, build.tally, build.storage, 2) == report[:2]
    assert describe(report[0]).startswith("in.jsonl:13: ")


def test_lines_are_counted_within_each_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        part = [{"id": f"{name}{n}", "text": f"text {n}"} for n in range(25)]
        jsonl(tmp_path / "in" / f"{name}.jsonl", [*part[:21], "not json", *part[21:]])
    build = Build(tmp_path / "index", tmp_path / "in").embed()
    assert [(Path(record["file"]).name, record["line"]) for record in build.report()] == [
        ("a.jsonl", 22),
        ("b.jsonl", 22),
    ]


def test_the_first_of_several_equal_ids_wins_and_the_others_are_reported(tmp_path: Path) -> None:
    lines = records(30)
    lines[7] = {"id": "p3", "text": "second of p3"}
    lines[28] = {"id": "p3", "text": "third of p3"}
    lines[29] = {"id": "p28", "text": "takes the place of p28"}
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", lines)).embed()
    commits = build.index()
    found = passages_of(build, commits)
    assert set(found) == {f"p{n}" for n in range(29) if n != 7}
    np.testing.assert_array_equal(found["p3"][1], build.encoder.encode_passages(["passage 3 about topic 3"])[0])
    assert [(record["line"], record["id"], record["reason"]) for record in build.report()] == [
        (8, "p3", "duplicate id, first in in.jsonl:4"),
        (29, "p3", "duplicate id, first in in.jsonl:4"),
    ]
    manifest = make_manifest(build.plan, build.tally, commits, tuned(build.plan, commits), [], None)
    assert manifest.counts.model_dump() == {"input": 30, "passages": 28, "duplicates": 2, "rejected": 0}
    assert not count_problems(build.plan, build.tally, build.storage)


def test_of_texts_with_equal_ids_all_pieces_of_the_first_are_kept_and_no_other(tmp_path: Path) -> None:
    long, short = "A sentence of the first text. " * 8, "Another text. "
    lines: list[Any] = [{"id": f"p{n}", "text": long} for n in range(12)]
    lines[3] = {"id": "short", "text": short}
    lines[7] = {"id": "p1", "text": short * 30}
    lines[11] = {"id": "short", "text": long}
    source = jsonl(tmp_path / "in.jsonl", lines)
    build = Build(tmp_path / "index", source, chunk_characters=100, unit_passages=30).embed()
    assert len(build.plan.units) > 1
    commits = build.index()
    found = passages_of(build, commits)
    whole = {f"p{n}#{piece}" for n in range(12) if n not in (3, 7, 11) for piece in (1, 2, 3)}
    assert found.keys() == whole | {"short#1"}
    assert all(shard == shard_of(identity.partition("#")[0], 3) for identity, (shard, _) in found.items())
    np.testing.assert_array_equal(found["short#1"][1], build.encoder.encode_passages([short.strip()])[0])
    assert {(record["line"], record["id"], record["reason"]) for record in build.report()} == {
        *((8, f"p1#{piece}", "duplicate id, first in in.jsonl:2") for piece in range(1, 6)),
        *((12, f"short#{piece}", "duplicate id, first in in.jsonl:4") for piece in range(1, 4)),
    }
    assert not count_problems(build.plan, build.tally, build.storage)
    assert not any(verify_shard(build.plan, commit, build.storage) for commit in commits)


def test_a_vector_that_is_not_finite_rejects_its_record_alone(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(12)))
    plain = build.encoder

    class Broken:
        def encode_passages(self, texts: Sequence[str]) -> FloatArray:
            vectors = plain.encode_passages(texts).copy()
            vectors[[i for i, text in enumerate(texts) if text.startswith("passage 4 ")], 2] = np.nan
            return vectors

    build.encoder = Broken()  # type: ignore[assignment]
    build.embed()
    found = passages_of(build, build.index())
    assert set(found) == {f"p{n}" for n in range(12) if n != 4}
    (report,) = build.report()
    assert (report["line"], report["id"]) == (5, "p4")
    assert "not finite" in report["reason"]


def test_an_input_without_records_is_not_published(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", ["", ""])).embed()
    with pytest.raises(InvalidArgument, match="nothing was published"):
        require_passages(build.plan, build.tally, build.storage)


def test_an_input_whose_records_are_all_bad_is_not_published_and_says_why(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", [{"id": "a"}, "x", {"id": "b", "text": ""}])).embed()
    with pytest.raises(InvalidArgument, match=r"all 3 records were rejected \(in.jsonl:1: .*text"):
        require_passages(build.plan, build.tally, build.storage)


def test_shards_may_be_empty(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(2)), shards=8).embed()
    commits = build.index()
    assert sum(commit.entry.count for commit in commits) == 2
    assert set(passages_of(build, commits)) == {"p0", "p1"}
    assert not any(verify_shard(build.plan, commit, build.storage) for commit in commits)


def test_verification_finds_a_changed_byte_and_a_missing_file(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(30))).embed()
    commits = build.index()
    path = build.storage.local_path(f"{layout.shard_dir(build.plan.version, 1)}/{layout.PASSAGES}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    build.storage.delete(f"{layout.shard_dir(build.plan.version, 2)}/{layout.SHARD}")
    assert not verify_shard(build.plan, commits[0], build.storage)
    assert "checksum" in verify_shard(build.plan, commits[1], build.storage)[0]
    assert "missing" in verify_shard(build.plan, commits[2], build.storage)[0]


def test_verification_finds_lost_passages(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(30)))
    assert count_problems(build.plan, build.tally, build.storage) == ["3 units are not embedded"]
    build.embed().index()
    build.tally.shard_passages[1] -= 2
    problems = count_problems(build.plan, build.tally, build.storage)
    assert problems == ["shard 1 lost 2 passages between embedding and indexing"]


def test_a_published_build_is_a_whole_version(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", [*records(30), "broken"])).embed()
    version = build.publish()
    assert versions.verify(build.storage, version) == []
    manifest = versions.read_manifest(build.storage, version)
    assert manifest.counts.model_dump() == {"input": 31, "passages": 30, "duplicates": 0, "rejected": 1}
    texts = [record["text"] for record in records(30)]
    assert manifest.statistics.text_bytes == sum(map(len, texts))
    assert manifest.index.latency_ms is not None
    assert versions.find_plan(build.storage, build.plan.hash) == version
    versions.publish(build.storage, manifest)  # safe to repeat


def test_types_are_those_of_the_whole_corpus_and_columns_hold_what_is_indexed(tmp_path: Path) -> None:
    lines = [{**record, "when": "2026-01-31", "size": n} for n, record in enumerate(records(50))]
    lines[3]["mixed"], lines[44]["mixed"] = 1, "x"
    lines[45]["size"], lines[46]["when"] = 0.5, "later"
    lines[47] = {"id": "p3", "text": "a duplicate", "page": 1000}
    lines.append({"id": "bad", "text": "x", "page": "many"})
    source = jsonl(tmp_path / "in.jsonl", lines)
    build = Build(tmp_path / "index", source, metadata_types=["page:integer"]).embed()
    version = build.publish()
    assert versions.verify(build.storage, version) == []
    manifest = versions.read_manifest(build.storage, version)
    assert manifest.fields == {"mixed": "mixed", "page": "integer", "size": "number", "when": "string"}
    bad, duplicate = build.report()
    assert bad["reason"] == "the metadata field 'page' is 'many', which is no integer (metadata_types)"
    assert duplicate["id"] == "p3"
    tree = parse({"page": {"$gte": 40}, "size": {"$ne": 41}}, manifest.fields, 10, 16)
    found = set()
    for entry in manifest.shards:
        shard = Shard.open(build.storage, manifest, entry.shard, cache=None, threads=1)
        hits = shard.search(dense_queries(np.zeros((1, DIM), np.float32), [tree]), 50, False)
        found |= set(hits.by_retriever["dense"].ids[0])
    assert found == {f"p{n}" for n in range(40, 50)} - {"p41", "p47"}


def test_verification_finds_columns_that_were_cut_short(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(30))).embed()
    commit = build.index()[0]
    name = f"{layout.shard_name(0)}/{layout.METADATA}"
    with ColumnWriter(tmp_path / "short", {"page": "integer"}) as writer:
        writer.write(pa.array([None], pa.large_string()))
    path = f"{layout.version_dir(build.plan.version)}/{name}"
    build.storage.put(tmp_path / "short", path)
    digest, size = build.storage.sha256(path)
    files = [
        FileEntry(path=name, bytes=size, sha256=digest) if file.path == name else file for file in commit.entry.files
    ]
    wrong = commit.model_copy(update={"entry": commit.entry.model_copy(update={"files": files})})
    assert f"holds 1 rows, {commit.entry.count} were written" in verify_shard(build.plan, wrong, build.storage)[0]


def test_commits_survive_serialisation(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(30))).embed()
    (first, *_) = build.index()
    assert read_shard_commit(build.storage, build.plan.hash, 0) == first
    assert first.without_sample().trials == []


@given(st.lists(st.integers(0, 12), max_size=60))
def test_duplicate_rows_agree_with_a_plain_loop(numbers: list[int]) -> None:
    first: dict[int, int] = {}
    expected = []
    for row, number in enumerate(numbers):
        if number in first:
            expected.append((row, first[number]))
        else:
            first[number] = row
    duplicates, firsts = duplicate_rows(id_digests(map(str, numbers)))
    assert list(zip(duplicates.tolist(), firsts.tolist(), strict=True)) == expected


def test_the_terms_of_the_corpus_are_a_file_of_the_version(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(40))).embed()
    manifest = versions.read_manifest(build.storage, build.publish())
    assert manifest.lexical is not None
    assert "terms.arrow" in [file.path for file in manifest.files]
    assert versions.verify(build.storage, manifest.version) == []
    totals, terms, passages = read_terms(build.storage, layout.corpus_terms_of(manifest.version))
    assert totals.passages == 40
    assert totals.mean_length == manifest.lexical.mean_length
    holding = dict(zip(terms.to_pylist(), passages.tolist(), strict=True))
    assert holding["passag"] == 40
    assert holding["39"] == 1

    without = Build(tmp_path / "plain", jsonl(tmp_path / "in.jsonl", records(40)), lexical=False).embed()
    assert "terms.arrow" not in [file.path for file in versions.read_manifest(without.storage, without.publish()).files]


def test_the_lexical_index_knows_each_passage_once_and_may_be_left_out(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "in.jsonl", [*records(30), *records(5)])
    build = Build(tmp_path / "index", source).embed()
    build.publish()
    manifest = versions.read_manifest(build.storage, build.plan.version)
    assert manifest.counts.duplicates == 5
    assert manifest.lexical is not None
    assert manifest.lexical.passages == 30
    assert not versions.verify(build.storage, build.plan.version)
    without = Build(tmp_path / "without", source, lexical=False).embed()
    without.publish()
    manifest = versions.read_manifest(without.storage, without.plan.version)
    assert manifest.lexical is None
    assert not [file.path for file in manifest.all_files() if "lexical" in file.path]
    assert without.plan.hash != build.plan.hash


@pytest.mark.parametrize("kind", ["ivf_sq8", "rabitq"])
def test_a_compressed_version_is_tuned_whole_and_answers_with_the_recall_that_is_asked(
    tmp_path: Path, kind: str
) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(300)), index_kind=kind).embed()
    sample = sample_vectors(build.storage, build.plan.hash, build.tally.passages, build.plan.shards, DIM, 300, seed=1)
    trained = index_kind(kind).train(sample, build.plan.index, 1)
    assert trained is not None
    build.storage.write(layout.trained_index(build.plan.hash), trained)
    version = build.publish()
    assert versions.verify(build.storage, version) == []
    manifest = versions.read_manifest(build.storage, version)
    assert all(any(file.path.endswith(layout.EXACT) for file in shard.files) for shard in manifest.shards)
    assert manifest.index.search in [point.search for point in manifest.index.curve]
    most = manifest.index.curve[-1]
    shard = Shard.open(build.storage, manifest, 0, cache=None, threads=1)
    vectors = shard.fetch(range(5), with_vectors=True).vectors
    assert vectors is not None
    queries = [
        ShardQuery("", vector, "dense", search_params=params)
        for vector, params in zip(vectors, ["", most.search, "", most.search, most.search], strict=True)
    ]
    found = shard.search(queries, 3, False).by_retriever["dense"]
    assert found.rows[[1, 3, 4], 0].tolist() == [1, 3, 4]
    np.testing.assert_allclose(found.scores[[1, 3, 4], 0], 1, atol=2e-3)
    shard.warm()


def test_vectors_that_the_source_brings_are_normalised_and_no_text_is_encoded(tmp_path: Path) -> None:
    given = np.random.default_rng(5).standard_normal((25, DIM)) * 7
    given[3] *= 1e30  # its square is beyond float32
    lines: list[Any] = [{**record, "v": vector.tolist()} for record, vector in zip(records(25), given, strict=True)]
    lines += [{"id": "zero", "text": "x", "v": [0] * DIM}, {"id": "huge", "text": "x", "v": [1e300] * DIM}]
    lines.append('{"id": "nan", "text": "x", "v": [' + "NaN, " * (DIM - 1) + "1]}")
    source = jsonl(tmp_path / "in.jsonl", lines)
    build = Build(tmp_path / "index", source, vectors_field="v", shards=1)
    build.encoder = Refusing()  # type: ignore[assignment]
    build.embed().publish()
    manifest = versions.read_manifest(build.storage, build.plan.version)
    assert (manifest.counts.passages, manifest.counts.rejected) == (25, 3)
    assert manifest.build["vectors_field"] == "v"
    reasons = [(bad["id"], bad["reason"]) for bad in build.report()]
    wanted = "the vector field 'v' is zero or holds a number that is not finite"
    assert reasons == [("zero", wanted), ("huge", wanted), ("nan", wanted)]
    shard = Shard.open(build.storage, manifest, 0, cache=None, threads=1)
    fetched = shard.fetch(range(25), with_vectors=True)
    assert [passage.id for passage in fetched.passages] == [f"p{n}" for n in range(25)]
    assert all("v" not in passage.metadata for passage in fetched.passages)
    assert fetched.vectors is not None
    np.testing.assert_allclose(fetched.vectors, given / np.linalg.norm(given, axis=1, keepdims=True), atol=1e-6)
    assert Build(tmp_path / "other", source, metadata_fields=[]).plan.hash != build.plan.hash
