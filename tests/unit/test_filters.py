import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import CorruptIndex, InvalidArgument
from shoal.filters import And, Compare, Exists, In, Not, Or, parse
from shoal.metadata import FieldTypes
from shoal.records import Passage
from shoal.shard.columns import Columns, ColumnWriter, Mask
from shoal.shard.passages import to_batch
from tests.support.filtering import TYPES, documents, matches, metadata

MAX_DEPTH = 16
WIDTH = 100


def masked(
    path: Path, passages: list[dict[str, Any]], document: Any, types: FieldTypes = TYPES, block: int = 3
) -> Mask:
    """The mask of a filter over metadata that was written to a file and opened again."""
    column = to_batch([Passage(str(row), "x", metadata=found) for row, found in enumerate(passages)]).column(3)
    with ColumnWriter(path, types) as writer:
        for start in range(0, len(passages), block):
            writer.write(column.slice(start, block))
    columns = Columns(path, types)
    assert columns.count == len(passages)
    tree = parse(document, types, WIDTH, MAX_DEPTH)
    return np.ones(len(passages), np.bool_) if tree is None else columns.mask(tree)


@settings(max_examples=200)
@given(passages=st.lists(metadata(), max_size=6), document=documents())
def test_a_filter_selects_what_plain_python_selects(
    tmp_path_factory: pytest.TempPathFactory, passages: list[dict[str, Any]], document: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "metadata.arrow"
    assert masked(path, passages, document).tolist() == [matches(document, passage) for passage in passages]


@settings(max_examples=50)
@given(document=documents())
def test_a_tree_is_hashable_survives_pickling_and_is_the_same_however_it_is_wrapped(document: dict[str, Any]) -> None:
    tree = parse(document, TYPES, WIDTH, MAX_DEPTH)
    assert parse(document, TYPES, WIDTH, MAX_DEPTH) == tree
    assert pickle.loads(pickle.dumps(tree)) == tree
    assert hash(tree) == hash(parse(document, TYPES, WIDTH, MAX_DEPTH))
    for same in ({"$and": [document, document]}, {"$or": [document]}, {"$not": {"$not": document}}):
        assert parse(same, TYPES, WIDTH, MAX_DEPTH) == tree


@pytest.mark.parametrize(
    ("document", "tree"),
    [
        ({}, None),
        ({"year": 2020}, In("year", (2020,))),
        ({"year": {"$in": [2021, 2020, 2020.0, 2020.5]}}, In("year", (2020, 2021))),
        ({"year": {"$ne": 2020}}, Not(In("year", (2020,)))),
        ({"year": {"$gt": 2020.5}}, Compare("year", "gte", 2021)),
        ({"year": {"$lt": 2**70}}, Exists("year")),
        ({"year": {"$gt": 2**63 - 1}}, In("year", ())),
        ({"price": {"$gt": 2020}}, Compare("price", "gt", 2020.0)),
        ({"price": {"$in": [2**53, 2**53 + 1]}}, In("price", (float(2**53),))),
        ({"price": 2**53 + 1}, In("price", ())),
        ({"price": {"$gt": 2**53 + 1}}, Compare("price", "gt", float(2**53))),
        ({"price": {"$lte": 2**53 + 1}}, Compare("price", "lte", float(2**53))),
        ({"price": {"$gte": 2**53 + 3}}, Compare("price", "gte", float(2**53 + 4))),
        ({"price": {"$lt": 2**53 + 3}}, Compare("price", "lt", float(2**53 + 4))),
        ({"at": "1970-01-01T00:00:00.000001000Z"}, In("at", (1,))),
        ({"at": {"$gte": "1970-01-01T00:00:01Z"}}, Compare("at", "gte", 1_000_000)),
        ({"tags": "a"}, In("tags", ("a",))),
        (
            {"lang": "en", "$and": [{"ok": True}, {"lang": "en", "ok": True}]},
            And((In("lang", ("en",)), In("ok", (True,)))),
        ),
        (
            {"$or": [{"$or": [{"lang": "en"}, {"lang": "de"}]}, {"lang": "de"}]},
            Or((In("lang", ("de",)), In("lang", ("en",)))),
        ),
    ],
)  # fmt: skip
def test_a_filter_has_one_canonical_form(document: Any, tree: Any) -> None:
    assert parse(document, TYPES, WIDTH, MAX_DEPTH) == tree


def nested(levels: int, innermost: Any) -> Any:
    return innermost if levels == 1 else {"$and": [nested(levels - 1, innermost)]}


@pytest.mark.parametrize(
    ("document", "path", "problem"),
    [
        ([], "filter", "should be an object of conditions, not an empty list"),
        ({"$and": [{"lang": "en"}, {"year": {"$gt": "x"}}]}, "filter.$and[1].year.$gt", 'should be a number, not "x"'),
        ({"nope": 1}, "filter.nope", "no such field; its fields are at (timestamp), lang (string), ok (boolean)"),
        ({"a b": 1}, 'filter["a b"]', "no such field"),
        ({"mixed": 1}, "filter.mixed", "--metadata-types mixed:TYPE"),
        ({"$nor": []}, "filter.$nor", '"$nor" is no operator here'),
        ({"$gt": 1}, "filter.$gt", "stand inside a field"),
        ({"year": {"$regex": "x"}}, "filter.year.$regex", "operators are $eq, $ne"),
        ({"year": {"gt": 1}}, "filter.year.gt", "is no operator"),
        ({"year": {}}, "filter.year", "has no condition"),
        ({"year": [2020]}, "filter.year", '{"$in": [...]}'),
        ({"year": None}, "filter.year", '{"$exists": false}'),
        ({"year": {"$in": 2020}}, "filter.year.$in", "should be a list of values, not 2020"),
        ({"year": {"$in": [2020, True]}}, "filter.year.$in[1]", "should be a number, not true"),
        ({"year": {"$in": list(range(101))}}, "filter.year.$in", "has 101 values, more than 100"),
        ({"year": float("nan")}, "filter.year", "is NaN, which is no number"),
        ({"price": {"$gt": float("nan")}}, "filter.price.$gt", "is NaN, which is no number"),
        ({"price": {"$in": [1, float("nan")]}}, "filter.price.$in[1]", "is NaN, which is no number"),
        ({"price": float("inf")}, "filter.price", "is too large"),
        ({"at": "2026-01-31T00:00:00.000000001Z"}, "filter.at", "is finer than a microsecond"),
        ({"at": {"$lt": "2026-01-31T00:00:00,1234567Z"}}, "filter.at.$lt", "is finer than a microsecond"),
        ({"$$and": 1}, "filter[\"$$and\"]", "is no operator here"),
        ({"price": 10**400}, "filter.price", "is too large"),
        ({"lang": 1}, "filter.lang", "should be a string, not 1"),
        ({"lang": "\ud800"}, "filter.lang", "lone surrogate"),
        ({"ok": 1}, "filter.ok", "should be true or false, not 1"),
        ({"ok": {"$gte": True}}, "filter.ok.$gte", "has no order"),
        ({"at": "yesterday"}, "filter.at", '"yesterday" is no ISO 8601 date'),
        ({"at": "2026-02-30"}, "filter.at", "is no ISO 8601 date"),
        ({"at": 1700000000}, "filter.at", "should be a timestamp"),
        ({"tags": {"$all": ["a"]}}, "filter.tags.$all", "is no operator"),
        ({"tags": ["a"]}, "filter.tags", '{"$in": [...]}'),
        ({"tags": 1}, "filter.tags", "should be a string, as the elements of the list are"),
        ({"year": {"$exists": 1}}, "filter.year.$exists", "should be true or false, not 1"),
        ({"year": {"$not": 5}}, "filter.year.$not", "should be an object of operators"),
        ({"$or": []}, "filter.$or", "not an empty list"),
        ({"$or": {"year": 1}}, "filter.$or", "not an object"),
        ({"$not": [1]}, "filter.$not", "should be an object of conditions"),
        ({"$or": [{"year": n} for n in range(101)]}, "filter.$or[100].year", "more than 100 conditions"),
        (
            {"$or": [{"year": {"$in": list(range(n, n + WIDTH))}} for n in range(11)]},
            "filter.$or[9].year.$in",
            "more than 1,000 conditions, values and nested filters in all",
        ),
        (
            {"$and": [{"$or": [{}] * 500}, {"$or": [{}] * 500}]},
            "filter.$and[1].$or",
            "more than 1,000 conditions, values and nested filters in all",
        ),
        (nested(MAX_DEPTH + 1, {"year": 1}), "filter" + ".$and[0]" * MAX_DEPTH, "nested more than 16 levels"),
        (nested(MAX_DEPTH, {"year": {"$not": {"$gt": 1}}}), "filter" + ".$and[0]" * 15 + ".year.$not", "nested more"),
        (nested(500, {}), "filter" + ".$and[0]" * MAX_DEPTH, "nested more than 16 levels"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_path(document: Any, path: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(document, {**TYPES, "mixed": "mixed"}, WIDTH, MAX_DEPTH)
    assert caught.value.message.startswith(f"{path}: ")
    assert problem in caught.value.message
    assert caught.value.param == path


def test_fields_whose_names_begin_with_a_dollar_are_filtered_by(tmp_path: Path) -> None:
    """As they are listed, and with another dollar where an operator has the name."""
    types: FieldTypes = {"$ref": "string", "$and": "integer", "$$x": "integer", "$eq": "integer"}
    rows = [{"$ref": "a", "$and": 1, "$$x": 2, "$eq": 3}, {"$ref": "b"}]
    for document in ({"$ref": "a"}, {"$$and": 1}, {"$$x": {"$gt": 1}}, {"$eq": 3}, {"$not": {"$$ref": "b"}}):
        assert masked(tmp_path / "metadata.arrow", rows, document, types).tolist() == [True, False]
    with pytest.raises(InvalidArgument, match="should be a list of at least one filter"):
        parse({"$and": 1}, types, WIDTH, MAX_DEPTH)


def test_the_deepest_filter_allowed_passes() -> None:
    assert parse(nested(MAX_DEPTH, {"year": {"$gt": 1}}), TYPES, WIDTH, MAX_DEPTH) == Compare("year", "gte", 2)


def test_an_index_without_fields_says_so_and_one_with_many_names_some() -> None:
    with pytest.raises(InvalidArgument, match="no metadata to filter by"):
        parse({"year": 1}, {}, WIDTH, MAX_DEPTH)
    with pytest.raises(InvalidArgument, match=r"f19 \(string\), and 5 more"):
        parse({"year": 1}, {f"f{n}": "string" for n in range(25)}, WIDTH, MAX_DEPTH)


def test_mixed_fields_have_no_column_and_without_any_column_there_is_no_file(tmp_path: Path) -> None:
    types: FieldTypes = {"lang": "string", "mixed": "mixed"}
    assert masked(tmp_path / "some", [{"lang": "en", "mixed": 1}, {"mixed": "x"}], {"lang": "en"}, types).tolist() == [
        True,
        False,
    ]
    with ColumnWriter(tmp_path / "none", {"mixed": "mixed"}) as writer:
        writer.write(to_batch([Passage("1", "x", metadata={"mixed": 1})]).column(3))
    assert not (tmp_path / "none").exists()


def test_columns_that_are_not_those_of_the_manifest_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "metadata.arrow"
    masked(path, [{"lang": "en"}], {}, {"lang": "string"})
    with pytest.raises(CorruptIndex, match="does not have the columns"):
        Columns(path, {"lang": "list"})
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(CorruptIndex, match="is not an Arrow file"):
        Columns(path, {"lang": "string"})
