"""A stray quote costs its own line, wherever it stands, and valid CSV is read as it is."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from shoal.sources.csv_framing import Framing
from shoal.sources.delimited import csv_records
from shoal.sources.files import BLOCK
from shoal.sources.lines import Overlong, split_lines
from tests.support.source_records import Read

LIMIT = 2000


def read_records(text: str, columns: str = "id,text", limit: int = BLOCK) -> list[tuple[int, dict[str, Any] | str]]:
    return list(csv_records([text.encode().split(b"\n")], columns.split(","), limit))


def ids(records: list[tuple[int, dict[str, Any] | str]]) -> list[str]:
    return [record["id"] for _, record in records if isinstance(record, dict)]


@pytest.mark.parametrize("text", ['"stray', '"stray, too', '"stray" here', '"stray""'])
@pytest.mark.parametrize("every", [1000, 40, 7, 1])
def test_a_stray_quote_costs_its_own_line(text: str, every: int, folder: Path, read: Read) -> None:
    rows = [f"{number},{text if number % every == every // 2 else 'plain'}\n" for number in range(100)]
    (folder / "a.csv").write_text("id,text\n" + "".join(rows))
    lost = {number for number in range(100) if number % every == every // 2}
    for unit in (1, 7, 1000):
        found = read(folder / "a.csv", unit_passages=unit)
        assert [int(passage.id) for passage in found.passages] == [row for row in range(100) if row not in lost]
        places = [place["line"] for place, item in found.items if isinstance(item, str)]
        assert places == [2 + number for number in sorted(lost)]


@pytest.mark.parametrize("prefix", ["", "doc-", "00"])
def test_a_stray_quote_that_closes_as_if_it_were_none(prefix: str, folder: Path, read: Read) -> None:
    texts = [
        '"stray' if row == 6 else '19"' if row == 95 else '"' if row in (40, 60) else "plain" for row in range(100)
    ]
    (folder / "a.csv").write_text("id,text\n" + "".join(f"{prefix}{row},{text}\n" for row, text in enumerate(texts)))
    for unit in (1, 7, 1000):
        found = read(folder / "a.csv", unit_passages=unit)
        kept = [row for row in range(100) if row not in (6, 40, 60)]
        assert [passage.id for passage in found.passages] == [f"{prefix}{row}" for row in kept]
        assert found.passages[-5].text == '19"'


def test_a_stray_quote_does_not_hide_records_from_the_estimate(folder: Path, read: Read) -> None:
    rows = [f"{row},text\n" for row in range(100)]
    rows[6] = '6,"text\n'
    (folder / "a.csv").write_text("".join(["id,text\n", *rows]))
    assert read(folder).plan.estimated_passages == 100


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_blank_lines_before_the_header_are_passed_over(name: str, folder: Path, read: Read) -> None:
    (folder / name).write_text("\n\r\nid,text\n1,x\n".replace(",", "\t" if name == "a.tsv" else ","))
    found = read(folder)
    assert [(place["line"], passage.id) for place, passage in found.items if not isinstance(passage, str)] == [(4, "1")]


def test_quoted_values_behind_a_stray_quote_are_read() -> None:
    found = read_records('1,"stray\n2,b\n3,"quoted, ""c"""\n4,"two\nlines"\n5,e')
    assert found[0] == (1, "a quoted value opens here and is not closed as it should be")
    assert [(line, record) for line, record in found[1:]] == [
        (2, {"id": "2", "text": "b"}),
        (3, {"id": "3", "text": 'quoted, "c"'}),
        (4, {"id": "4", "text": "two\nlines"}),
        (6, {"id": "5", "text": "e"}),
    ]


def test_lines_that_are_no_records_are_counted_with_the_stray_quote() -> None:
    found = read_records('1,"stray\nrest of it\n2,b\n3,c\n4,d\n')
    assert found[0] == (1, "a quoted value opens here and is not closed as it should be (2 lines)")
    assert ids(found) == ["2", "3", "4"]


def test_a_broken_text_of_many_lines_is_one_rejected_record() -> None:
    found = read_records('1,a\n2,"a text\nof some lines\nthat says "hello" once\n3,c')
    assert [line for line, _ in found] == [1, 2, 5]
    assert found[1][1] == "broken CSV: ',' expected after '\"' (3 lines)"
    assert ids(found) == ["1", "3"]


def test_a_closed_value_with_too_many_beside_it_is_one_rejected_record() -> None:
    found = read_records('1,"a\ntext",more\n2,b')
    assert found == [(1, "the record has 3 values for 2 columns (2 lines)"), (3, {"id": "2", "text": "b"})]


def test_a_quote_that_is_never_closed_costs_no_more_than_its_line() -> None:
    rows = "".join(f"{number},text {number}\n" for number in range(500))
    found = read_records(f'a,"stray\n{rows}', limit=LIMIT)
    assert found[0][0] == 1
    assert ids(found) == [str(number) for number in range(500)]


def test_a_text_beyond_the_limit_is_passed_over_to_its_end() -> None:
    prose = "some words of a text, and more, and more\n" * 100
    found = read_records(f'1,"{prose}"\n2,b', limit=LIMIT)
    assert [line for line, _ in found] == [1, 102]
    assert ids(found) == ["2"]


def test_valid_csv_is_never_second_guessed() -> None:
    """A text that holds CSV itself, of as many columns as the file, numbered too."""
    inner = "".join(f"{number},value {number}\n" for number in range(50))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["1", inner], ["2", f'a "quoted"\n{inner}"'], ["3", "c"]])
    found = read_records(text.getvalue())
    assert [record for _, record in found] == [
        {"id": "1", "text": inner},
        {"id": "2", "text": f'a "quoted"\n{inner}"'},
        {"id": "3", "text": "c"},
    ]


def test_no_line_is_looked_at_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these lines opens a quote, closes one that is open, and opens another."""
    parsed = 0
    parse = Framing.parse

    def counting(framing: Framing, text: bytes) -> list[str] | str | None:
        nonlocal parsed
        parsed += len(text)
        return parse(framing, text)

    monkeypatch.setattr(Framing, "parse", counting)
    for line in (b'a","', b'a,b\nc","', b'a,"b', b'"a""'):
        parsed = 0
        data = b"\n".join([line] * 2000)
        for _ in csv_records(split_lines([data], BLOCK), ["id", "text"], BLOCK):
            pass
        assert parsed < 8 * len(data)


def test_an_overlong_line_with_an_open_quote_is_passed_over() -> None:
    framing = Framing(2, LIMIT)
    assert not framing.add(Overlong(b'1,"xxx', 10_000, 1))
    assert framing.is_open
    (frame,) = framing.add(b'more"')
    assert (frame.line_count, frame.lines) == (2, [])
    assert not framing.is_open
