"""A writer of the log settles what the store leaves in doubt, and never says that it wrote what it did not."""

import os

import pytest

from shoal.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from shoal.index_root import layout, log_writer
from shoal.index_root.entry_store import CreateOutcome
from shoal.index_root.local_entry_store import LocalEntryStore
from shoal.index_root.log import FLOOR_VALID_S, KEY_LIFETIME_S, REMOVAL_DELAY_S, Log
from shoal.index_root.log_entry import LogEntry
from shoal.index_root.log_writer import LogWriter
from shoal.index_root.storage import Storage
from tests.support.log_entries import entry
from tests.support.logs import Clock, age, append, make, open_log, positions


def test_every_entry_is_applied_once_and_in_order_by_every_writer(root: Storage, clock: Clock) -> None:
    applied: list[list[int]] = [[], [], []]
    writers = [LogWriter(open_log(root, clock), 0) for _ in applied]
    for turn in (0, 0, 1, 2, 0, 1, 1, 2):
        writers[turn].append(make(), lambda entry, turn=turn: applied[turn].append(entry.position))  # type: ignore[misc]
    for writer, seen in zip(writers, applied, strict=True):
        writer.catch_up(lambda entry, seen=seen: seen.append(entry.position))  # type: ignore[misc]
        assert seen == list(range(1, 9))
        assert writer.position == 8


def test_the_entry_is_made_again_after_a_lost_race(writer: LogWriter, root: Storage, clock: Clock) -> None:
    append(LogWriter(open_log(root, clock), 0), 2)
    asked, applied = [], []

    def made(position: int) -> LogEntry:
        asked.append((position, list(applied)))
        return make()(position)

    assert writer.append(made, lambda entry: applied.append(entry.position)).position == 3
    assert asked == [(1, []), (3, [1, 2])]
    assert applied == [1, 2, 3]


def test_nothing_is_written_where_no_entry_can_be_made(writer: LogWriter, root: Storage) -> None:
    def refuse(position: int) -> LogEntry:
        raise InvalidArgument("a condition does not hold")

    with pytest.raises(InvalidArgument, match="condition"):
        writer.append(refuse, lambda entry: None)
    with pytest.raises(ValueError, match="position 1"):
        writer.append(lambda position: entry(position + 1), lambda entry: None)
    assert list(root.files("")) == []
    assert writer.position == 0


def test_a_request_is_known_by_its_key(writer: LogWriter, root: Storage, clock: Clock) -> None:
    append(writer, 1, "a", "b")
    append(writer, 1)
    known = writer.answered("b")
    assert known is not None
    assert (known[0], known[1].key, known[1].answer) == (1, "b", {"position": 1})
    assert writer.answered("c") is None
    other = LogWriter(open_log(root, clock), 0)
    assert other.answered("a") is None
    other.catch_up(lambda entry: None)
    assert other.answered("a") == writer.answered("a")
    served = LogWriter(open_log(root, clock), 2)  # of a version that holds both entries
    served.catch_up(lambda entry: None)
    assert served.answered("a") is None
    served.learn_keys()
    assert served.answered("a") == writer.answered("a")
    assert served.position == 2


def test_a_key_is_forgotten_after_an_hour_but_not_within_an_attempt(
    writer: LogWriter, root: Storage, clock: Clock
) -> None:
    append(writer, 1, "a")

    def slowly(position: int) -> LogEntry:
        if position == 2:
            append(LogWriter(open_log(root, clock), 1))  # is faster
            clock.now += KEY_LIFETIME_S + 1
        assert writer.answered("a") is not None
        return make()(position)

    assert writer.append(slowly, lambda entry: None).position == 3
    append(writer)
    assert writer.answered("a") is None


def test_what_is_older_than_an_hour_is_not_learned(writer: LogWriter, root: Storage, clock: Clock) -> None:
    for key in ("a", "b", "c"):
        append(writer, 1, key)
    age(root, layout.log_entry(1), KEY_LIFETIME_S + 60)
    served = LogWriter(open_log(root, clock), 3)
    served.learn_keys()
    assert [served.answered(key) is not None for key in ("a", "b", "c")] == [False, True, True]


def test_a_writer_that_creates_a_removed_position_does_not_say_that_it_wrote(root: Storage, clock: Clock) -> None:
    """It was paused, so long that what it had read was compacted and removed meanwhile."""
    writer = LogWriter(open_log(root, clock), 0)
    append(writer, 2)

    def paused(position: int) -> LogEntry:
        made = make("a")(position)
        others = LogWriter(open_log(root, clock), 2)
        append(others, 4)
        for each in range(1, 7):
            age(root, layout.log_entry(each), KEY_LIFETIME_S + 60)
        others.log.raise_floor(5)
        age(root, layout.log_floor(5), REMOVAL_DELAY_S + 60)
        others.log.prune()
        clock.now += 3 * 3600
        return made

    with pytest.raises(DeadlineExceeded, match="same Idempotency-Key"):
        writer.append(paused, lambda entry: None)
    assert writer.answered("a") is None
    assert writer.position == 2
    assert (Log.open(root).end(), positions(Log.open(root).read(5))) == (6, [6])
    with pytest.raises(NotFound):
        list(Log.open(root).read(2))


def test_a_writer_is_opened_with_the_keys_that_it_needs(writer: LogWriter, root: Storage) -> None:
    append(writer, 1, "a")
    leftover = root.local_path(layout.LOG_ENTRIES) / ".x.tmp"
    leftover.write_bytes(b"half")
    os.utime(leftover, (1.0, 1.0))
    opened = LogWriter.open(str(root.uri), 1)
    assert opened.answered("a") is not None
    assert append(opened)[0].position == 2
    assert [name for name in root.files("") if name != layout.log_entry(1)] == [layout.log_entry(2)]
    assert not leftover.exists()


def test_a_writer_below_the_floor_is_not_opened(writer: LogWriter, root: Storage) -> None:
    append(writer, 3)
    for position in (1, 2, 3):
        age(root, layout.log_entry(position), KEY_LIFETIME_S + 60)
    writer.log.raise_floor(2)
    assert LogWriter.open(root, 2).position == 2
    with pytest.raises(NotFound, match="up to 2"):
        LogWriter.open(root, 1)


class Scripted(LocalEntryStore):
    """Creates what it is told to, and answers what it is told to."""

    def __init__(self, root: Storage, *script: tuple[bool, CreateOutcome | Exception]) -> None:
        super().__init__(root)
        self.script = list(script)

    def create(self, name: str, data: bytes) -> CreateOutcome:
        if not self.script:
            return super().create(name, data)
        created, answer = self.script.pop(0)
        outcome = super().create(name, data) if created else answer
        if isinstance(answer, Exception):
            raise answer
        return answer if answer is not CreateOutcome.CREATED else outcome  # type: ignore[return-value]


UNREACHABLE = Unavailable("unreachable")


@pytest.mark.parametrize(
    "script",
    [
        [(True, CreateOutcome.UNKNOWN)],  # the answer was lost
        [(True, CreateOutcome.EXISTS)],  # it was lost, and the library tried again
        [(False, CreateOutcome.UNKNOWN)],  # the request was lost
        [(False, CreateOutcome.EXISTS)],  # 409: try again
        [(False, CreateOutcome.UNKNOWN), (False, CreateOutcome.UNKNOWN), (True, CreateOutcome.UNKNOWN)],
        [(True, CreateOutcome.UNKNOWN), (False, UNREACHABLE)],
    ],
)
def test_a_doubtful_answer_is_settled(
    root: Storage, clock: Clock, script: list[tuple[bool, CreateOutcome | Exception]]
) -> None:
    writer = LogWriter(Log(Scripted(root, *script), clock), 0, lambda seconds: None)
    assert append(writer)[0].position == 1
    assert append(writer)[0].position == 2
    assert positions(Log.open(root).read(0)) == [1, 2]


def test_a_writer_that_never_gets_an_answer_says_that_it_does_not_know(root: Storage, clock: Clock) -> None:
    waited = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        clock.now += seconds

    script = [(False, CreateOutcome.UNKNOWN)] * 100
    writer = LogWriter(Log(Scripted(root, *script), clock), 0, wait)
    with pytest.raises(DeadlineExceeded, match="same Idempotency-Key"):
        append(writer)
    assert sum(waited) > log_writer.PATIENCE_S
    assert max(waited) == 2.0


def test_a_writer_that_cannot_reach_the_store_has_written_nothing(root: Storage, clock: Clock) -> None:
    writer = LogWriter(Log(Scripted(root, (False, UNREACHABLE)), clock), 0, lambda seconds: None)
    with pytest.raises(Unavailable, match="unreachable"):
        append(writer)
    assert append(writer)[0].position == 1


def test_a_floor_that_cannot_be_read_leaves_it_open(
    root: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LogWriter(open_log(root, clock), 0, lambda seconds: None)
    with monkeypatch.context() as patched:

        def paused(position: int) -> LogEntry:
            clock.now += FLOOR_VALID_S + 1
            patched.setattr(LocalEntryStore, "names", lambda self, prefix, after="": (_ for _ in ()).throw(UNREACHABLE))
            return make("a")(position)

        with pytest.raises(DeadlineExceeded):
            writer.append(paused, lambda entry: None)
    assert append(writer)[0].position == 2
    assert writer.answered("a") is not None
