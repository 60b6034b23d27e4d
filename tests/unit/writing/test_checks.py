"""What may be written: as the build of the version would have it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.errors import InvalidArgument
from shoal.testing.fakes import DIM
from shoal.writing.checks import MOST_PROBLEMS, RecordChecks, normalised
from shoal.writing.requests import MetadataUpdate, PassageWrite
from tests.support.reading import Reading
from tests.support.writing import manifest

FIELDS: dict[str, Any] = {
    "year": "integer",
    "price": "number",
    "lang": "string",
    "on": "boolean",
    "at": "timestamp",
    "tags": "list",
}
VALUES: dict[str, list[Any]] = {
    "year": [2020, -1, 2**62],
    "price": [1, 1.5, -0.0],
    "lang": ["en", ""],
    "on": [True, False],
    "at": ["2026-01-31", "2026-01-31T12:00:00+01:00"],
    "tags": [["a", "b"], [], "a"],
}


def one(**fields: Any) -> PassageWrite:
    return PassageWrite(**{"id": "a", "text": "some text", **fields})


def checks(**build: Any) -> RecordChecks:
    return RecordChecks(manifest(**build))


def problem(write: PassageWrite, made: RecordChecks | None = None) -> str:
    with pytest.raises(InvalidArgument) as refused:
        (made or checks()).check_passages([write], {})
    assert refused.value.param == "passages[0]"
    return refused.value.message


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id": " "}, "the id field 'id' is empty"),
        ({"id": "x" * 513}, "513 bytes long, more than 512"),
        ({"id": "\ud800"}, "lone surrogate"),
        ({"text": None}, "the text field 'text' is missing or empty"),
        ({"text": " \n"}, "the text field 'text' is empty"),
        ({"text": "x" * 1_000_001}, "more than max_passage_bytes (1,000,000)"),
        ({"title": "x" * 1_000_001}, "the field 'title' is 1,000,001 bytes long"),
        ({"metadata": {"a": {"b": 1}}}, "the metadata field a: nested"),
        ({"metadata": {"a": [1]}}, "the metadata field a: nested"),
        ({"metadata": {"a": math.nan}}, "the metadata field a: not finite"),
        ({"metadata": {"a": 2**64}}, "an integer beyond 64 bits"),
        ({"metadata": {"a": "x" * 1_000_001}}, "more than 1,000,000"),
        ({"vector": [1.0] * 7}, "the vector has 7 numbers, those of the index have 8"),
        ({"vector": [[1.0] * 8]}, "the vector has the shape (1, 8)"),
        ({"vector": [0.0] * 8}, "zero or holds a number that is not finite"),
        ({"vector": [math.inf] * 8}, "zero or holds a number that is not finite"),
    ],
    ids=range(16),
)
def test_what_no_build_would_take_is_refused_with_its_reason(fields: dict[str, Any], said: str) -> None:
    assert said in problem(one(**fields))


def test_what_a_build_takes_is_taken() -> None:
    title_alone = one(id="t", text=None, title="a title")
    bare = one(id="v", text=None, vector=[2.0] + [0.0] * 7, metadata={"text": "x", "id": 1, "gone": None})
    first, second = checks().check_passages([title_alone, bare], {})
    assert (first.document, first.passages[0].content, first.vector) == ("t", "a title", None)
    assert (second.passages[0].text, second.passages[0].metadata) == ("", {"text": "x", "id": 1})
    np.testing.assert_array_equal(second.vector, np.eye(DIM, dtype=np.float32)[0])


def test_a_value_has_the_type_of_its_field_and_every_misfit_is_named() -> None:
    good = [
        one(id=f"{field} {number}", metadata={field: value})
        for field in FIELDS
        for number, value in enumerate(VALUES[field])
    ]
    assert len(checks().check_passages(good, FIELDS)) == len(good)
    bad = {"year": "2020", "price": "1", "lang": 5, "on": 1, "at": "soon", "tags": 3}
    with pytest.raises(InvalidArgument) as refused:
        checks().check_passages([one(id=field, metadata={field: value}) for field, value in bad.items()], FIELDS)
    for number, field in enumerate(bad):
        assert (
            f"passages[{number}] (id '{field}'): metadata field {field} has type {FIELDS[field]}"
            in refused.value.message
        )


def test_the_first_value_of_a_new_field_fixes_its_type() -> None:
    new = [one(id="a", metadata={"x": 1}), one(id="b", metadata={"x": 1.5}), one(id="c", metadata={"x": 2})]
    assert len(checks().check_passages(new, {})) == 3
    with pytest.raises(InvalidArgument, match=r"passages\[3\] \(id 'd'\): metadata field x has type number"):
        checks().check_passages([*new, one(id="d", metadata={"x": "1"})], {})


def test_a_declared_type_converts_as_the_build_does() -> None:
    made = checks(metadata_types=["year:integer", "tags:list"], list_separator=";")
    (checked,) = made.check_passages([one(metadata={"year": "2020", "tags": "a; b", "lang": "en"})], FIELDS)
    assert checked.passages[0].metadata == {"year": 2020, "tags": ["a", "b"], "lang": "en"}
    assert "no integer" in problem(one(metadata={"year": "soon"}), made)


def test_documents_are_cut_as_the_build_cut_them(tmp_path: Path) -> None:
    text = "# One\n\nSome words of the first.\n\n## Two\n\n" + "Words of the second part. " * 9
    folder = tmp_path / "input"
    folder.mkdir()
    options = {"chunk_characters": 80, "piece_ids": "content"}
    for name in ("a.md", "b.txt", "c.rst"):
        (folder / name).write_text(text)
    read = Reading(folder, tmp_path / "root", **options)
    writes = [one(id=name, text=text, metadata={"path": name}) for name in ("a.md", "b.txt", "c.rst")]
    made = checks(**read.plan.settings).check_passages(writes, {})
    assert [passage for record in made for passage in record.passages] == read.passages
    assert {passage.title for passage in made[0].passages} == {"One", "One > Two"}
    assert checks(**options).document_of(read.passages[-1].id) == "c.rst"


def test_texts_are_cut_as_the_build_cut_them() -> None:
    text = "# One\n\nwords of one\n\n# Two\n\nwords of two, and some more of them"
    plain = checks(chunk_characters=50, chunk_overlap=0, format="jsonl").check_passages([one(text=text)], {})
    markdown = checks(chunk_characters=50, format="text").check_passages(
        [one(id="a.md", text=text, metadata={"y": 1})], {}
    )
    assert [passage.id for passage in plain[0].passages] == ["a#1", "a#2"]
    assert [passage.text.partition("\n")[0] for passage in markdown[0].passages] == ["# One", "# Two"]
    assert [passage.metadata for passage in markdown[0].passages] == [{"y": 1}, {"y": 1}]
    assert markdown[0].document == "a.md"
    cutting = checks(chunk_characters=50)
    assert "cut into 2 passages, which one vector cannot stand for" in problem(
        one(text=text, vector=[1] * DIM), cutting
    )
    assert len(cutting.check_passages([one(text="short", vector=[1] * DIM)], {})[0].passages) == 1
    small = checks(chunk_characters=50, max_passage_bytes=1000)
    assert len(small.check_passages([one(text="long words " * 200)], {})[0].passages) > 40
    assert "513 bytes long" in problem(one(id="i" * 511), cutting)
    assert cutting.document_of("a#b#12") == "a#b"
    assert checks().document_of("a#1") == "a#1"


def test_all_bad_records_are_named_up_to_a_bound() -> None:
    with pytest.raises(InvalidArgument) as refused:
        checks().check_passages([one(id=f"i{number}", text=" ") for number in range(MOST_PROBLEMS + 5)], {})
    assert refused.value.message.count("is empty") == MOST_PROBLEMS
    assert refused.value.message.endswith("; and 5 more")


def test_updates_are_checked_by_themselves() -> None:
    made = checks()
    made.check_updates([MetadataUpdate("a", {"year": None, "lang": "en"})])
    with pytest.raises(InvalidArgument, match=r"updates\[1\] \(id 'b'\).*nested.*updates\[2\] \(id 'a'\)"):
        made.check_updates(
            [MetadataUpdate("a", {"year": 1}), MetadataUpdate("b", {"year": {"x": 1}}), MetadataUpdate("a", {})]
        )


def test_vectors_are_normalised_in_double_precision() -> None:
    assert np.linalg.norm(normalised([1e30] * 8, 8)) == pytest.approx(1, abs=1e-6)
    assert normalised(np.ones(8, np.float32), 8).dtype == np.float32


def test_a_text_may_lie_in_the_field_of_the_metadata_that_the_index_names() -> None:
    made = checks(text_field="chunk")
    held = {"chunk": "fish sleep", "year": 2020}
    (record,) = made.check_passages([PassageWrite("a", metadata=held, vector=[1.0] * DIM)], {})
    assert [(each.text, each.metadata) for each in record.passages] == [("fish sleep", {"year": 2020})]
    assert held == {"chunk": "fish sleep", "year": 2020}
    (encoded,) = made.check_passages([PassageWrite("a", " ", "A title", held)], {})
    assert (encoded.passages[0].text, encoded.passages[0].title, encoded.vector) == ("fish sleep", "A title", None)
    # A text beside the metadata is the text, and what is no text is none.
    (both,) = made.check_passages([PassageWrite("a", "another", metadata=held)], {})
    assert (both.passages[0].text, both.passages[0].metadata) == ("another", held)
    (number,) = made.check_passages([PassageWrite("a", "b", metadata={"chunk": 7})], {})
    assert number.passages[0].metadata == {"chunk": 7}
    assert "it has no text, nor one in the field 'chunk'" in problem(PassageWrite("a", metadata={"text": "b"}), made)
    assert "the text field 'text' is missing or empty" in problem(PassageWrite("a", metadata={"chunk": "b"}))
    # Where it is `text`, as anywhere, only clients that always do so mean it.
    (usual,) = checks().check_passages([PassageWrite("a", metadata={"text": "b"}, text_in_metadata=True)], {})
    assert (usual.passages[0].text, usual.passages[0].metadata) == ("b", {})


def test_an_update_does_not_make_the_text_metadata() -> None:
    with pytest.raises(InvalidArgument, match="'chunk' holds the text, which is no metadata; write the record again"):
        checks(text_field="chunk").check_updates([MetadataUpdate("a", {"chunk": "another"})])
    checks(text_field="chunk").check_updates([MetadataUpdate("a", {"text": "another", "chunk": None})])
    checks().check_updates([MetadataUpdate("a", {"text": "another"})])
