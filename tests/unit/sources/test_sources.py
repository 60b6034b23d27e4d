"""What formats give: good records, bad records and their places."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shoal.errors import InvalidArgument
from shoal.records import Passage
from shoal.sources import Rejected
from tests.support.reading import Reading, json_lines
from tests.support.source_records import GOOD, Read

# --- one bad record among good ones ---------------------------------------------------------------------------------

BAD = {
    "broken": (b'{"id": "1", "text": ', "broken JSON: Expecting value, character 21"),
    "no object": (b'["id", "text"]', "the line is an array, not a JSON object"),
    "comma": (b'{"id": "1", "text": "x"}, ', "broken JSON: a comma ends the line; each line is one object"),
    "null": (b"null", "the line is null, not a JSON object"),
    "nested too deeply": (b"[" * 100_000, "broken JSON"),
    "no id": (b'{"_id": "1", "text": "x"}', "the id field 'id' is missing (fields: '_id', 'text')"),
    "empty id": (b'{"id": "", "text": "x"}', "the id field 'id' is empty"),
    "null id": (b'{"id": null, "text": "x"}', "the id field 'id' is null; it must be a string or an integer"),
    "boolean id": (b'{"id": true, "text": "x"}', "the id field 'id' is a boolean"),
    "float id": (b'{"id": 1.5, "text": "x"}', "the id field 'id' is a number"),
    "NaN id": (b'{"id": NaN, "text": "x"}', "the id field 'id' is nan"),
    "long id": (b'{"id": "' + "é".encode() * 257 + b'", "text": "x"}', "the id field 'id' is 514 bytes long"),
    "surrogate id": (b'{"id": "\\ud800", "text": "x"}', "the id field 'id' holds a lone surrogate"),
    "no text": (b'{"id": "1"}', "the text field 'text' is missing"),
    "null text": (b'{"id": "1", "text": null}', "the text field 'text' is missing"),
    "empty text": (b'{"id": "1", "text": ""}', "the text field 'text' is empty"),
    "blank text": (b'{"id": "1", "text": " \\n\\t "}', "the text field 'text' is empty"),
    "number text": (b'{"id": "1", "text": 5}', "the text field 'text' is a number; it must be a string"),
    "list text": (b'{"id": "1", "text": ["x"]}', "the text field 'text' is a list"),
    "surrogate text": (b'{"id": "1", "text": "ab\\udc00"}', "the field 'text' holds a lone surrogate (character 3)"),
    "long text": (
        b'{"id": "1", "text": "' + b"x" * 1_000_001 + b'"}',
        "the field 'text' is 1,000,001 bytes long, more than max_passage_bytes (1,000,000)",
    ),
    "very long text": (
        b'{"id": "1", "text": "' + b"x" * 10_000_000 + b'"}',
        "the record is longer than 7,048,576 bytes, more than max_passage_bytes",
    ),
    "invalid UTF-8": (b'{"id": "1", "text": "\xff"}', "the line is not valid UTF-8 (byte 22)"),
    "large integer": (
        b'{"id": "1", "text": "x", "n": 9223372036854775808}',
        "the metadata field 'n' is an integer beyond",
    ),
    "larger integer": (
        b'{"id": "1", "text": "x", "n": 18446744073709551616}',
        "the metadata field 'n' is an integer beyond",
    ),
    "very small integer": (
        b'{"id": "1", "text": "x", "n": -9223372036854775809}',
        "the metadata field 'n' is an integer beyond",
    ),
    "long metadata": (
        json_lines({"id": "1", "text": "x", "n": "m" * 600_000, "l": ["m" * 399_998]}),  # names and items count too
        "the metadata are 1,000,001 characters long, more than 1,000,000; choose the fields to keep",
    ),
    "surrogate value": (b'{"id": "1", "text": "x", "n": "\\ud800"}', "the metadata field 'n' holds a lone surrogate"),
    "surrogate item": (b'{"id": "1", "text": "x", "n": ["\\ud800"]}', "the metadata field 'n' holds a lone surrogate"),
    "surrogate name": (
        b'{"id": "1", "text": "x", "\\ud800": 1}',
        "the metadata field '\\ud800' holds a lone surrogate",
    ),
    "byte order mark inside": (b'\xef\xbb\xbf{"id": "1", "text": "x"}', "broken JSON"),
}


@pytest.mark.parametrize(("line", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_record_is_rejected_with_its_line_and_reason(line: bytes, reason: str, folder: Path, read: Read) -> None:
    (folder / "a.jsonl").write_bytes(json_lines(GOOD) + b"\n" + line + b"\n" + json_lines(GOOD))
    found = read(folder / "a.jsonl")
    assert [item for _, item in found.items if isinstance(item, Passage)] == [Passage("good", "a good passage")] * 2
    (place, told), *others = [(place, item) for place, item in found.items if isinstance(item, str)]
    assert not others
    assert place == {"file": "a.jsonl", "line": 3}
    assert told.startswith(reason)
    assert found.records == 3
    for rejected in found.rejected:
        json.dumps([rejected.reason, rejected.id], ensure_ascii=False).encode()


def test_integers_are_exact_and_large_floats_stay_floats(folder: Path, read: Read) -> None:
    line = b'{"id": 123456789012345678901234567890, "text": "x", "n": -9223372036854775808, "f": 1e30}'
    (folder / "a.jsonl").write_bytes(line)
    (passage,) = read(folder / "a.jsonl").passages
    assert passage.id == "123456789012345678901234567890"
    assert passage.metadata == {"n": -(2**63), "f": 1e30}


def test_a_rejected_record_names_its_id(folder: Path, read: Read) -> None:
    (folder / "a.jsonl").write_bytes(json_lines({"id": 7, "text": ""}))
    assert read(folder / "a.jsonl").rejected == [Rejected(1, "the text field 'text' is empty", "7")]


def test_a_bad_title_is_named(folder: Path, read: Read) -> None:
    (folder / "a.jsonl").write_bytes(json_lines({**GOOD, "title": 5}, {**GOOD, "title": None}, {**GOOD, "title": ""}))
    found = read(folder / "a.jsonl", title_field="title")
    assert found.reasons == ["the title field 'title' is a number; it must be a string"]
    assert found.passages == [Passage("good", "a good passage")] * 2


def test_values_are_kept_as_they_are(folder: Path, read: Read) -> None:
    metadata = {"s": "é", "i": -3, "f": 0.5, "b": True, "l": ["a", "b"], "empty": [], "": "no name", "e": ""}
    (folder / "a.jsonl").write_bytes(json_lines({"id": 12, "text": " x\n", "null": None, **metadata}))
    assert read(folder / "a.jsonl").passages == [Passage("12", " x\n", None, metadata)]


def test_values_of_declared_types_become_such_or_reject_their_record(folder: Path, read: Read) -> None:
    (folder / "a.csv").write_text("id,text,year,ok\n1,x,2020,true\n2,x,soon,true\n3,x,,\n")
    found = read(folder / "a.csv", metadata_types=["year:integer", "ok:boolean"])
    assert found.passages == [Passage("1", "x", None, {"year": 2020, "ok": True}), Passage("3", "x")]
    assert found.rejected == [
        Rejected(2, "the metadata field 'year' is 'soon', which is no integer (metadata_types)", "2")
    ]


def test_fields_are_chosen(folder: Path, read: Read) -> None:
    record = {"key": "1", "body": "text", "head": "title", "a": 1, "b": {}, "c": 3}
    (folder / "a.jsonl").write_bytes(json_lines(record, {**record, "c": None}))
    found = read(
        folder / "a.jsonl", id_field="key", text_field="body", title_field="head", metadata_fields=["c", "a", "absent"]
    )
    assert found.passages == [Passage("1", "text", "title", {"c": 3, "a": 1}), Passage("1", "text", "title", {"a": 1})]
    assert read(folder / "a.jsonl", id_field="key", text_field="body", metadata_fields=[]).passages[0].metadata == {}


def test_a_metadata_object_stands_for_its_fields(folder: Path, read: Read) -> None:
    (folder / "a.jsonl").write_bytes(json_lines({**GOOD, "metadata": {"url": "u", "n": None}, "lang": "en"}))
    assert read(folder / "a.jsonl").passages[0].metadata == {"url": "u", "lang": "en"}
    assert read(folder / "a.jsonl", metadata_fields=["url"]).passages[0].metadata == {"url": "u"}


@pytest.mark.parametrize("compression", ["", ".gz"])
@pytest.mark.parametrize("unit", [1, 2, 100])
def test_marks_ends_and_blank_lines(compression: str, unit: int, folder: Path, read: Read) -> None:
    lines = [json.dumps({"id": str(number), "text": "x"}) for number in range(3)]
    data = f"\ufeff{lines[0]}\r\n\r\n{lines[1]}\n  \n\n{lines[2]}".encode()
    (folder / f"a.jsonl{compression}").write_bytes(gzip.compress(data) if compression else data)
    found = read(folder / f"a.jsonl{compression}", unit_passages=unit)
    assert [(place["line"], item.id) for place, item in found.items if isinstance(item, Passage)] == [
        (1, "0"),
        (3, "1"),
        (6, "2"),
    ]
    assert not found.reasons


# --- CSV and TSV ----------------------------------------------------------------------------------------------------


def test_csv_values_are_strings(folder: Path, read: Read) -> None:
    text = '\ufeffid,text,year,note\r\n1,"two\nlines, ""quoted""",2001,\r\n\r\n2,plain,true,n\r\n'
    (folder / "a.csv").write_bytes(text.encode())
    found = read(folder / "a.csv", unit_passages=1)
    assert found.items == [
        ({"file": "a.csv", "line": 2}, Passage("1", 'two\nlines, "quoted"', None, {"year": "2001"})),
        ({"file": "a.csv", "line": 5}, Passage("2", "plain", None, {"year": "true", "note": "n"})),
    ]


def test_bad_csv_records(folder: Path, read: Read) -> None:
    (folder / "a.csv").write_bytes(
        b'id,text\n1,good\n2,too,many\n3\n4,"a"b\n5,\xff\n6,"over\n\xff two lines"\n,no id\n7,\n8,good\n9,"open\nend\n'
    )
    found = read(folder / "a.csv")
    assert [passage.id for passage in found.passages] == ["1", "8"]
    assert [(place["line"], reason) for place, reason in found.items if isinstance(reason, str)] == [
        (3, "the record has 3 values for 2 columns (id, text)"),
        (4, "the record has 1 values for 2 columns (id, text)"),
        (5, "broken CSV: ',' expected after '\"'"),
        (6, "the record is not valid UTF-8 (byte 3)"),
        (7, "the record is not valid UTF-8 (byte 9)"),
        (9, "the id field 'id' is missing (fields: 'text')"),
        (10, "the text field 'text' is missing or empty"),
        (12, "a quoted value is not closed before the end of the file (2 lines)"),
    ]


def test_a_long_csv_text_of_many_lines_is_one_rejected_record(folder: Path, read: Read) -> None:
    (folder / "a.csv").write_bytes(b'id,text\n1,"' + (b"a,b " * 250 + b"\n") * 10_000 + b'"\n2,good\n')
    found = read(folder / "a.csv")
    assert found.reasons == [
        "the record is longer than 7,048,576 bytes, more than max_passage_bytes allows for; or is a quote missing?"
    ]
    assert [passage.id for passage in found.passages] == ["2"]


def test_a_field_of_more_than_128_kib_is_no_error(folder: Path, read: Read) -> None:
    text = "long, text\n" * 20_000
    (folder / "a.csv").write_text(f'id,text\n1,"{text}"\n')
    assert read(folder / "a.csv").passages == [Passage("1", text)]


def test_tsv_has_no_quotes(folder: Path, read: Read) -> None:
    (folder / "a.tsv").write_bytes(b'id\ttext\tn\r\n1\t"quoted" text\t5\r\n2\tx\n3\t\xff\t\n4\ty\t')
    found = read(folder / "a.tsv", unit_passages=1)
    assert found.passages == [Passage("1", '"quoted" text', None, {"n": "5"}), Passage("4", "y")]
    assert [(place["line"], reason) for place, reason in found.items if isinstance(reason, str)] == [
        (3, "the record has 2 values for 3 columns (id, text, n)"),
        (4, "the line is not valid UTF-8 (byte 3)"),
    ]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_columns_take_the_place_of_a_header(name: str, folder: Path, read: Read) -> None:
    (folder / name).write_text("\ufeff1,one\n2,two\n".replace(",", "\t" if name == "a.tsv" else ","))
    found = read(folder / name, columns=["id", "text"])
    assert found.passages == [Passage("1", "one"), Passage("2", "two")]
    assert [place["line"] for place, _ in found.items] == [1, 2]


@pytest.mark.parametrize(
    ("header", "reason"),
    [("key,text", "a.csv has no column 'id' \\(columns: key, text\\)"), ("id,text,id", "names a column twice")],
)
def test_a_header_without_the_fields(header: str, reason: str, folder: Path, read: Read) -> None:
    (folder / "a.csv").write_text(f"{header}\n1,x\n")
    with pytest.raises(InvalidArgument, match=reason):
        read(folder / "a.csv")


# --- text and chunking ----------------------------------------------------------------------------------------------


def test_text_files_are_cut_into_passages(folder: Path, read: Read) -> None:
    (folder / "sub").mkdir()
    (folder / "b.txt").write_text("One sentence. " * 10)
    (folder / "sub" / "a.md").write_text("\ufeff# Heading\n\nwords")
    (folder / "bad.txt").write_bytes(b"\xff")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "picture.png").write_bytes(b"\x00")
    found = read(folder, chunk_characters=80)
    assert [passage.id for passage in found.passages] == ["b.txt#1", "b.txt#2", "sub/a.md#1"]
    assert found.passages[2] == Passage("sub/a.md#1", "# Heading\n\nwords", "Heading", {"path": "sub/a.md", "_line": 1})
    assert [(place, reason) for place, reason in found.items if isinstance(reason, str)] == [
        (
            {"file": "bad.txt"},
            "the file is not valid UTF-8 (byte 1); save it as UTF-8, such as with `iconv -f ISO-8859-1 -t UTF-8`",
        ),
        ({"file": "empty.txt"}, "the file is empty"),
    ]


def test_markdown_is_cut_at_its_headings_however_its_extension_is_written(folder: Path, read: Read) -> None:
    (folder / "A.MD").write_text("# One\n\nSome words are here.\n\n# Two\n\nOther words are there.")
    found = read(folder, chunk_characters=50)
    assert [passage.text for passage in found.passages] == [
        "# One\n\nSome words are here.",
        "# Two\n\nOther words are there.",
    ]


def test_any_source_can_be_cut(folder: Path, read: Read) -> None:
    text = "One sentence of some words. " * 100_000
    (folder / "a.jsonl").write_bytes(json_lines({"id": "1", "title": "t", "text": text, "n": 1}, GOOD))
    found = read(folder / "a.jsonl", chunk_characters=1000, title_field="title")
    pieces = found.passages
    assert [piece.id for piece in pieces[:2]] == ["1#1", "1#2"]
    assert pieces[-1] == Passage("good#1", "a good passage")
    assert all(piece.title == "t" and piece.metadata == {"n": 1} and len(piece.text) <= 1000 for piece in pieces[:-1])
    assert "".join(piece.text for piece in pieces[:-1]).replace(" ", "") == text.replace(" ", "")
    assert found.records == 2


# --- any unit size gives the same -----------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1, max_size=20).filter(
    lambda text: bool(text.strip())
)


@given(
    texts=st.lists(TEXT, min_size=1, max_size=30),
    unit=st.integers(1, 40),
    kind=st.sampled_from(["jsonl", "csv", "jsonl.gz", "parquet"]),
)
@hypothesis_settings(max_examples=40)
def test_every_record_is_read_once_for_any_unit_size(
    texts: list[str], unit: int, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = folder / f"a.{kind}"
    rows = [{"id": str(number), "text": text} for number, text in enumerate(texts)]
    match kind:
        case "jsonl":
            path.write_bytes(json_lines(*rows))
        case "jsonl.gz":
            path.write_bytes(gzip.compress(json_lines(*rows)))
        case "csv":
            quoted = ('"' + row["text"].replace('"', '""') + '"' for row in rows)
            path.write_bytes("".join(["id,text\n", *(f"{n},{text}\n" for n, text in enumerate(quoted))]).encode())
        case _:
            pq.write_table(pa.Table.from_pylist(rows), path)
    found = Reading(path, folder / "root", unit_passages=unit)
    assert found.passages == [Passage(row["id"], row["text"]) for row in rows]
    assert found.records == len(rows)
