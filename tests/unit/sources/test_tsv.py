"""TSV as pandas writes it, with quotes, and as MS MARCO has it, without."""

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest

from shoal.sources.delimited import looks_quoted
from tests.support.source_records import Read

TEXTS = ["plain", "with a\ttab", 'she said "yes"', "two\nlines", '"quoted"', "tab\tand\nline", "", "é"]


def as_pandas_does(texts: list[str], **options: Any) -> bytes:
    """What DataFrame.to_csv(sep="\\t") gives: the csv module does it there too."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n", **options)
    writer.writerows([("id", "text", "n"), *((number, words, number * 2) for number, words in enumerate(texts))])
    return text.getvalue().encode()


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("unit", [1, 100])
@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_tsv_of_pandas_is_read_as_it_was(name: str, unit: int, quoting: Any, folder: Path, read: Read) -> None:
    texts = [text for text in TEXTS if text] * 5
    data = as_pandas_does(texts, quoting=quoting)
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    found = read(folder, unit_passages=unit)
    assert [passage.text for passage in found.passages] == texts
    assert [passage.metadata for passage in found.passages] == [{"n": str(2 * number)} for number in range(len(texts))]
    assert not found.reasons
    assert found.plan.remarks == [
        f"1 TSV files, such as {name}: by their first records, quotes stand around values, as in CSV, and are taken off"
    ]


def test_tsv_of_ms_marco_is_kept_as_it_is(folder: Path, read: Read) -> None:
    texts = [
        'the "best" of',
        '"Quoted" at first',
        'at last "quoted"',
        '"All of it."',
        '5" by 7"',
        'one " alone',
        '"open',
    ] * 9
    (folder / "a.tsv").write_text("".join(f"{number}\t{text}\n" for number, text in enumerate(texts)))
    found = read(folder, columns=["id", "text"], unit_passages=7)
    assert [passage.text for passage in found.passages] == texts
    assert found.plan.remarks == ["1 TSV files, such as a.tsv: by their first records, quotes are part of the values"]
    assert not found.plan.pending


def test_a_stray_quote_in_tsv_of_pandas_costs_its_own_line(folder: Path, read: Read) -> None:
    rows = [line + b"\n" for line in as_pandas_does([*["plain", 'she said "yes"'] * 20]).splitlines()]
    (folder / "a.tsv").write_bytes(b"".join([*rows[:10], b'x\t"stray\t0\n', *rows[10:]]))
    found = read(folder, unit_passages=3)
    assert len(found.passages) == 40
    assert [place["line"] for place, item in found.items if isinstance(item, str)] == [11]


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("id\ttext\n1\tplain\n", False),
        ('id\ttext\n1\t"Whole passage."\n', False),
        ('id\ttext\n1\t"a ""b"" c"\n', True),
        ('id\ttext\n1\t"a ""b"" c"\n2\tfive "quoted" words\n3\t"x" y\n', False),
        ('"id"\t"text"\n1\t"x"\n', True),
        ('\ufeff"id"\t"text"\n1\t"x"\n', True),
        ('id\ttext\n1\t"a\tb"\n', True),
        ('id\ttext\r\n1\t"a ""b"""\r\n', True),
        ('id\ttext\n1\t"a\nb"\n', True),
        ('id\ttext\n1\t"never closed\n2\ty\n', False),
        ('\n\r\n"id"\t"text"\n1\t"x"\n', True),
        ("", False),
    ],
)
def test_quotes_are_told_by_how_they_stand(text: str, quoted: bool) -> None:
    assert looks_quoted(text.encode(), True) is quoted


def test_a_first_record_is_no_header() -> None:
    assert not looks_quoted(b'1\t"All of it."\n2\tplain\n', True, has_header=False)


def test_plans_of_quoted_tsv_are_not_those_of_before(folder: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a.tsv").write_bytes(as_pandas_does(TEXTS[1:]))
    now = read(folder).plan.hash
    monkeypatch.setattr("shoal.sources.delimited.looks_quoted", lambda *arguments: False)
    assert read(folder).plan.hash != now
