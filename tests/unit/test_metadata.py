import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.metadata import MAX_FIELDS, FieldType, Observed, convert, declared_types, stored, timestamp
from tests.support.filtering import metadata


def types_of(values: Sequence[Any], declared: dict[str, FieldType | None] | None = None) -> dict[str, str]:
    observed = Observed()
    for value in values:
        observed.see({"field": value})
    return dict(observed.types(declared or {}))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", ""], "string"),
        ([1, -5], "integer"),
        ([1, 2.0], "number"),
        ([True, False], "boolean"),
        (["2026-01-31", "2026-01-31T12:00:00Z"], "timestamp"),
        (["2026-01-31", "soon"], "string"),
        (["2026"], "string"),
        (["20260131"], "string"),
        ([["a"], []], "list"),
        ([["a"], "b", "2026-01-31"], "list"),
        ([2**53, -(2**53), 0.5], "number"),
        ([2**53 + 1, 1], "integer"),
        ([2**53 + 1], "integer"),
        ([2**53 + 1, 0.5], "mixed"),
        ([-(2**53) - 1, 1, 0.5], "mixed"),
        ([2**53 + 1, "a"], "mixed"),
        ([1, "1"], "mixed"),
        ([True, 1], "mixed"),
        ([["a"], 1], "mixed"),
    ],
)
def test_a_field_has_the_narrowest_type_that_fits_all_values(values: Sequence[Any], kind: str) -> None:
    assert types_of(values) == {"field": kind}
    assert types_of(values[::-1]) == {"field": kind}


def test_a_declared_type_overrules_and_none_means_no_column() -> None:
    declared = declared_types(["field:string", "a:b:integer", "gone:none"])
    assert declared == {"field": "string", "a:b": "integer", "gone": None}
    assert types_of([1, "x"], declared) == {"a:b": "integer", "field": "string"}
    assert types_of([1], {"field": None}) == {}


@given(st.lists(metadata(), max_size=8), st.integers(0, 8))
def test_what_parts_of_a_corpus_saw_adds_up(passages: list[dict[str, Any]], cut: int) -> None:
    whole, parts = Observed(), Observed()
    for passage in passages:
        whole.see(passage)
    for part in (passages[cut:], passages[:cut]):
        one = Observed()
        for passage in part:
            one.see(passage)
        parts.merge(json.loads(json.dumps(one.kinds)))
    assert parts.kinds == whole.kinds
    assert parts.types({}) == whole.types({})


def test_beyond_the_limit_only_declared_fields_have_types() -> None:
    observed, part = Observed(), Observed()
    part.see({f"f{n}": n for n in range(MAX_FIELDS)})
    observed.merge(part.kinds)
    assert len(observed.types({})) == MAX_FIELDS
    observed.see({"one more": 1})
    observed.see({"f0": 1})
    assert observed.kinds is None
    assert observed.types({"f0": "number"}) == {"f0": "number"}
    again = Observed()
    again.merge(None)
    again.merge(part.kinds)
    assert again.types({}) == {}


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("2020", "integer", 2020),
        (" -7 ", "integer", -7),
        (2020.0, "integer", 2020),
        (2020.5, "integer", None),
        ("2020.0", "integer", None),
        (True, "integer", None),
        (str(2**63), "integer", None),
        ("99999999999999999999", "integer", None),
        ("1.5e3", "number", 1500.0),
        ("7", "number", 7),
        ("1e999", "number", None),
        ("nan", "number", None),
        ("0x10", "number", None),
        ("\N{ARABIC-INDIC DIGIT ONE}", "integer", None),
        ("True", "boolean", True),
        ("false", "boolean", False),
        ("yes", "boolean", None),
        (1, "boolean", None),
        (5, "string", "5"),
        (True, "string", "true"),
        (["a"], "string", None),
        ("a", "list", ["a"]),
        (["a"], "list", ["a"]),
        (1, "list", None),
        ("2026-01-31", "timestamp", "2026-01-31"),
        ("31.1.2026", "timestamp", None),
        (5, "timestamp", None),
        ("20230719", "timestamp", "20230719"),
        (20230719, "timestamp", "20230719"),
        ("20230719T101500Z", "timestamp", "20230719T101500Z"),
        ("20230732", "timestamp", None),
        (20230732, "timestamp", None),
        (True, "timestamp", None),
        (2**53, "number", 2**53),
        (2**53 + 1, "number", None),
        (str(2**53 + 1), "number", None),
        (2**60, "number", 2**60),
        (2**53 + 1, "integer", 2**53 + 1),
    ],
)
def test_a_value_becomes_one_of_the_declared_type_or_does_not_fit(value: Any, kind: FieldType, expected: Any) -> None:
    found = convert(value, kind)
    assert found == expected
    assert type(found) is type(expected)


@given(
    st.datetimes(timezones=st.none() | st.integers(-14, 14).map(lambda hours: timezone(timedelta(hours=hours)))),
    st.sampled_from(["T", " "]),
)
def test_a_timestamp_is_its_microseconds_since_1970(moment: datetime, separator: str) -> None:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    expected = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert timestamp(moment.isoformat(separator)) == expected == stored(moment.isoformat(separator), "timestamp")


@pytest.mark.parametrize(
    "text", ["2026-01-31 12:00:00.123456789", "2026-01-31t12:00:00,123456z", "2026-01-31T13:00:00.123456+0100"]
)
def test_a_timestamp_may_be_written_as_other_tools_write_it(text: str) -> None:
    moment = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
    assert timestamp(text) == (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("basic", "extended"),
    [
        ("20230719", "2023-07-19"),
        ("20230719T1015", "2023-07-19T10:15"),
        ("20230719 101530", "2023-07-19 10:15:30"),
        ("20230719t101530.25z", "2023-07-19T10:15:30.25Z"),
        ("20230719T101530+0530", "2023-07-19T10:15:30+05:30"),
    ],
)
def test_the_basic_form_of_a_date_is_the_same_moment_and_has_to_be_declared(basic: str, extended: str) -> None:
    assert timestamp(basic) == timestamp(extended) is not None
    assert types_of([basic]) == {"field": "string"}
    assert types_of([extended]) == {"field": "timestamp"}


@pytest.mark.parametrize("text", ["2023071", "202307190", "20231319", "20230719T10", "2023-0719", "20230719T10:15"])
def test_what_is_not_quite_the_basic_form_is_no_timestamp(text: str) -> None:
    assert timestamp(text) is None


def remarks_on(values: Sequence[Any], declared: dict[str, FieldType | None] | None = None) -> list[str]:
    observed = Observed()
    for value in values:
        observed.see({"field": value})
    return observed.remarks(declared or {})


def test_a_date_that_is_none_is_told_with_the_counts() -> None:
    dates = ["2026-01-31"] * 3
    (remark,) = remarks_on([*dates, "soon"])
    assert remark.startswith("field: 3 values are dates and 1 are other strings, so that filters compare them as text")
    assert not remarks_on(dates)
    assert not remarks_on([*dates, "soon"], {"field": "timestamp"})
    assert not remarks_on(["2026-01-31", "a", "b"])  # text that happens to be a date


def test_values_that_no_type_holds_are_told_with_the_counts() -> None:
    (remark,) = remarks_on([2**53 + 1, 0.5, 0.25, 1])
    assert remark.startswith("field: 1 integers are beyond 2^53 and 2 values are fractions")
    (remark,) = remarks_on([1, 2, "a"])
    assert remark.startswith("field: values of several types (2 integer, 1 string)")
    assert not remarks_on([1, 0.5])


@pytest.mark.parametrize(
    "text", ["", "2026-13-01", "2026-01-31T25:00", "2026-01-31T12", "2026-W05-1", "12:00", "2026-01"]
)
def test_what_is_no_whole_date_is_no_timestamp(text: str) -> None:
    assert timestamp(text) is None
