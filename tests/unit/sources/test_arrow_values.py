"""What values of Arrow types become, through a Parquet file and through the pieces it may be spooled into."""

import datetime as dt
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidArgument
from shoal.sources.arrow_values import Unfit, mapped, mapped_object
from tests.support.source_records import Read

UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
DAY = dt.date(2020, 2, 29)
MOMENT = dt.datetime(2020, 2, 29, 12, 30, 15, 250_000)
TEXT = pa.string()


def zoned(zone: str) -> pa.Array:
    return pa.array([MOMENT, None]).cast(pa.timestamp("us", zone))


CASES: dict[str, tuple[pa.Array, Any]] = {
    "uint64": (pa.array([2**63 - 1, None], pa.uint64()), 2**63 - 1),
    "float16": (pa.array(np.array([0.1], np.float16)), 0.1),
    "float32": (pa.array([0.1, None], pa.float32()), 0.1),
    "large float32": (pa.array([3.4e38], pa.float32()), 3.4e38),
    "float64": (pa.array([0.1]), 0.1),
    "decimal": (pa.array([Decimal("1.50"), None], pa.decimal128(5, 2)), 1.5),
    "wide decimal": (pa.array([Decimal("0.1"), None], pa.decimal128(38, 18)), 0.1),
    "decimal256": (pa.array([Decimal("12345.678")], pa.decimal256(60, 10)), 12345.678),
    "whole decimal": (pa.array([Decimal(2**53 + 1)], pa.decimal128(20, 0)), 2**53 + 1),
    "date32": (pa.array([DAY, None]), "2020-02-29"),
    "date64": (pa.array([DAY, None], pa.date64()), "2020-02-29"),
    "time": (pa.array([dt.time(1, 2, 3), None]), "01:02:03.000000"),
    "timestamp": (pa.array([MOMENT, None]), "2020-02-29 12:30:15.250000"),
    "last moment": (pa.array([dt.datetime(9999, 12, 31, 23, 59, 59)], pa.timestamp("ms")), "9999-12-31 23:59:59.000"),
    "nanoseconds": (pa.array([123456789], pa.timestamp("ns")), "1970-01-01 00:00:00.123456789"),
    **{
        f"zone {zone}": (zoned(zone), "2020-02-29 12:30:15.250000Z")
        for zone in ("UTC", "UTC+3", "+03:00", "Europe/Berlin", "Nowhere/Else")
    },
    "binary": (pa.array(["é".encode(), None], pa.binary()), "é"),
    "large binary": (pa.array(["é".encode(), None], pa.large_binary()), "é"),
    "fixed binary": (pa.array([b"abc", None], pa.binary(3)), "abc"),
    "uuid": (pa.array([UUID.bytes, None], pa.uuid()), str(UUID)),
    "json": (pa.array(['{"a": 1}', None], pa.json_(TEXT)), '{"a": 1}'),
    "dictionary": (pa.array(["k", None]).dictionary_encode(), "k"),
    "list": (pa.array([["a", "b"], None, []]), ["a", "b"]),
    "list of dictionary": (pa.array([["a", "b"], None], pa.list_(pa.dictionary(pa.int32(), TEXT))), ["a", "b"]),
    "fixed list": (pa.array([["a", "b"], None, ["c", "d"]], pa.list_(TEXT, 2)), ["a", "b"]),
    "list of dates": (pa.array([[DAY], None]), ["2020-02-29"]),
    "list of binary": (pa.array([[b"a"], None]), ["a"]),
    "list of uuid": (pa.array([[UUID.bytes], None], pa.list_(pa.binary(16))).cast(pa.list_(pa.uuid())), [str(UUID)]),
    "list of nothing": (pa.array([[], None], pa.list_(pa.null())), []),
}


def write(folder: Path, column: pa.Array, name: str = "x", **options: Any) -> Path:
    ids = pa.array([f"{row}" for row in range(len(column))])
    pq.write_table(pa.table({"id": ids, "text": ids, name: column}), folder / "a.parquet", **options)
    return folder / "a.parquet"


@pytest.mark.parametrize("schema", [True, False], ids=["by Arrow", "by others"])
@pytest.mark.parametrize(("column", "value"), CASES.values(), ids=CASES.keys())
def test_a_value_is_kept_as_it_is(column: pa.Array, value: Any, schema: bool, folder: Path, read: Read) -> None:
    found = read(write(folder, column, store_schema=schema))
    first, *others = [passage.metadata for passage in found.passages]
    assert repr(first) == repr({"x": value})
    if len(column) > 1:
        assert others[0] == {}
    assert not found.reasons


@pytest.mark.parametrize(("column", "value"), CASES.values(), ids=CASES.keys())
def test_a_value_is_the_same_in_an_object(column: pa.Array, value: Any, folder: Path, read: Read) -> None:
    parent = pa.StructArray.from_arrays([column], ["x"], mask=pa.array([False] * (len(column) - 1) + [len(column) > 1]))
    found = read(write(folder, parent, "metadata"))
    assert repr(found.passages[0].metadata) == repr({"x": value})
    assert len(found.passages) == len(column)
    if len(column) > 1:
        assert found.passages[-1].metadata == {}


@pytest.mark.parametrize(("column", "value"), CASES.values(), ids=CASES.keys())
def test_a_value_survives_the_pieces_of_a_large_row_group(
    column: pa.Array, value: Any, folder: Path, read: Read
) -> None:
    rows = pa.concat_arrays([column.slice(0, 1)] * 40)
    found = read(write(folder, rows), unit_passages=3)
    assert found.plan.files[0].pieces
    assert [repr(passage.metadata) for passage in found.passages] == [repr({"x": value})] * 40


def test_int96_does_not_wrap(folder: Path, read: Read) -> None:
    moments = [dt.datetime(9999, 12, 31), dt.datetime(1, 1, 1), MOMENT]
    path = write(folder, pa.array(moments), use_deprecated_int96_timestamps=True)
    assert [passage.metadata["x"] for passage in read(path).passages] == [
        "9999-12-31 00:00:00.000000",
        "0001-01-01 00:00:00.000000",
        "2020-02-29 12:30:15.250000",
    ]


def test_a_decimal_that_no_number_holds_is_left_out_or_text_if_declared(folder: Path, read: Read) -> None:
    value = Decimal("12345678901234567890.125")
    path = write(folder, pa.array([value, Decimal("1.50")], pa.decimal128(38, 3)))
    found = read(path)
    assert [passage.metadata for passage in found.passages] == [{}, {"x": 1.5}]
    assert found.left_out == {"x: a decimal of more digits than a number holds": 1}
    found = read(path, metadata_types=["x:string"])
    assert [passage.metadata["x"] for passage in found.passages] == ["12345678901234567890.125", "1.500"]


def test_decimals_sort_as_numbers(folder: Path, read: Read) -> None:
    path = write(folder, pa.array([Decimal("9.50"), Decimal("10.25")]))
    first, second = (passage.metadata["x"] for passage in read(path).passages)
    assert isinstance(first, float)
    assert first < second  # type: ignore[operator]


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([2**40], pa.timestamp("s")), "a time beyond the years 1 to 9999"),
        (pa.array([-(2**62)], pa.timestamp("us", "UTC")), "a time beyond the years 1 to 9999"),
        (pa.array([2**31 - 1], pa.int32()).cast(pa.date32()), "a time beyond the years 1 to 9999"),
        (pa.array([b"\xff"], pa.binary()), "not valid UTF-8"),
    ],
)
def test_a_value_that_cannot_be_kept_is_left_out_with_a_count(
    column: pa.Array, reason: str, folder: Path, read: Read
) -> None:
    found = read(write(folder, column))
    assert [passage.metadata for passage in found.passages] == [{}]
    assert found.left_out == {f"x: {reason}": 1}


ANEW = [name for name in CASES if "decimal" in name or name in ("float16", "float32", "large float32")]


@pytest.mark.parametrize("name", CASES)
def test_plans_of_columns_that_are_read_anew_are_not_those_of_before(
    name: str, folder: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(folder, CASES[name][0])
    now = read(path).plan.hash
    monkeypatch.setattr("shoal.sources.parquet.is_read_anew", lambda kind: False)
    is_other = name in ANEW or (name.startswith("zone") and name != "zone UTC")
    assert (read(path).plan.hash != now) is is_other


def test_a_plan_of_int96_is_not_that_of_before(folder: Path, read: Read) -> None:
    path = write(folder, pa.array([MOMENT]), use_deprecated_int96_timestamps=True)
    assert read(path).plan.files[0].read_anew
    assert not read(path, metadata_fields=[]).plan.files[0].read_anew


def test_ids_and_texts_of_other_types_than_strings(folder: Path, read: Read) -> None:
    table = pa.table(
        {
            "id": pa.array([UUID.bytes], pa.uuid()),
            "text": pa.array([b"a text"], pa.binary()),
            "title": pa.array(["a title"]).dictionary_encode(),
        }
    )
    pq.write_table(table, folder / "a.parquet")
    (passage,) = read(folder / "a.parquet", title_field="title").passages
    assert (passage.id, passage.text, passage.title) == (str(UUID), "a text", "a title")


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"id": ["1"], "text": [7]}, r"column 'text' of type int64 holds no text; name another one with text_field"),
        ({"id": [1.5], "text": ["x"]}, r"column 'id' of type double holds no ids \(strings or integers\)"),
        ({"id": [["1"]], "text": ["x"]}, r"column 'id' of type list<.*> holds no ids"),
    ],
)
def test_columns_that_give_no_passage_are_refused_when_planned(
    table: Any, reason: str, folder: Path, read: Read
) -> None:
    pq.write_table(pa.table(table), folder / "a.parquet")
    with pytest.raises(InvalidArgument, match=reason):
        read(folder / "a.parquet")


@pytest.mark.parametrize("names", [("id", "text", "text"), ("id", "text", "n", "n"), ("id", "id", "text")])
def test_a_column_that_stands_twice_is_refused(names: tuple[str, ...], folder: Path, read: Read) -> None:
    pq.write_table(pa.table([pa.array(["1"])] * len(names), names=list(names)), folder / "a.parquet")
    with pytest.raises(InvalidArgument, match="has more than one column"):
        read(folder / "a.parquet")
    if "n" in names:
        assert len(read(folder / "a.parquet", metadata_fields=[]).passages) == 1


def test_an_object_that_names_a_field_twice_is_refused(folder: Path, read: Read) -> None:
    column = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["n", "n"])
    with pytest.raises(InvalidArgument, match="named twice"):
        read(write(folder, column, "metadata"))


def test_a_map_of_metadata_is_an_object(folder: Path, read: Read) -> None:
    kind = pa.map_(TEXT, pa.decimal128(5, 2))
    column = pa.array([[("a", Decimal("1.50")), ("b", None)], None, []], kind)
    assert [passage.metadata for passage in read(write(folder, column, "metadata")).passages] == [{"a": 1.5}, {}, {}]


def test_columns_whose_names_hold_dots(folder: Path, read: Read) -> None:
    table = pa.table({"id": ["1"], "text": ["x"], "metadata.b": [1], "metadata": [{"b": 2, "c": 3}]})
    pq.write_table(table, folder / "a.parquet")
    assert read(folder / "a.parquet").passages[0].metadata == {"metadata.b": 1, "b": 2, "c": 3}
    assert read(folder / "a.parquet", metadata_fields=["metadata.b"]).passages[0].metadata == {"metadata.b": 1}


@given(st.lists(st.none() | st.floats(width=32), max_size=20))
def test_short_floats_come_back_as_they_were(numbers: list[float | None]) -> None:
    array = pa.array(numbers, pa.float32())
    found = mapped(array.type)
    assert found is not None
    values = found.read(array)
    assert [value is None for value in values] == [number is None for number in numbers]
    again = np.array([value for value in values if value is not None], np.float32)
    np.testing.assert_array_equal(again, np.array([number for number in numbers if number is not None], np.float32))


KINDS = st.recursive(
    st.sampled_from(
        [pa.int8(), pa.float32(), TEXT, pa.binary(), pa.date32(), pa.timestamp("ns"), pa.null(), pa.duration("s")]
    ),
    lambda inner: st.one_of(
        inner.map(pa.list_),
        inner.map(lambda kind: pa.list_(kind, 2)),
        inner.map(lambda kind: pa.struct([("a", kind), ("b", TEXT)])),
        inner.map(lambda kind: pa.map_(TEXT, kind)),
    ),
    max_leaves=4,
)


@given(KINDS)
def test_every_type_is_read_or_refused(kind: pa.DataType) -> None:
    array = pa.array([None, None], kind)
    found = mapped(kind)
    if found is not None:
        assert found.read(array) == [None, None]
    if (read_objects := mapped_object(kind)) is not None:
        assert read_objects(array) == [None, None]
        assert read_objects(array.slice(1)) == [None]


def test_unfit_values_are_compared_by_their_reasons() -> None:
    assert Unfit("a") == Unfit("a") != Unfit("b")
    assert len({Unfit("a"), Unfit("a")}) == 1
    assert repr(Unfit("a")) == "Unfit('a')"
