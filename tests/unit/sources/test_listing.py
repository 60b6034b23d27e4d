"""What lies in a folder beside its passages, left out with a count or read as metadata; messages name the way out."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.report import Summary
from shoal.errors import InvalidArgument
from shoal.indexing.losses import BuildReport
from shoal.indexing.plan import make_plan
from shoal.settings import BuildSettings
from shoal.sources.listing import Listing, describe_left_out, find_input
from tests.support.reading import ENCODER, json_lines
from tests.support.source_records import GOOD, Read


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(json_lines({**GOOD, "id": name, "_id": name}))


def listed(source: Path, asked: str = "auto", index: str = "root") -> Listing:
    return find_input(str(source), asked, index)


def names(source: Path, asked: str = "auto", index: str = "root") -> list[str]:
    return [file.name for file in listed(source, asked, index).files]


# --- left out with a count ------------------------------------------------------------------------------------------


def test_files_of_other_types_are_counted(folder: Path) -> None:
    touch(folder, "a.md", *(f"{number}.png" for number in range(9)), "b.PY", "c.py", "sub/d.doc", "data.tar.gz")
    touch(folder, ".git/config", "LICENSE")
    found = listed(folder)
    assert [file.name for file in found.files] == ["a.md"]
    assert found.left_out == {".png": 9, ".py": 2, ".doc": 1, ".tar.gz": 1, "no extension": 1}
    text = "14 files of other types: 9 .png, 2 .py, 1 .doc, 1 .tar.gz, 1 no extension"
    assert describe_left_out(found.left_out) == text
    plan = make_plan(BuildSettings(source=str(folder), index="root"), ENCODER)
    assert plan.left_out == found.left_out
    assert type(plan).from_bytes(plan.to_bytes()).left_out == found.left_out


def test_nothing_is_left_out_of_a_beir_folder_or_a_named_file(folder: Path) -> None:
    touch(folder, "corpus.jsonl", "queries.jsonl", "qrels/test.tsv")
    assert listed(folder).left_out == {}
    assert listed(folder / "corpus.jsonl").left_out == {}
    touch(folder, "README.md")
    assert listed(folder).left_out == {".md": 1}


def test_of_a_glob_only_what_it_names_can_be_left_out(folder: Path) -> None:
    touch(folder, "a.jsonl", "a.png", "b.png")
    assert listed(folder / "*").left_out == {".png": 2}
    assert listed(folder / "a*").left_out == {".png": 1}
    assert listed(folder / "*", "jsonl").left_out == {}


def test_the_text_of_what_is_left_out_is_short() -> None:
    left_out = {f".{letter}": 1 for letter in "abcdefghij"}
    assert describe_left_out(left_out) == "10 files of other types: 1 .a, 1 .b, 1 .c, 1 .d, 1 .e, 1 .f, 1 .g, 1 .h, ..."
    assert describe_left_out({".pdf": 1}) == "1 file of other types: 1 .pdf"


# --- Spark, Hive, Delta ---------------------------------------------------------------------------------------------


def test_what_spark_and_delta_keep_for_themselves_is_no_input(folder: Path) -> None:
    data = ["part-0.jsonl", "_posts/a.jsonl", "sub/b.jsonl", "_metadata_of_mine.jsonl"]
    own = [
        "_temporary/0/task_1/part-1.jsonl",
        "sub/_temporary/part-2.jsonl",
        "_delta_log/00000000000000000000.json",
        "_delta_log/_last_checkpoint",
        "_change_data/cdc-0.jsonl",
        "_spark_metadata/0",
        "_SUCCESS",
        "sub/_SUCCESS",
        "_metadata",
        "_common_metadata",
        "_started_123",
        "_committed_123",
    ]
    touch(folder, *data, *own)
    found = listed(folder)
    assert [file.name for file in found.files] == sorted(data)
    assert sum(found.left_out.values()) == len(own)
    assert found.left_out["_temporary/"] == found.left_out["_delta_log/"] == found.left_out["_SUCCESS"] == 2
    plan = make_plan(BuildSettings(source=str(folder), index="root"), ENCODER)
    assert ["Delta table" in remark for remark in plan.remarks] == [True]
    assert names(folder / "_temporary" / "0") == ["task_1/part-1.jsonl"]
    assert names(folder / "_delta_log" / "*.json", "jsonl") == ["00000000000000000000.json"]


def test_a_folder_of_bookkeeping_holds_no_files_of_its_own(folder: Path) -> None:
    touch(folder, "_SUCCESS", "_delta_log/0.json")
    with pytest.raises(InvalidArgument, match=r"holds no files of its own; left out are 2 files of other types: 1 _S"):
        listed(folder)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.csv", "a.tsv", "a.jsonl.gz", "a.txt"])
def test_partitions_are_metadata(name: str, folder: Path, read: Read) -> None:
    record = {"id": "1", "text": "x"}
    content = {"csv": "id,text\n1,x\n", "tsv": "id\ttext\n1\tx\n", "txt": "x"}.get(name.split(".")[1])
    data = content.encode() if content else json_lines(record)
    for path in ("year=2020/lang=en", "year=2021/lang=zh%2DHans", "year=-1/lang=__HIVE_DEFAULT_PARTITION__"):
        (folder / path).mkdir(parents=True)
        if name.endswith("parquet"):
            pq.write_table(pa.Table.from_pylist([record]), folder / path / name)
        else:
            (folder / path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    found = read(folder)
    placed = ("path", "_line")
    metadata = [{key: value for key, value in item.metadata.items() if key not in placed} for item in found.passages]
    assert metadata == [{"year": -1}, {"year": 2020, "lang": "en"}, {"year": 2021, "lang": "zh-Hans"}]
    if not name.endswith("txt"):
        assert [item.metadata for item in read(folder, metadata_fields=["lang"]).passages][1] == {"lang": "en"}


def test_values_of_partitions_keep_how_they_are_written(folder: Path, read: Read) -> None:
    for number, path in enumerate(("month=01/day=1", "month=12/day=2", "month=3/day=x")):
        (folder / path).mkdir(parents=True)
        (folder / path / "a.jsonl").write_bytes(json_lines({"id": str(number), "text": "x"}))
    metadata = [passage.metadata for passage in read(folder).passages]
    assert metadata == [{"month": "01", "day": "1"}, {"month": "12", "day": "2"}, {"month": "3", "day": "x"}]


def test_what_a_record_says_itself_counts_more_than_its_path(folder: Path, read: Read) -> None:
    (folder / "lang=en").mkdir()
    (folder / "lang=en" / "a.jsonl").write_bytes(json_lines({**GOOD, "lang": "de"}, {**GOOD, "lang": None}, GOOD))
    assert [passage.metadata for passage in read(folder).passages] == [{"lang": "de"}, {}, {"lang": "en"}]


def test_a_plan_of_partitions_is_not_that_of_before(folder: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(folder, "year=2020/a.jsonl")
    now = read(folder).plan.hash
    monkeypatch.setattr("shoal.sources.listing.partitions", lambda names: {name: {} for name in names})
    assert read(folder).plan.hash != now


# --- index roots ----------------------------------------------------------------------------------------------------


def test_what_another_index_root_stores_is_no_input(folder: Path) -> None:
    version, plan = "20261122T233411042-1a2b3c4d", "0123456789abcdef"
    stored = [
        "CURRENT",
        f"versions/{version}/rejected.jsonl",
        f"versions/{version}/manifest.json",
        f"staging/{plan}/units/00000000.json",
        f"refused/{version}.json",
    ]
    touch(folder, "a.jsonl", "versions/mine.jsonl", *(f"old/{path}" for path in stored), "old/beside.jsonl")
    found = listed(folder)
    assert [file.name for file in found.files] == ["a.jsonl", "old/beside.jsonl", "versions/mine.jsonl"]
    assert found.left_out == {"of an index root": len(stored)}
    shutil.rmtree(folder)
    touch(folder, "a.jsonl", *stored)
    assert names(folder) == ["a.jsonl"]
    assert names(folder / "versions" / version, "jsonl") == ["manifest.json", "rejected.jsonl"]


# --- formats, and the way out of messages ---------------------------------------------------------------------------


def test_a_named_format_reads_files_without_an_extension(folder: Path, read: Read) -> None:
    touch(folder, "part-00000", "000001_0", "part.2", "_SUCCESS", "note.png")
    found = listed(folder, "jsonl")
    assert [file.name for file in found.files] == ["000001_0", "part-00000", "part.2"]
    assert found.left_out == {"_SUCCESS": 1, ".png": 1}
    assert [passage.id for passage in read(folder, format="jsonl").passages] == ["000001_0", "part-00000", "part.2"]
    touch(folder, "a.jsonl")
    found = listed(folder, "jsonl")
    assert [file.name for file in found.files] == ["a.jsonl"]
    assert found.left_out["no extension"] == 3


def test_compressed_files_without_an_extension_are_read_as_lines(folder: Path, read: Read) -> None:
    (folder / "part-0.gz").write_bytes(gzip.compress(json_lines(GOOD)))
    assert [passage.id for passage in read(folder, format="jsonl").passages] == ["good"]
    with pytest.raises(InvalidArgument, match=r"holds no parquet files \(1 x \.gz\)"):
        listed(folder, "parquet")


@pytest.mark.parametrize(
    ("made", "asked", "way_out"),
    [
        (
            ["a.doc", "b.doc"],
            "auto",
            r"turn them into text first; --source 'SOURCE/\*\*/\*\.doc' --format text reads",
        ),
        (["a.doc"], "text", r"turn them into text first; --source 'SOURCE/\*\*/\*\.doc' --format text reads"),
        (["a.log"], "jsonl", r"--source 'SOURCE/\*\*/\*\.log' --format jsonl reads them as jsonl whatever they are"),
        (["a.zip"], "auto", r"unpack \.zip files first, or compress them as \.gz or \.zst"),
        (
            ["_versions/1.manifest", "_versions/2.manifest", "data/a.lance"],
            "auto",
            "write the rows of Lance tables as Parq",
        ),
        (["a.jsonl"], "parquet", r"set format to jsonl, or leave it out"),
        (["a.jsonl", "b.csv"], "auto", r"several formats \(csv, jsonl\): .*; set format to csv or jsonl$"),
    ],
)
def test_messages_name_a_way_out_that_works(made: list[str], asked: str, way_out: str, folder: Path) -> None:
    touch(folder, *made)
    with pytest.raises(InvalidArgument, match=way_out.replace("SOURCE", str(folder))) as caught:
        listed(folder, asked)
    assert caught.value.param == "format"
    if "--source" in way_out:
        glob, wanted = caught.value.message.split("--source '")[1].split("' --format ")
        assert [file.name for file in find_input(glob, wanted.split()[0], "root").files] == made


@pytest.mark.parametrize(
    ("name", "content", "way_out"),
    [
        ("a.csv", b"id\ttext\n1\tx\n", "separated by tabs: set format to tsv"),
        ("a.tsv", b"id,text\n1,x\n", "separated by commas: set format to csv"),
        ("a.csv", b"id;text\n1;x\n", "separated by ';'; convert it to commas, or to tabs"),
        ("a.csv", b"id,text\r1,x\r2,y\r", r"carriage returns; convert it, for example with tr"),
        ("a.csv", b"key\n1\n", "set id_field, text_field or title_field"),
        ("a.csv", "id,text\n1,x\n".encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
        ("a.tsv", "id\ttext\n1\tx\n".encode("utf-16-be"), "iconv -f UTF-16 -t UTF-8"),
        ("a.csv", b"id,text,n\xe9\n1,x,\n", "iconv -f WINDOWS-1252 -t UTF-8"),
        ("a.jsonl", '{"id": "1", "text": "x"}\n'.encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
        ("a.jsonl", '{"id": "1", "text": "x"}\n'.encode("utf-16-le"), "iconv -f UTF-16 -t UTF-8"),
    ],
)
def test_messages_about_the_inside_of_a_file_name_a_way_out(
    name: str, content: bytes, way_out: str, folder: Path, read: Read
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InvalidArgument, match=way_out):
        read(folder)


def test_the_summary_and_the_report_name_what_was_left_out(folder: Path, read: Read) -> None:
    report = BuildReport(files_left_out={".pdf": 8})
    assert BuildReport.model_validate_json(report.model_dump_json()) == report
    numbers: dict[str, Any] = dict.fromkeys(("passages", "duplicates", "rejected", "shards", "bytes"), 1)
    summary = Summary("root", "v", "p", True, True, **numbers, recall_at_10=None, files_left_out={".pdf": 8})
    assert ("left out", "8 files of other types: 8 .pdf") in summary.rows()
    assert json.loads(json.dumps(summary.to_json()))["files_left_out"] == {".pdf": 8}
