"""The log on a disk: what is written is read back in order, by whoever; what is removed is removed safely."""

import os
from pathlib import Path

import pytest

from shoal.errors import CorruptIndex, InvalidArgument, NotFound
from shoal.index_root import layout, log, log_segments, log_writer
from shoal.index_root.log import FLOOR_VALID_S, KEY_LIFETIME_S, REMOVAL_DELAY_S, Log
from shoal.index_root.log_entry import encode_entry
from shoal.index_root.log_writer import LogWriter
from shoal.index_root.storage import Storage
from tests.support.log_entries import plain
from tests.support.logs import Clock, age, append, make, open_log, positions


def test_a_root_without_a_log_is_one_without_entries(root: Storage) -> None:
    read = Log.open(str(root.uri))
    assert (read.end(), read.floor(), list(read.read(0)), read.prune()) == (0, 0, [], [])
    assert list(root.files("")) == []


def test_entries_are_read_in_the_order_in_which_they_were_appended(writer: LogWriter, root: Storage) -> None:
    written = append(writer, 40)
    read = Log.open(root)
    assert [plain(each) for each in read.read(0)] == [plain(each) for each in written]
    assert positions(read.read(37)) == [38, 39, 40]
    assert positions(read.read(0, limit=3)) == [1, 2, 3]
    assert positions(read.read(10, limit=1000)) == list(range(11, 41))
    assert positions(read.read(40)) == []
    assert positions(read.read(5, limit=0)) == []


@pytest.mark.parametrize("entries", [0, 1, 2, 3, 4, 7, 8, 20])
def test_the_end_is_found_from_anywhere_before_it(writer: LogWriter, root: Storage, entries: int) -> None:
    append(writer, entries)
    assert {Log.open(root).end(after) for after in range(entries + 1)} == {entries}


def test_a_damaged_entry_stops_readers_and_writers_there(writer: LogWriter, root: Storage, clock: Clock) -> None:
    append(writer, 5)
    path = root.local_path(layout.log_entry(3))
    whole = path.read_bytes()
    for damaged in (whole[:100], b"", root.local_path(layout.log_entry(2)).read_bytes()):
        path.write_bytes(damaged)
        read = Log.open(root).read(0)
        assert [next(read).position, next(read).position] == [1, 2]
        with pytest.raises(CorruptIndex, match=r"entries/0+3\.arrow"):
            next(read)
        with pytest.raises(CorruptIndex, match=r"entries/0+3\.arrow"):
            append(LogWriter(open_log(root, clock), 2))
    path.write_bytes(whole)
    assert positions(Log.open(root).read(0)) == [1, 2, 3, 4, 5]


def test_the_floor_rises_to_what_is_an_hour_old(writer: LogWriter, root: Storage) -> None:
    append(writer, 6)
    read = Log.open(root)
    read.raise_floor(6)
    assert read.floor() == 0
    for position in (1, 2, 3, 4):
        age(root, layout.log_entry(position), KEY_LIFETIME_S + 60)
    read.raise_floor(3)
    assert read.floor() == 3
    read.raise_floor(2)
    assert Log.open(root).floor() == 3
    read.raise_floor(6)
    assert Log.open(root).floor() == 4
    with pytest.raises(InvalidArgument, match="ends at position 6"):
        read.raise_floor(7)


def test_entries_are_removed_an_hour_after_the_floor_was_raised(writer: LogWriter, root: Storage) -> None:
    append(writer, 6)
    for position in range(1, 7):
        age(root, layout.log_entry(position), KEY_LIFETIME_S + 60)
    read = Log.open(root)
    read.raise_floor(2)
    read.raise_floor(4)
    assert read.prune() == []
    age(root, layout.log_floor(2), REMOVAL_DELAY_S + 60)
    assert read.prune() == [layout.log_entry(1), layout.log_entry(2)]
    age(root, layout.log_floor(4), REMOVAL_DELAY_S + 60)
    assert read.prune() == [layout.log_entry(3), layout.log_entry(4), layout.log_floor(2)]
    assert read.prune() == []
    assert (Log.open(root).floor(), Log.open(root).end()) == (4, 6)
    assert positions(Log.open(root).read(4)) == [5, 6]


def test_who_is_below_the_floor_is_told(writer: LogWriter, root: Storage, clock: Clock) -> None:
    append(writer, 6)
    reader = open_log(root, clock)
    assert positions(reader.read(0, limit=1)) == [1]
    for position in range(1, 7):
        age(root, layout.log_entry(position), KEY_LIFETIME_S + 60)
    Log.open(root).raise_floor(4)
    assert positions(reader.read(1, limit=2)) == [2, 3]  # nothing is removed so soon
    clock.now += FLOOR_VALID_S + 1
    with pytest.raises(NotFound, match="up to 4 may have been removed"):
        list(reader.read(3))
    assert positions(reader.read(4)) == [5, 6]
    stale = LogWriter(open_log(root, clock), 2)
    with pytest.raises(NotFound, match="up to 4"):
        append(stale)


@pytest.fixture
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_segments, "SEGMENT_ENTRIES", 10)
    monkeypatch.setattr(log_writer, "SEGMENT_ENTRIES", 10)
    monkeypatch.setattr(log, "_BEHIND", 3)


@pytest.mark.usefixtures("short_segments")
def test_segments_repeat_the_entries(writer: LogWriter, root: Storage, clock: Clock) -> None:
    append(writer, 9)
    assert writer.write_segments() == []
    append(writer, 16)
    assert writer.write_segments() == [(1, 10), (11, 20)]
    assert writer.write_segments() == []
    whole = [plain(each) for each in Log.open(root).read(0)]
    for position in range(5, 21):
        root.delete(layout.log_entry(position))
    assert [plain(each) for each in Log.open(root).read(0)] == whole
    assert positions(Log.open(root).read(0, limit=14)) == list(range(1, 15))
    append(writer, 5)
    later = LogWriter(open_log(root, clock), 30)
    assert later.write_segments() == [(21, 30)]


@pytest.mark.usefixtures("short_segments")
def test_segments_that_are_not_wanted_any_more_are_left_to_others(writer: LogWriter, root: Storage) -> None:
    append(writer, 30)
    wanted = iter([True] * 15 + [False] * 20)  # until within the second of three
    assert writer.write_segments(lambda: next(wanted)) == [(1, 10)]
    assert log_segments.segment_ranges(writer.log.store) == [(1, 10)]
    assert writer.write_segments() == [(1, 10), (11, 20), (21, 30)]


@pytest.mark.usefixtures("short_segments")
def test_whoever_writes_a_segment_writes_the_same(writer: LogWriter, root: Storage, clock: Clock) -> None:
    append(writer, 20)
    writer.write_segments()
    names = [layout.log_segment(1, 10), layout.log_segment(11, 20)]
    first = [root.read(name) for name in names]
    for name in names:
        root.delete(name)
    LogWriter(open_log(root, clock), 20).write_segments()
    assert [root.read(name) for name in names] == first


@pytest.mark.usefixtures("short_segments")
def test_large_entries_make_short_segments(root: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LogWriter(open_log(root, clock), 0)
    sizes = ["one"] * 4 + ["word " * 4000] + ["one"] * 3 + ["word " * 1000] * 2
    for text in sizes:
        writer.append(make(text=text), lambda entry: None)
    small, large = (root.local_path(layout.log_entry(each)).stat().st_size for each in (1, 5))
    monkeypatch.setattr(log_segments, "SEGMENT_BYTES", 5 * small)
    assert large > 5 * small
    ranges = writer.write_segments()
    assert ranges == [(1, 4), (6, 8)]
    assert positions(Log.open(root).read(0)) == list(range(1, 11))
    for first, last in ranges:
        assert (
            sum(root.local_path(layout.log_entry(each)).stat().st_size for each in range(first, last + 1)) <= 5 * small
        )


@pytest.mark.usefixtures("short_segments")
def test_segments_go_with_their_entries(writer: LogWriter, root: Storage, clock: Clock) -> None:
    append(writer, 25)
    writer.write_segments()
    for position in range(1, 26):
        age(root, layout.log_entry(position), KEY_LIFETIME_S + 60)
    read = Log.open(root)
    read.raise_floor(15)
    age(root, layout.log_floor(15), REMOVAL_DELAY_S + 60)
    assert read.prune() == [*(layout.log_entry(each) for each in range(1, 16)), layout.log_segment(1, 10)]
    assert positions(Log.open(root).read(15)) == list(range(16, 26))
    assert LogWriter(open_log(root, clock), 25).write_segments() == []


@pytest.mark.usefixtures("short_segments")
def test_a_damaged_segment_is_named(writer: LogWriter, root: Storage) -> None:
    append(writer, 12)
    writer.write_segments()
    path = root.local_path(layout.log_segment(1, 10))
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(CorruptIndex, match="remove this file"):
            list(Log.open(root).read(0))
    path.rename(path.with_name(layout.log_segment(1, 11).rpartition("/")[2]))
    with pytest.raises(CorruptIndex, match="segment"):
        list(Log.open(root).read(0))
    path.with_name(layout.log_segment(1, 11).rpartition("/")[2]).unlink()
    assert positions(Log.open(root).read(0)) == list(range(1, 13))


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize("last", [10**13, 10**20 - 1])
def test_the_name_of_a_segment_may_say_anything(writer: LogWriter, root: Storage, last: int) -> None:
    """A stranger's name must not decide how much memory is taken."""
    append(writer, 12)
    writer.write_segments()
    path = root.local_path(layout.log_segment(1, 10))
    path.rename(path.with_name(layout.log_segment(1, last).rpartition("/")[2]))
    with pytest.raises(CorruptIndex, match="other positions"):
        list(Log.open(root).read(0))


@pytest.mark.parametrize("sort", ["link", "lost link", "pipe"])
def test_what_is_no_file_is_no_entry(writer: LogWriter, root: Storage, clock: Clock, tmp_path: Path, sort: str) -> None:
    """A link may lead out of the root, and who opens a pipe waits for ever."""
    append(writer, 2)
    path = root.local_path(layout.log_entry(2))
    if sort == "pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        path.rename(tmp_path / "elsewhere") if sort == "link" else path.unlink()
        path.symlink_to(tmp_path / "elsewhere")
    read = Log.open(root)
    assert read.end() == 2
    assert positions(read.read(0, limit=1)) == [1]
    with pytest.raises(CorruptIndex, match="is a link or no file"):
        list(read.read(0))
    with pytest.raises(CorruptIndex, match="is a link or no file"):
        append(LogWriter(open_log(root, clock), 1))


def test_the_clock_does_not_stop_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(log.time, "clock_gettime", lambda which: asked.append(which) or 7.0)
    assert log.clock() == 7.0
    assert asked == [log.time.CLOCK_BOOTTIME]


def test_entries_are_files_of_their_own(writer: LogWriter, root: Storage) -> None:
    (written,) = append(writer)
    assert root.read(layout.log_entry(1)) == encode_entry(written)
    assert list(root.files("")) == [layout.log_entry(1)]
