"""A look at the first records before any work, and what it proposes."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs import build_index
from shoal.errors import InvalidArgument
from shoal.filters import parse
from shoal.index_root import versions
from shoal.indexing.first_look import look_at_input
from shoal.indexing.losses import read_report
from shoal.settings import BuildSettings
from tests.support.articles import chunks
from tests.support.building import Build, jsonl, records

FORMATS = ["jsonl", "jsonl.gz", "parquet", "csv", "tsv"]


def write(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"in.{kind}"
    match kind:
        case "jsonl":
            jsonl(path, rows)
        case "jsonl.gz":
            path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case _:
            mark = "," if kind == "csv" else "\t"
            flat = [{name: value for name, value in row.items() if not isinstance(value, list)} for row in rows]
            lines = [mark.join(str(value or "") for value in row.values()) for row in flat]
            path.write_text("\n".join([mark.join(flat[0]), *lines]) + "\n")
    return path


def look(source: Path, **changes: Any) -> list[str]:
    return look_at_input(BuildSettings(source=str(source), index=str(source.parent / "index"), **changes)).remarks


def refused(source: Path, **changes: Any) -> str:
    with pytest.raises(InvalidArgument) as caught:
        look(source, **changes)
    assert caught.value.param == "source"
    return caught.value.message


@pytest.mark.parametrize("kind", FORMATS)
def test_of_the_article_s_records_text_and_id_are_proposed_at_once(kind: str, tmp_path: Path) -> None:
    message = refused(write(tmp_path, kind, chunks(1, 30)))
    assert message.startswith("30 of the first 30 records give no passage (in.")
    assert "try --text-field chunk --id-field id,chunk-id;" in message
    assert "nothing was built" in message
    assert "doi (string)" in message
    assert "chunk (string of " in message


@pytest.mark.parametrize("kind", FORMATS)
def test_the_options_that_are_proposed_leave_nothing_to_complain_of(kind: str, tmp_path: Path) -> None:
    source = write(tmp_path, kind, chunks(4, 25))
    for ids in ("id,chunk-id", "doi,chunk-id"):
        assert look(source, text_field="chunk", id_field=ids) == [
            f"the field {name} holds dates such as 20230719; --metadata-types {name}:timestamp lets filters compare "
            "them"
            for name in ("published", "updated")
        ]
    types = ["published:timestamp", "updated:timestamp"]
    assert not look(source, text_field="chunk", id_field="doi,chunk-id", metadata_types=types)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_article_s_records_are_indexed_with_the_obvious_options(kind: str, tmp_path: Path) -> None:
    source = write(tmp_path, kind, chunks(4, 25))
    options = {"text_field": "chunk", "id_field": "doi,chunk-id", "title_field": "title"}
    build = Build(tmp_path / "index", source, **options, metadata_types=["published:timestamp"]).embed()
    manifest = versions.read_manifest(build.storage, build.publish())
    assert manifest.counts.model_dump() == {"input": 100, "passages": 100, "duplicates": 0, "rejected": 0}
    assert manifest.fields["published"] == "timestamp"
    assert manifest.fields["authors"] == "list"
    assert "references" not in manifest.fields
    assert read_report(build.storage, manifest).left_out == {"references: nested": 100}
    assert parse({"published": {"$gte": "2023-07-15"}}, manifest.fields, 10, 16) is not None


def test_a_shared_id_is_told_with_a_field_that_tells_its_records_apart(tmp_path: Path) -> None:
    message = refused(write(tmp_path, "jsonl", chunks(1, 30)), text_field="chunk")
    assert "29 of the first 30 records give no passage (in.jsonl:2: duplicate id, and 28 more like it)" in message
    assert "try --id-field id,chunk-id;" in message


def test_a_field_that_is_unique_beyond_one_group_is_enough(tmp_path: Path) -> None:
    rows = [{"id": n // 10, "uuid": f"u{n}", "text": f"text {n}"} for n in range(40)]
    assert "try --id-field uuid;" in refused(write(tmp_path, "jsonl", rows))


def test_an_id_of_another_name_is_proposed(tmp_path: Path) -> None:
    rows = [{"score": n, "doc_id": f"d{n}", "text": f"text {n}"} for n in range(9)]
    for kind in FORMATS:
        assert "try --id-field doc_id;" in refused(write(tmp_path, kind, rows))


def test_without_a_field_that_fits_none_is_proposed(tmp_path: Path) -> None:
    message = refused(write(tmp_path, "jsonl", [{"n": 1.5, "deep": {}}] * 4))
    assert "try" not in message
    assert "their fields are n (number), deep (object)" in message


@pytest.mark.parametrize(("kind", "mark"), [("tsv", "\t"), ("csv", ",")])
def test_a_first_line_that_is_no_header_is_told(kind: str, mark: str, tmp_path: Path) -> None:
    lines = [f"{number}{mark}Passage {number} tells how corals survive bleaching." for number in range(9)]
    (tmp_path / f"in.{kind}").write_text("\n".join(lines))
    assert "try --columns with a name for each column, such as id,text" in refused(tmp_path / f"in.{kind}")
    assert not look(tmp_path / f"in.{kind}", columns=["id", "text"])


def test_lines_that_end_with_a_comma_are_told(tmp_path: Path) -> None:
    lines = [json.dumps(record) for record in records(20)]
    (tmp_path / "in.jsonl").write_text(",\n".join(lines))
    message = refused(tmp_path / "in.jsonl")
    assert "19 of the first 20 records" in message
    assert "in.jsonl:1: broken JSON: a comma ends the line" in message


def test_whoever_accepts_the_loss_builds(tmp_path: Path) -> None:
    assert not look(write(tmp_path, "jsonl", chunks(1, 30)), text_field="chunk", max_lost=1.0, metadata_fields=[])


def test_a_smaller_loss_is_told_and_left_to_the_build(tmp_path: Path) -> None:
    lines: list[Any] = [*records(8), "broken", "broken"]
    (remark,) = look(jsonl(tmp_path / "in.jsonl", lines))
    assert remark.startswith("2 of the first 10 records give no passage (in.jsonl:9: broken JSON")
    assert not look(jsonl(tmp_path / "in.jsonl", lines), max_lost=0.2)


def test_ids_that_repeat_from_file_to_file_are_seen(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "abcd":
        jsonl(tmp_path / "in" / f"{name}.jsonl", records(20))
    assert "60 of the first 80 records give no passage (b.jsonl:1: duplicate id" in refused(tmp_path / "in")


def test_damaged_files_and_texts_are_left_to_the_plan(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl.gz").write_bytes(b"no gzip")
    assert not look(tmp_path / "in.jsonl.gz")
    (tmp_path / "in.parquet").write_bytes(b"no parquet")
    assert not look(tmp_path / "in.parquet")
    (tmp_path / "in.txt").write_text("words")
    assert not look(tmp_path / "in.txt")
    (tmp_path / "array.jsonl").write_text("[\n{}\n]")
    with pytest.raises(InvalidArgument, match="one JSON array"):
        look(tmp_path / "array.jsonl")


def test_the_command_ends_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def session() -> None:
        raise AssertionError("no cluster is to be started")

    monkeypatch.setattr(build_index, "ray_session", session)
    source = write(tmp_path, "jsonl", chunks(1, 30))
    result = CliRunner().invoke(build_index.app, ["--source", str(source), "--index", str(tmp_path / "index")])
    assert result.exit_code == 2
    assert "try --text-field chunk --id-field id,chunk-id" in " ".join(result.output.split())
    assert not (tmp_path / "index").exists()
