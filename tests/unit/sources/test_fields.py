"""From the fields of a record to a passage: ids of several fields, titles alone, lists, and what cannot be metadata."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shoal.errors import InvalidArgument
from shoal.records import Passage
from shoal.sources.fields import MAX_LEFT_OUT
from tests.support.reading import json_lines
from tests.support.source_records import GOOD, Read


def test_values_that_cannot_be_metadata_are_left_out_and_counted_and_their_passage_is_kept(
    folder: Path, read: Read
) -> None:
    lines = [
        '{"id": "1", "text": "x", "n": NaN, "m": 1, "refs": [{"id": "a"}]}',
        '{"id": "2", "text": "x", "n": -Infinity, "refs": {"a": 1}, "tags": ["a", null, "b", NaN]}',
        '{"id": "3", "text": "x", "n": 1e999, "refs": [1], "tags": [null], "metadata": {"deep": {"a": 1}, "b": 2}}',
    ]
    (folder / "a.jsonl").write_text("\n".join(lines))
    found = read(folder / "a.jsonl")
    assert found.passages == [
        Passage("1", "x", None, {"m": 1}),
        Passage("2", "x", None, {"tags": ["a", "b"]}),
        Passage("3", "x", None, {"b": 2, "tags": []}),
    ]
    assert found.left_out == {
        "n: not finite": 3,
        "refs: nested": 3,
        "tags: items that are null or NaN": 2,
        "deep: nested": 1,
    }


@pytest.mark.parametrize("value", ['{"a": 1}', "[1]", "NaN"])
def test_a_declared_field_rejects_what_cannot_be_metadata(value: str, folder: Path, read: Read) -> None:
    (folder / "a.jsonl").write_text(f'{{"id": "1", "text": "x", "n": {value}}}')
    found = read(folder / "a.jsonl", metadata_types=["n:number"])
    assert "which is no number (metadata_types)" in found.reasons[0]
    assert not found.left_out


def test_fields_that_are_left_out_are_counted_apart_up_to_a_limit(folder: Path, read: Read) -> None:
    (folder / "a.jsonl").write_bytes(json_lines({**GOOD, **{f"f{n}": {} for n in range(MAX_LEFT_OUT + 5)}}))
    found = read(folder / "a.jsonl")
    assert len(found.left_out) == MAX_LEFT_OUT + 1
    assert found.left_out["other fields: nested"] == 5


# --- ids of several fields -------------------------------------------------------------------------------------------


def test_an_id_of_several_fields_is_their_values_and_they_stay_metadata(folder: Path, read: Read) -> None:
    rows = [{"doi": "10.1/a", "chunk-id": n, "text": f"t{n}"} for n in range(3)]
    bad = [{"doi": "10.1/a", "text": "x"}, {"doi": " ", "chunk-id": 1, "text": "x"}, {"doi": None, "chunk-id": 1}]
    (folder / "a.jsonl").write_bytes(json_lines(*rows, *bad))
    found = read(folder / "a.jsonl", id_field="doi, chunk-id")
    assert found.passages == [Passage(f"10.1/a#{n}", f"t{n}", None, {"doi": "10.1/a", "chunk-id": n}) for n in range(3)]
    assert found.reasons == [
        "the id field 'chunk-id' is missing (fields: 'doi', 'text')",
        "the id field 'doi' is empty",
        "the id field 'doi' is null; it must be a string or an integer",
    ]
    kept = read(folder / "a.jsonl", id_field="doi,chunk-id", metadata_fields=["doi"], metadata_types=["doi:string"])
    assert kept.passages[0].metadata == {"doi": "10.1/a"}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_can_make_an_id_together(kind: str, folder: Path, read: Read) -> None:
    path = folder / f"a.{kind}"
    if kind == "csv":
        path.write_text("doi,chunk,text\n10.1/a,1,x\n10.1/a,2,y\n")
    else:
        pq.write_table(pa.table({"doi": ["10.1/a"] * 2, "chunk": ["1", "2"], "text": ["x", "y"]}), path)
    found = read(path, id_field="doi,chunk", metadata_fields=[])
    assert found.passages == [Passage("10.1/a#1", "x"), Passage("10.1/a#2", "y")]
    with pytest.raises(InvalidArgument, match="no column 'part'"):
        read(path, id_field="doi,part")


def test_pieces_of_a_text_are_numbered_behind_an_id_of_several_fields(folder: Path, read: Read) -> None:
    (folder / "a.jsonl").write_bytes(json_lines({"a": 1, "b": 2, "text": "One sentence of some words. " * 4}))
    found = read(folder / "a.jsonl", id_field="a,b", chunk_characters=60, metadata_fields=[])
    assert [passage.id for passage in found.passages] == ["1#2#1", "1#2#2"]
    assert found.plan.document("1#2#1") == "1#2"


@pytest.mark.parametrize("fields", ["a,", ",", "a,a"])
def test_an_id_needs_different_fields_that_have_names(fields: str, folder: Path, read: Read) -> None:
    (folder / "a.jsonl").write_bytes(json_lines(GOOD))
    with pytest.raises(InvalidArgument, match="id_field should be a field, or different fields"):
        read(folder / "a.jsonl", id_field=fields)


# --- titles without texts --------------------------------------------------------------------------------------------


def test_a_title_without_a_text_is_a_passage_where_titles_are_in_use(folder: Path, read: Read) -> None:
    documents = [
        {"_id": "1", "title": "Reefs", "text": ""},
        {"_id": "2", "title": "Reefs", "text": "They grow."},
        {"_id": "3", "title": "Reefs", "text": None},
        {"_id": "4", "title": " ", "text": " "},
        {"_id": "5", "title": "Reefs"},
    ]
    (folder / "corpus.jsonl").write_bytes(json_lines(*documents))
    found = read(folder)
    assert found.passages == [Passage("1", "", "Reefs"), Passage("2", "They grow.", "Reefs"), Passage("3", "", "Reefs")]
    assert [passage.content for passage in found.passages] == ["Reefs", "Reefs They grow.", "Reefs"]
    assert found.reasons == ["the text field 'text' is empty", "the text field 'text' is missing or empty"]
    cut = read(folder, chunk_characters=100)
    assert [passage.id for passage in cut.passages] == ["1#1", "2#1", "3#1"]


def test_a_csv_row_with_a_title_and_no_text_is_a_passage(folder: Path, read: Read) -> None:
    (folder / "a.csv").write_text("id,title,text\n1,Reefs,\n2,,\n")
    found = read(folder / "a.csv", title_field="title")
    assert found.passages == [Passage("1", "", "Reefs")]
    assert found.reasons == ["the text field 'text' is missing or empty"]


# --- lists -----------------------------------------------------------------------------------------------------------


def test_a_declared_list_is_read_from_json_and_cut_at_the_separator(folder: Path, read: Read) -> None:
    rows = ['1,x,"[""sale"", ""new""]"', "2,x,camping; outdoor;", "3,x,one", '4,x,"[""a"", 1]"', "5,x,[draft]"]
    (folder / "a.csv").write_text("\n".join(["id,text,tags", *rows]))
    cut = read(folder / "a.csv", metadata_types=["tags:list"], list_separator=";")
    assert [passage.metadata["tags"] for passage in cut.passages] == [["sale", "new"], ["camping", "outdoor"], ["one"]]
    assert [rejected.id for rejected in cut.rejected] == ["4", "5"]
    whole = read(folder / "a.csv", metadata_types=["tags:list"])
    assert [passage.metadata["tags"] for passage in whole.passages] == [["sale", "new"], ["one"]]
    assert whole.reasons[0] == (
        "the metadata field 'tags' is 'camping; outdoor;', which may be one value or several; say what stands between "
        "them with list_separator"
    )


def test_a_string_of_json_lines_stays_one_item_of_a_declared_list(folder: Path, read: Read) -> None:
    (folder / "a.jsonl").write_bytes(json_lines({**GOOD, "tags": "a;b"}, {**GOOD, "tags": '["a", "b"]'}))
    found = read(folder / "a.jsonl", metadata_types=["tags:list"])
    assert [passage.metadata["tags"] for passage in found.passages] == [["a;b"], ["a", "b"]]
    cut = read(folder / "a.jsonl", metadata_types=["tags:list"], list_separator=";")
    assert cut.passages[0].metadata["tags"] == ["a", "b"]
