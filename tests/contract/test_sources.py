"""One suite for every format and compression, locally and by URI: the same records give the same passages."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from pyarrow.fs import FileSystem

from shoal.errors import InvalidArgument
from shoal.records import Passage
from tests.support.reading import ENCODER, Reading, json_lines

RECORDS: list[dict[str, Any]] = [
    {
        "id": f"doc-{number}",
        "title": f"Title, {number}",
        "text": f'Passage {number}: "quoted", with é and 漢字' + " and more" * (number % 30),
        "source": f"s{number % 3}",
    }
    for number in range(300)
]
PASSAGES = [Passage(record["id"], record["text"], record["title"], {"source": record["source"]}) for record in RECORDS]
FIELDS = list(RECORDS[0])


def packed(data: bytes, compression: str) -> bytes:
    if compression == ".gz":
        return gzip.compress(data)
    if compression == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        return bytes(sink.getvalue())
    return data


def delimited(**dialect: Any) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, **dialect)
    writer.writeheader()
    writer.writerows(RECORDS)
    return text.getvalue().encode()


def parquet(**options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(RECORDS), sink, **options)
    return sink.getvalue()


def corpora() -> dict[str, dict[str, bytes]]:
    """Files of a folder, by a name for the case."""
    lines = json_lines(*RECORDS)
    half = len(json_lines(*RECORDS[:100]))
    tabs = delimited(delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
    beir = b"".join(json.dumps({"_id": record.pop("id"), **record}).encode() + b"\n" for record in map(dict, RECORDS))
    cases = {"parquet": {"a.parquet": parquet()}, "parquet, small groups": {"a.parquet": parquet(row_group_size=7)}}
    for compression in ("", ".gz", ".zst"):
        cases[f"jsonl{compression}"] = {f"a.jsonl{compression}": packed(lines, compression)}
        cases[f"csv{compression}"] = {f"a.csv{compression}": packed(delimited(), compression)}
        cases[f"tsv{compression}"] = {f"a.tsv{compression}": packed(tabs, compression)}
        cases[f"beir{compression}"] = {f"corpus.jsonl{compression}": packed(beir, compression), "queries.jsonl": b"{}"}
        cases[f"several files{compression}"] = {
            f"x/a.jsonl{compression}": packed(lines[:half], compression),
            "x/b.jsonl": b"",
            f"y.jsonl{compression}": packed(lines[half:], compression),
        }
    return cases


CASES = corpora()


@pytest.fixture(params=["local", "s3"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else str(request.getfixturevalue("s3_uri"))


def below(base: str, name: str) -> str:
    path, mark, query = base.partition("?")
    return f"{path}/{name}{mark}{query}"


def put(base: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        if "://" not in base:
            (Path(base) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(base) / name).write_bytes(data)
            continue
        store, path = FileSystem.from_uri(below(base, name))
        with store.open_output_stream(path, compression=None) as stream:
            stream.write(data)


@pytest.mark.parametrize("unit", [16, 1000])
@pytest.mark.parametrize("case", CASES)
def test_every_source_gives_the_same_passages(base: str, case: str, unit: int, tmp_path: Path) -> None:
    put(below(base, "input"), CASES[case])
    found = Reading(
        below(base, "input"), tmp_path / "root", title_field="title", metadata_fields=["source"], unit_passages=unit
    )
    assert found.passages == PASSAGES
    assert not found.reasons
    assert found.records == len(RECORDS)
    assert found.plan.encoder == ENCODER
    places = [place for place, _ in found.items]
    assert len({tuple(place.values()) for place in places}) == len(RECORDS)
    if case.startswith("jsonl"):
        assert [place["line"] for place in places] == list(range(1, 301))
    if case.startswith(("csv", "tsv")):
        assert [place["line"] for place in places] == list(range(2, 302))
    if unit == 16:
        assert len(found.plan.units) > 5


@pytest.mark.parametrize("case", ["jsonl", "csv.gz", "parquet"])
def test_one_file_or_a_glob_is_a_source_too(base: str, case: str, tmp_path: Path) -> None:
    put(below(base, "input"), CASES[case])
    (name,) = CASES[case]
    for source in (name, f"*{Path(name).suffix}", "**/a.*"):
        found = Reading(
            below(base, f"input/{source}"), tmp_path / "root", title_field="title", metadata_fields=["source"]
        )
        assert found.passages == PASSAGES


def test_pieces_are_staged_in_a_remote_root(s3_uri: str, tmp_path: Path) -> None:
    put(str(tmp_path / "input"), CASES["jsonl.gz"])
    found = Reading(str(tmp_path / "input"), s3_uri, title_field="title", metadata_fields=["source"], unit_passages=16)
    assert found.passages == PASSAGES
    assert found.plan.files[0].pieces == len(found.plan.units) > 5


def test_text_files_are_the_same_by_uri(base: str, tmp_path: Path) -> None:
    files = {"a.txt": "words. " * 400, "sub/b.md": "# Heading\n\n" + "words. " * 400}
    put(below(base, "input"), {name: text.encode() for name, text in files.items()})
    found = Reading(below(base, "input"), tmp_path / "root")
    assert "".join(passage.text for passage in found.passages).replace(" ", "").count("words.") == 800
    assert [passage.id.rpartition("/")[2] for passage in found.passages[:2]] == ["a.txt#1", "a.txt#2"]


def test_what_does_not_exist_is_named(base: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"absent\.jsonl.* does not exist"):
        Reading(below(base, "absent.jsonl"), tmp_path / "root")


def test_a_bucket_that_does_not_exist(s3_uri: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="nowhere"):
        Reading(s3_uri.replace("s3://shoal-", "s3://nowhere-"), tmp_path / "root")


def test_keys_of_s3_with_marks_are_read_and_those_with_empty_parts_are_named(
    s3_endpoint: str, s3_uri: str, tmp_path: Path
) -> None:
    keys = ["a.jsonl", "b?c.jsonl", "d%3Fe.jsonl", "f#g h.jsonl", "i//j.jsonl", "/a.jsonl"]
    for key in keys:
        url = f"{s3_endpoint}/{below(s3_uri, 'input').partition('?')[0].removeprefix('s3://')}/{quote(key)}"
        data = json_lines({"id": key, "text": "x"})
        requests.put(url, data=data, timeout=60).raise_for_status()
    found = Reading(below(s3_uri, "input"), tmp_path / "root")
    assert [passage.id for passage in found.passages] == keys[:4]
    named = [
        (place["file"].partition("/input/")[2], reason) for place, reason in found.items if isinstance(reason, str)
    ]
    assert sorted(key for key, _ in named) == ["/a.jsonl", "i//j.jsonl"]
    assert {reason for _, reason in named} == {
        "the file has an empty part (//) in its key and cannot be opened; rename it"
    }
