"""A server that compacts by itself: when it starts a compaction, and what it does about one that failed."""

from pathlib import Path

import pytest

from serve.versions.compacting import BUSY_S, FIRST_WAIT_S, Compacting, Compactor, due_compaction, is_busy
from shoal.cli.errors import REFUSED
from shoal.errors import Unavailable
from shoal.index_root import layout, versions
from shoal.index_root.log import Log
from shoal.indexing.compaction import compact
from shoal.settings import CompactSettings, RunSettings
from tests.support.written import Root


class FakeCompaction:
    """A compaction that ends when the test says so."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.ended = False

    def outcome(self) -> int | None:
        return self.code

    def last_line(self) -> str:
        return "no space left"

    def end(self) -> None:
        self.ended = True


class Server:
    """What looks, with a clock of its own."""

    def __init__(self) -> None:
        self.due: str | None = "9 passages were written"
        self.now = 0.0
        self.started: list[FakeCompaction] = []
        self.lines: list[str] = []
        self.busy = False
        self.compacting = Compacting(self._due, lambda: self.busy, self._start, self.lines.append, lambda: self.now)

    def _due(self) -> str | None:
        if self.due == "broken":
            raise Unavailable("the log cannot be read")
        return self.due

    def _start(self) -> FakeCompaction:
        self.started.append(FakeCompaction())
        return self.started[-1]

    def fail(self) -> None:
        self.started[-1].code = 1
        self.compacting.look()


def test_one_runs_at_a_time_and_the_next_when_it_is_due_again() -> None:
    server = Server()
    server.due = None
    server.compacting.look()
    assert server.started == []
    server.due = "9 passages were written"
    server.compacting.look()
    server.compacting.look()
    assert len(server.started) == 1
    assert server.lines == ["compacting what was written: 9 passages were written"]
    server.started[0].code, server.due = 0, None
    server.compacting.look()
    assert (len(server.started), server.compacting.problem) == (1, None)
    server.due = "8 passages were written"
    server.compacting.look()
    assert len(server.started) == 2


def test_one_that_failed_is_told_and_tried_again_after_waits_that_double() -> None:
    server = Server()
    server.compacting.look()
    for failures in range(3):
        server.fail()
        assert len(server.started) == failures + 1
        assert "no space left" in str(server.compacting.problem)
        wait_s = FIRST_WAIT_S * 2**failures
        assert server.lines[-1].endswith(f"tried again in {wait_s:.0f} s")
        server.now += wait_s - 1
        server.compacting.look()
        assert len(server.started) == failures + 1
        server.now += 1
        server.compacting.look()
        assert len(server.started) == failures + 2
    server.started[-1].code = 0
    server.compacting.look()
    assert server.compacting.problem is None
    server.fail()
    assert server.lines[-1].endswith(f"tried again in {FIRST_WAIT_S:.0f} s")


def test_a_version_that_does_not_pass_its_gate_is_told_and_not_made_again_at_once() -> None:
    server = Server()
    server.compacting.look()
    server.started[0].code = REFUSED
    server.compacting.look()
    assert server.compacting.problem == (
        "what was written is not compacted: no space left; searches go on, and nothing written is lost"
    )
    assert server.lines[-1] == server.compacting.problem
    server.compacting.look()
    assert len(server.started) == 1
    server.now = FIRST_WAIT_S
    server.compacting.look()
    assert len(server.started) == 2
    server.started[1].code, server.due = 0, None
    server.compacting.look()
    assert server.compacting.problem is None


def test_what_another_server_does_is_left_to_it_but_not_what_failed_here() -> None:
    server = Server()
    server.busy = True
    server.compacting.look()
    assert server.started == []
    server.busy = False
    server.compacting.look()
    server.busy = True  # it has left what it had done
    server.fail()
    server.compacting.look()
    assert "no space left" in str(server.compacting.problem)
    server.now += FIRST_WAIT_S
    server.compacting.look()
    assert len(server.started) == 2


def test_a_problem_is_over_when_another_server_has_compacted() -> None:
    server = Server()
    server.compacting.look()
    server.fail()
    server.due = None
    server.compacting.look()
    assert server.compacting.problem is None


def test_a_log_that_cannot_be_read_is_told_and_ends_nothing() -> None:
    server = Server()
    server.due = "broken"
    server.compacting.look()
    assert "the log cannot be read" in str(server.compacting.problem)
    server.due = None
    server.compacting.look()
    assert server.compacting.problem is None


def test_it_ends_with_its_server() -> None:
    server = Server()
    server.compacting.look()
    server.compacting.close()
    server.compacting.look()
    assert ([each.ended for each in server.started]) == [True]


def test_of_several_indexes_one_is_compacted_at_a_time_and_each_gets_its_turn() -> None:
    servers = {root: Server() for root in ("a", "b", "c")}
    roots = ["a", "b"]
    compactor = Compactor(lambda root: servers[root].compacting, lambda: roots)

    def started() -> list[int]:
        return [len(server.started) for server in servers.values()]

    compactor.look()
    compactor.look()
    assert started() == [1, 0, 0]
    servers["a"].started[0].code = 0  # and it is due again at once
    compactor.look()
    assert started() == [1, 1, 0]
    roots[:] = ["a", "b", "c"]
    servers["b"].started[0].code = 1
    compactor.look()
    assert started() == [1, 1, 1]
    assert "no space left" in str(compactor.problem("b"))
    assert compactor.problem("a") is None
    compactor.leave("c")
    assert servers["c"].started[0].ended
    assert compactor.problem("c") is None
    compactor.look()
    assert started() == [2, 1, 1]
    compactor.close()
    assert servers["a"].started[1].ended
    compactor.look()
    assert started() == [2, 1, 1]


def test_it_is_due_and_somebody_is_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Root(tmp_path)
    settings = RunSettings(index=root.storage.uri, due_rows=1, due_hours=1e9)
    due = due_compaction(settings)
    assert due() is None
    root.write([{"id": "a", "text": "one"}, {"id": "b", "text": "two"}])
    assert "passages were written to one shard" in str(due())
    assert due_compaction(settings.model_copy(update={"due_rows": 100}))() is None

    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shoal.indexing.compaction._run", stopped)
        with pytest.raises(KeyboardInterrupt):
            compact(CompactSettings(index=root.storage.uri), Log.open(root.storage))
    (plan,) = root.storage.list(layout.STAGING)
    assert is_busy(settings)
    monkeypatch.setattr("serve.versions.compacting.BUSY_S", 0.0)  # as if it had been silent for BUSY_S
    assert BUSY_S > 0
    assert not is_busy(settings)
    assert due() is not None
    assert root.compact().complete_to == 1
    assert due() is None
    assert versions.current_manifest(root.storage).complete_to == 1
    assert not root.storage.exists(layout.staging_dir(plan))
