"""Deadlines that travel between processes."""

import pickle
from types import SimpleNamespace

import pytest

from shoal.system import deadlines
from shoal.system.deadlines import SentDeadline


@pytest.mark.parametrize("elsewhere", [5.0, 100.0, 1e6])
def test_a_deadline_arrives_by_the_clock_of_the_other_process(
    elsewhere: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine was started at another time: its monotonic clock has nothing to do with this one."""
    monkeypatch.setattr(deadlines, "time", SimpleNamespace(monotonic=lambda: 100.0))
    sent = pickle.dumps({"deadline": SentDeadline(107.5)})
    monkeypatch.setattr(deadlines, "time", SimpleNamespace(monotonic=lambda: elsewhere))
    assert pickle.loads(sent) == {"deadline": elsewhere + 7.5}


def test_what_remains_is_measured_when_the_call_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(deadlines, "time", SimpleNamespace(monotonic=lambda: now[0]))
    deadline = SentDeadline(110.0)
    now[0] = 108.0  # it has waited for a replica
    sent = pickle.dumps(deadline)
    now[0] = 3.0
    assert pickle.loads(sent) == 5.0


def test_a_deadline_that_stays_in_its_process_is_what_it_was() -> None:
    assert SentDeadline(110.0) == 110.0
