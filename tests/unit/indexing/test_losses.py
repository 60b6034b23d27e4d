"""What a build lost: reasons grouped, and the share of the input."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shoal.filters import parse
from shoal.index_root import layout, versions
from shoal.index_root.manifest import Counts
from shoal.indexing.commits import read_unit_commit
from shoal.indexing.losses import MOST_REASONS, OTHERS, REPEATED, BuildReport, Loss, LossCounter, read_report
from shoal.shard.messages import dense_queries
from shoal.shard.reader import Shard
from tests.support.building import DIM, Build, jsonl, records


def counted(*reasons: str) -> list[tuple[int, str, str]]:
    counter = LossCounter()
    for line, reason in enumerate(reasons, 1):
        counter.add({"file": "in.jsonl", "line": line, "reason": reason})
    return [(loss.records, loss.reason, loss.location) for loss in counter.by_frequency()]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("broken JSON: Extra data, character 512", "broken JSON: Extra data, character 7"),
        ("duplicate id, first in in.jsonl:4", "duplicate id, first in other.jsonl:1"),
        (
            "the metadata field 'year' is 'soon', which is no integer (metadata_types)",
            "the metadata field 'year' is 'it\\'s', which is no integer (metadata_types)",
        ),
        ("the id field 'id' is missing (fields: 'a')", "the id field 'id' is missing (fields: 'a', 'b')"),
        ("the field 'text' is 1,000,001 bytes long", "the field 'text' is 2,000 bytes long"),
    ],
)
def test_records_that_are_lost_for_one_reason_are_counted_together(first: str, second: str) -> None:
    assert counted("the text field 'text' is empty", first, second) == [
        (2, first.partition(", first in ")[0], "in.jsonl:2"),
        (1, "the text field 'text' is empty", "in.jsonl:1"),
    ]


def test_reasons_about_different_fields_stay_apart_and_their_number_is_bounded() -> None:
    assert len(counted("the metadata field 'a' is null", "the metadata field 'b' is null")) == 2
    letters = [f"reason {'x' * number}" for number in range(MOST_REASONS + 5)]
    groups = counted(*letters)
    assert len(groups) == MOST_REASONS + 1
    assert (5, OTHERS, f"in.jsonl:{MOST_REASONS + 1}") in groups


def test_the_share_is_of_records_and_of_the_bytes_of_files_that_cannot_be_read() -> None:
    counts = Counts(input=20, passages=15, duplicates=3, rejected=2)
    assert BuildReport().share(counts) == 0.25
    lost = [Loss(records=15, reason="r", location="l"), Loss(records=3, reason=REPEATED, location="l")]
    assert BuildReport(lost=lost, documents=18).share(counts) == 18 / 33
    assert BuildReport(unreadable=0.5).share(counts) == 0.625
    assert BuildReport().share(Counts(input=3, passages=3, duplicates=0, rejected=0)) == 0


def test_a_version_says_what_its_build_lost(tmp_path: Path) -> None:
    lines: list[Any] = [*records(15), "{}", "{}", records(3)[2], records(1)[0]]
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", lines)).embed()
    version = build.publish()
    assert versions.verify(build.storage, version) == []
    manifest = versions.read_manifest(build.storage, version)
    report = read_report(build.storage, manifest)
    missing, repeated = report.lost
    assert missing == Loss(records=2, reason="the id field 'id' is missing (fields: none)", location="in.jsonl:16")
    assert (repeated.records, repeated.reason) == (2, "duplicate id")
    assert report.share(manifest.counts) == 4 / 19
    build.storage.delete(layout.report(version))
    assert read_report(build.storage, manifest).share(manifest.counts) == 4 / 19


def test_a_version_says_which_metadata_its_build_left_out(tmp_path: Path) -> None:
    lines = [{**record, "refs": [{"id": 1}], "deep": {} if n < 3 else 1} for n, record in enumerate(records(25))]
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", lines)).embed()
    manifest = versions.read_manifest(build.storage, build.publish())
    assert manifest.counts.passages == 25
    report = read_report(build.storage, manifest)
    assert report.left_out == {"refs: nested": 25, "deep: nested": 3}
    assert report.share(manifest.counts) == 0


def test_columns_that_are_left_out_count_with_all_their_rows(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{**record, "refs": [{"id": 1}]} for record in records(30)])
    pq.write_table(table, tmp_path / "in.parquet")
    build = Build(tmp_path / "index", tmp_path / "in.parquet").embed()
    manifest = versions.read_manifest(build.storage, build.publish())
    assert read_report(build.storage, manifest).left_out == {"refs: nested": 30}


def test_a_version_says_what_filters_cannot_do_with_its_fields(tmp_path: Path) -> None:
    lines = [{**record, "when": "2026-01-31", "size": 0.5} for record in records(25)]
    lines[3]["when"], lines[4]["size"] = "soon", 2**53 + 1
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", lines)).embed()
    manifest = versions.read_manifest(build.storage, build.publish())
    assert manifest.fields == {"page": "integer", "size": "mixed", "when": "string"}
    size, when = read_report(build.storage, manifest).remarks
    assert size.startswith("metadata field size: 1 integers are beyond 2^53 and 24 values are fractions")
    assert when.startswith("metadata field when: 24 values are dates and 1 are other strings")


@pytest.mark.parametrize("bound", ["2023-07-19", "20230719"])
def test_dates_in_the_basic_form_are_filtered_by_where_they_are_declared(tmp_path: Path, bound: str) -> None:
    dates = ["20230718", "20230719", "20240101", "2023-12-31"]
    lines = [{**record, "published": date} for record, date in zip(records(4), dates, strict=True)]
    changes = {"metadata_types": ["published:timestamp"], "shards": 1}
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", lines), **changes).embed()
    manifest = versions.read_manifest(build.storage, build.publish())
    shard = Shard.open(build.storage, manifest, 0, cache=None, threads=1)
    tree = parse({"published": {"$gte": bound}}, manifest.fields, 10, 16)
    hits = shard.search(dense_queries(np.zeros((1, DIM), np.float32), [tree]), 10, False)
    assert set(hits.by_retriever["dense"].ids[0]) == {"p1", "p2", "p3"}
    assert shard.fetch([0]).passages[0].metadata["published"] == "20230718"


def test_units_that_were_committed_without_counts_are_read(tmp_path: Path) -> None:
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(9))).embed()
    path = layout.unit_commit(build.plan.hash, 0)
    body = json.loads(build.storage.read(path))
    assert body["fields"] == {"page": {"integer": 9}}
    body["fields"] = {"page": ["integer"]}
    del body["left_out"]
    build.storage.write(path, json.dumps(body).encode())
    assert read_unit_commit(build.storage, build.plan.hash, 0).fields == {"page": {"integer": 1}}


def test_a_version_says_how_many_passages_are_longer_than_the_encoder_reads(tmp_path: Path) -> None:
    lines = [{"id": str(n), "text": "word " * words} for n, words in enumerate((3, 19, 20, 21, 500))]
    source = jsonl(tmp_path / "in.jsonl", lines)
    build = Build(tmp_path / "index", source, max_length=20).embed()
    report = read_report(build.storage, versions.read_manifest(build.storage, build.publish()))
    assert report.full == 3
    (remark,) = report.remarks
    assert remark.startswith("3 of 5 passages are as long as the 20 tokens that the encoder reads, or longer")
    assert "--chunk-characters 50 cuts texts" in remark
    whole = Build(tmp_path / "whole", source, max_length=20, chunk_characters=50).embed()
    assert read_report(whole.storage, versions.read_manifest(whole.storage, whole.publish())).full == 0


def test_vectors_that_the_source_brings_are_not_read_by_an_encoder(tmp_path: Path) -> None:
    lines = [{"id": str(n), "text": "word " * 500, "v": [1.0] * DIM} for n in range(3)]
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", lines), vectors_field="v").embed()
    assert not read_report(build.storage, versions.read_manifest(build.storage, build.publish())).remarks


def test_rows_behind_a_damage_count_as_lost(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    rows = [{**record, "text": random.Random(n).randbytes(40).hex()} for n, record in enumerate(records(200))]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, path, row_group_size=100, write_page_checksum=True, use_dictionary=False)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(1)
    data = bytearray(path.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    build = Build(tmp_path / "index", path, unit_passages=100).embed()
    manifest = versions.read_manifest(build.storage, build.publish())
    report = read_report(build.storage, manifest)
    assert (manifest.counts.passages, manifest.counts.rejected) == (100, 1)
    assert [loss.records for loss in report.lost] == [100]
    assert report.share(manifest.counts) == 0.5


def test_a_text_that_was_cut_counts_once_however_many_passages_it_gave(tmp_path: Path) -> None:
    long = "One sentence of some words. " * 40
    lines = [*({"id": str(n), "text": long} for n in (1, 2, 3, 4, 1)), *({"id": str(n)} for n in range(5, 10))]
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", lines), chunk_characters=60).embed()
    manifest = versions.read_manifest(build.storage, build.publish())
    assert manifest.counts.passages > 40
    report = read_report(build.storage, manifest)
    assert report.documents == 5
    assert {loss.reason: loss.records for loss in report.lost} == {
        "the text field 'text' is missing or empty": 5,
        REPEATED: 1,
    }
    assert report.share(manifest.counts) == 0.6
