"""Cutting files into lines, at any place and in any blocks: every line exactly once."""

import csv
import io
import tracemalloc

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shoal.indexing.spool import Cutter
from shoal.sources import lines as lines_module
from shoal.sources.csv_framing import Framing
from shoal.sources.delimited import csv_records
from shoal.sources.files import BLOCK
from shoal.sources.lines import Overlong, behind, range_blocks, split_lines

SMALL = st.text(st.sampled_from("ab\n\r"), max_size=60).map(str.encode)


def reference(data: bytes) -> list[bytes]:
    lines = data.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def blocks_of(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(SMALL, st.integers(1, 20), st.integers(1, 20), st.integers(0, 5))
def test_ranges_give_every_line_once_wherever_they_are_cut(data: bytes, step: int, block: int, first: int) -> None:
    first = min(first, len(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "BLOCK", block)
        stream = pa.BufferReader(data)
        found = []
        for start in range(first, len(data), step):
            blocks = list(range_blocks(stream, start, min(start + step, len(data)), first))
            found += [line for lines in split_lines(blocks, BLOCK) for line in lines]
    assert found == reference(data[first:])


@given(SMALL, st.integers(1, 20), st.integers(0, 30))
def test_lines_do_not_depend_on_blocks(data: bytes, block: int, first: int) -> None:
    found = [line for lines in split_lines(behind(iter(blocks_of(data, block)), first), BLOCK) for line in lines]
    assert found == reference(data[first:])


@given(st.text(st.sampled_from('ab"\n'), max_size=80).map(str.encode), st.integers(1, 10), st.integers(10, 20))
def test_an_overlong_line_keeps_its_head_and_its_measures(data: bytes, block: int, limit: int) -> None:
    found = [line for lines in split_lines(blocks_of(data, block), limit) for line in lines]
    assert len(found) == len(reference(data))
    for line, whole in zip(found, reference(data), strict=True):
        if len(whole) > limit:
            assert line == Overlong(whole[: limit + 1], len(whole), whole.count(b'"'))
            assert isinstance(line, Overlong)
            assert len(line.stand_in()) > limit
            assert line.stand_in().count(b'"') % 2 == whole.count(b'"') % 2
        else:
            assert line == whole


def test_an_endless_line_takes_bounded_memory() -> None:
    block = b"x" * BLOCK
    blocks = (block for _ in range(300))
    tracemalloc.start()
    (lines,) = split_lines(blocks, 2 * BLOCK)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(lines[0], Overlong)
    assert lines[0].length == 300 * BLOCK
    assert peak < 9 * BLOCK


ROWS = st.lists(
    st.lists(st.text(st.sampled_from('a, "\n\ré'), max_size=8), min_size=2, max_size=2).filter(
        lambda row: row[0] != ""
    ),
    max_size=12,
)


@given(ROWS, st.integers(1, 5), st.integers(1, 9), st.sampled_from(["\n", "\r\n"]))
def test_csv_is_cut_and_read_as_the_csv_module_does(rows: list[list[str]], unit: int, block: int, end: str) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    data = text.getvalue().encode()
    found = []
    units = [b""]
    for lines, full in Cutter(unit, BLOCK, limit=BLOCK, framing=Framing(2, BLOCK)).parts(blocks_of(data, block)):
        units[-1] += b"".join(line + b"\n" for line in lines if isinstance(line, bytes))
        if full:
            units.append(b"")
    for part in units:
        found += [record for _, record in csv_records(split_lines([part], BLOCK), ["id", "text"], BLOCK)]
    assert found == [{name: value for name, value in zip(["id", "text"], row, strict=True) if value} for row in rows]
    assert len([part for part in units if part]) == -(-len(rows) // unit)


BROKEN_LINES = st.lists(
    st.sampled_from(
        ["a,b", 'c,"d', '"e"', 'f,g"', 'h,"i"', ",", "", '"', 'j,"k""l', "m", 'n","o', "1,x", '2,"y', "3,z", '4,5"']
    )
)
BROKEN = st.text(st.sampled_from('a,"\n\r'), max_size=60) | BROKEN_LINES.map("\n".join)


@given(BROKEN.map(str.encode), st.integers(1, 4))
def test_even_broken_csv_reads_alike_in_units_of_any_size(data: bytes, unit: int) -> None:
    whole = list(csv_records(split_lines([data], BLOCK), ["id", "text"], BLOCK))
    found, before = [], 0
    part: list[bytes] = []
    for lines, full in [*Cutter(unit, BLOCK, limit=BLOCK, framing=Framing(2, BLOCK)).parts([data]), ([], True)]:
        part += [line for line in lines if isinstance(line, bytes)]
        if full:
            found += [(before + line, record) for line, record in csv_records([[*part]], ["id", "text"], BLOCK)]
            before += len(part)
            part = []
    assert found == whole


@given(st.lists(st.integers(0, 40), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 60), st.integers(1, 50))
def test_units_end_behind_the_record_that_fills_them_with_records_or_bytes(
    sizes: list[int], records: int, size: int, block: int
) -> None:
    data = b"".join(b"x" * length + b"\n" for length in sizes)
    units: list[list[int]] = [[]]
    for lines, full in Cutter(records, size, limit=BLOCK).parts(blocks_of(data, block)):
        units[-1] += map(len, lines)
        if full:
            units.append([])
    assert [length for unit in units for length in unit] == sizes
    filled = [[length for length in unit if length] for unit in units]  # blank lines fill no unit
    for unit in filled[:-1]:
        assert len(unit) == records or sum(unit) + len(unit) >= size
    for unit in filled:
        assert len(unit) <= records
        assert sum(unit[:-1]) + len(unit[:-1]) < size


@given(st.lists(st.sampled_from(["", " ", "\r", '"', "", "a,b", '"x', 'y"', 'a,"b"']), max_size=80), st.integers(1, 5))
@example(['"', "a,b", "", "", '"'], 4)
def test_blank_lines_fill_no_unit(lines: list[str], records: int) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    for framing in (None, Framing(2, BLOCK)):
        units = sum(full for _, full in Cutter(records, BLOCK, limit=BLOCK, framing=framing).parts([data]))
        assert units <= sum(bool(line.strip()) for line in lines) / records


def test_a_quoted_record_is_not_cut_however_long_it_is() -> None:
    data = b'a,"' + b"line\n" * 50 + b'"\nb,c\n'
    parts = [(len(lines), full) for lines, full in Cutter(9, 20, limit=BLOCK, framing=Framing(2, BLOCK)).parts([data])]
    assert parts == [(51, True), (1, False)]
