"""The checker of histories finds everything that no index may do, and nothing else."""

from dataclasses import replace
from typing import Any

import pytest

from shoal.writing.requests import Condition
from tests.support.history import (
    Attempt,
    Content,
    Deletion,
    Entry,
    History,
    LoggedRequest,
    Read,
    Update,
    Upsert,
    entries_of,
)
from tests.support.history_checker import Checker, faults
from tests.support.log_entries import delete, entry, upsert

BUILT, FIRST, SECOND, OTHER = Content("built"), Content("first", 1), Content("second", 2), Content("other", 3)
CHANGED = Content("second", 7)


def history() -> History:
    """What two clients saw; b is deleted in the end. The third request was answered when it was sent again."""
    made = History({"a": BUILT, "b": None})
    made.attempts = [
        Attempt("s0", "k1", {"a": Upsert(FIRST, Condition(0))}, 1, 2, {"position": 1, "written": 1}),
        Attempt("s0", "k2", {"a": Upsert(SECOND), "b": Upsert(OTHER)}, 3, 4, {"position": 2, "written": 2}),
        Attempt("s1", "k3", {"a": Update(7)}, 5, 6),
        Attempt("s1", "k3", {"a": Update(7)}, 7, 8, {"position": 3, "updated": 1}),
        Attempt("s0", "k4", {"b": Deletion()}, 9, 10, {"position": 4, "deleted": 1}),
        Attempt("s1", "k5", {"a": Upsert(OTHER, Condition(1))}, 9, 10, refused=True),
        Attempt("s1", "k6", {"a": Upsert(OTHER)}, 9, 10),
        Attempt("s0", "k7", {"b": Deletion()}, 11, 12, {"position": 5, "deleted": 0}),
    ]
    made.reads = [
        Read("s0", 1.1, 1.2, {"a": FIRST, "b": None}, 0),
        Read("s0", 2.5, 2.6, {"a": FIRST}, 1, strong=True),
        Read("s0", 4.1, 4.2, {"a": FIRST, "b": OTHER}, 1),
        Read("s1", 4.3, 4.4, {"a": SECOND, "b": OTHER}, 2, min_position=2),
        Read("s1", 10.5, 10.6, {"a": CHANGED, "b": None}, 4, strong=True),
    ]
    return made


def log() -> list[Entry]:
    return [
        Entry(1, [LoggedRequest("k1", {"a": FIRST})]),
        Entry(2, [LoggedRequest("k2", {"a": SECOND, "b": OTHER})]),
        Entry(3, [LoggedRequest("k3", {"a": CHANGED})]),
        Entry(4, [LoggedRequest("k4", {"b": None})]),
        Entry(5, [LoggedRequest("k7", {})]),
    ]


def only(found: list[str]) -> str:
    (fault,) = found
    return fault


def test_what_an_index_may_do_is_no_fault() -> None:
    assert faults(history(), log(), within_s=1.0, one_replica=True) == []
    assert Checker(history(), log()).latest() == pytest.approx(0.1)


def test_a_request_without_an_answer_may_be_there_or_not() -> None:
    with_it = [*log(), Entry(6, [LoggedRequest("k6", {"a": OTHER})])]
    assert faults(history(), with_it, within_s=1.0, one_replica=True) == []


def test_an_acknowledged_write_that_is_not_there_is_found() -> None:
    without = [*log()[:3], Entry(4, []), log()[4]]
    assert "k4 was answered {'position': 4, 'deleted': 1}, and is not there" in faults(history(), without)
    assert any("'b' " in fault or "b holds None" in fault for fault in faults(history(), without))


def test_a_request_that_was_applied_twice_is_found() -> None:
    twice = [*log(), Entry(6, [LoggedRequest("k2", {"a": SECOND, "b": OTHER})])]
    assert "k2 was written twice, at 2 and 6" in faults(history(), twice)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"position": 9}, "k2 was answered {'position': 9, 'written': 2}, and lies at 2"),
        ({"written": 1}, "k2 was answered {'position': 2, 'written': 1}, and has changed 2 documents"),
    ],
    ids=["position", "count"],
)
def test_a_wrong_answer_is_found(change: dict[str, Any], said: str) -> None:
    made = history()
    answer = made.attempts[1].answer
    assert answer is not None
    made.attempts[1] = replace(made.attempts[1], answer={**answer, **change}, ended=11.0)
    assert said in faults(made, log())


def test_another_answer_to_the_same_key_is_found() -> None:
    made = history()
    made.attempts.append(Attempt("s0", "k1", {"a": Upsert(FIRST)}, 13, 14, {"position": 5, "written": 1}))
    assert "k1 was answered differently" in only(faults(made, log()))


def test_a_refused_request_that_is_there_is_found() -> None:
    there = [*log(), Entry(6, [LoggedRequest("k5", {"a": OTHER})])]
    found = faults(history(), there)
    assert "k5 was refused, and written at 6" in found
    assert any("k5 of a was written although its condition does not hold" in fault for fault in found)


def test_a_refusal_that_nothing_stood_against_is_found() -> None:
    made = history()
    made.attempts.append(Attempt("s1", "k8", {"a": Upsert(OTHER, Condition(3))}, 13, 14, refused=True))
    assert only(faults(made, log())) == "k8 was refused, and its conditions held"
    made.attempts[-1] = Attempt("s1", "k8", {"a": Upsert(OTHER, Condition(None))}, 13, 14, refused=True)
    assert faults(made, log()) == []
    made.attempts.append(Attempt("s0", "k2", {"a": Upsert(SECOND)}, 13, 14, refused=True))
    assert only(faults(made, log())) == "k2 was refused after it had been written at 2"


def test_an_answer_without_a_key_that_nothing_is_to_be_done_has_to_be_true() -> None:
    made = history()
    stale = Attempt("s1", "u", {"a": Upsert(SECOND)}, 13, 14, {"position": 5, "written": 0}, keyed=False)
    made.attempts.append(stale)
    assert "the answer to u that there was nothing to do says that a holds" in only(faults(made, log()))
    made.attempts[-1] = replace(stale, changes={"a": Upsert(CHANGED), "b": Deletion()})
    assert faults(made, log()) == []
    made.attempts[-1] = replace(stale, answer={"position": 6, "written": 1})
    assert only(faults(made, log())) == "u was answered {'position': 6, 'written': 1}, and is not there"
    assert faults(made, [*log(), Entry(6, [LoggedRequest(None, {"a": SECOND})])]) == []
    assert "nobody asked for a request without a key at 6" in "".join(
        faults(made, [*log(), Entry(6, [LoggedRequest(None, {"a": FIRST})])])
    )
    # Others that look alike did nothing, as one was told, or nobody knows what.
    others = [
        replace(stale, key="v", changes={"a": Deletion()}, answer=answer)
        for answer in (None, {"position": 6, "deleted": 0})
    ]
    others[1] = replace(others[1], key="w")
    made.attempts[-1:] = [*others, replace(stale, changes={"a": Deletion()}, answer={"position": 6, "deleted": 1})]
    assert faults(made, [*log(), Entry(6, [LoggedRequest(None, {"a": None})])]) == []


def test_an_entry_that_nobody_asked_for_and_a_gap_are_found() -> None:
    assert faults(history(), [*log(), Entry(7, [LoggedRequest("z", {"a": OTHER})])]) == [
        "entry 6 of the log has position 7", "nobody asked for z, written at 7"
    ]  # fmt: skip


def test_a_lost_update_is_found() -> None:
    lost = [*log()[:2], Entry(3, [LoggedRequest("k3", {"a": Content("first", 7)})]), *log()[3:]]
    assert "k3 should have made {'a': Content(text='second', revision=7)} at 3" in faults(history(), lost)[0]


def test_a_half_request_is_found() -> None:
    half = [log()[0], Entry(2, [LoggedRequest("k2", {"a": SECOND})]), *log()[2:]]
    assert faults(history(), half)[0].startswith("k2 should have made {'a': ")


def test_a_write_before_one_that_was_answered_before_it_began_is_found() -> None:
    made = history()
    made.attempts[0] = replace(made.attempts[0], began=4.5, ended=4.6)
    assert "k1 was written at 1, and asked for after 2 was answered" in faults(made, log())


def found_of(*reads: Read, within_s: float | None = None, one_replica: bool = False) -> list[str]:
    made = history()
    made.reads = list(reads)
    return faults(made, log(), within_s=within_s, one_replica=one_replica)


def test_a_stale_answer_is_found() -> None:
    stale = Read("s0", 5.5, 5.6, {"a": FIRST})
    assert found_of(stale) == []
    assert "a holds Content(text='first', revision=1), 1.500 s too late" in only(found_of(stale, within_s=1.0))
    assert "at 2 or later" in only(found_of(replace(stale, strong=True)))
    assert "at 2 or later" in only(found_of(replace(stale, min_position=2, position=2)))
    assert "at 2 or later" in only(found_of(replace(stale, position=2)))


def test_an_answer_that_has_not_seen_what_it_should_is_found() -> None:
    for asked in ({"min_position": 2}, {"strong": True}):
        read = Read("s0", 4.5, 4.6, {"a": SECOND}, 1, **asked)  # type: ignore[arg-type]
        assert "should have seen 2, and has seen 1" in only(found_of(read))


def test_a_document_that_goes_back_is_found_where_there_is_one_replica() -> None:
    reads = (Read("s0", 4.1, 4.2, {"a": SECOND}), Read("s0", 4.3, 4.4, {"a": FIRST}))
    assert found_of(*reads) == []
    assert "a holds Content(text='first', revision=1) at 2 or later" in only(found_of(*reads, one_replica=True))


def test_what_was_never_or_not_yet_written_or_twice_in_an_answer_is_found() -> None:
    assert "holds Content(text='no', revision=0)" in only(found_of(Read("s0", 1, 2, {"a": Content("no")})))
    assert "holds Content(text='second'" in only(found_of(Read("s0", 1, 2, {"a": SECOND})))
    assert "holds a twice" in only(found_of(Read("s0", 1, 1.5, {"a": BUILT}, repeated=["a"])))


def test_entries_of_a_log_are_read() -> None:
    written = entry(1, [upsert("a", "text"), delete("b")], keys=["k"])
    assert entries_of([written]) == [Entry(1, [LoggedRequest("k", {"a": Content("text"), "b": None})])]
