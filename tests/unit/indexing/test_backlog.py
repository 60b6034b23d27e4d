"""What was written and is not compacted: when that is worth it, and when it is too much."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from shoal.cli.main import app
from shoal.encoders import load_encoder
from shoal.index_root import versions
from shoal.index_root.log import Log
from shoal.index_root.manifest import ShardEntry
from shoal.indexing.backlog import Backlog
from shoal.indexing.plan import shard_of
from shoal.settings import BacklogSettings, DueSettings, EncoderSettings
from tests.support.building import DIM
from tests.support.manifests import describe
from tests.support.written import LogWriter, MemoryLog, Root


class Written:
    """A log over a version of a hundred passages in two shards, and what was counted of it."""

    def __init__(self) -> None:
        shards = [ShardEntry(shard=number, count=50, files=[]) for number in range(2)]
        self.manifest = describe("v1", shards, dim=DIM)
        self.log = MemoryLog()
        self.now = 1000.0
        self.backlog = Backlog(lambda: self.now)
        self._writer = LogWriter(self.log, self.manifest, load_encoder(EncoderSettings(encoder=f"hashing:{DIM}")))

    def write(self, *ids: str) -> None:
        self._writer.append([{"id": id_, "text": "four"} for id_ in ids])
        self.backlog.follow(self.manifest, self.log)

    def write_text(self, id_: str, text: str) -> None:
        self._writer.append([{"id": id_, "text": text}])
        self.backlog.follow(self.manifest, self.log)


def test_rows_are_counted_where_most_were_written_and_each_entry_once() -> None:
    written = Written()
    ids = [f"d{number}" for number in range(30)]
    for start in range(0, 30, 10):
        written.write(*ids[start : start + 10])
    most = max(sum(shard_of(id_, 2) == shard for id_ in ids) for shard in (0, 1))
    assert written.backlog.rows == most
    assert written.backlog.bytes == 30 * (4 + 4 * DIM)
    assert written.backlog.due(DueSettings(due_hours=1000)) is None
    assert written.backlog.due(DueSettings(due_hours=1000, due_rows=most)) == (
        f"{most} passages were written to one shard"
    )
    written.manifest = written.manifest.model_copy(update={"log": None})
    read = written.log.read
    written.log.read = lambda after, limit=None: read(after, limit) if after == 3 else pytest.fail("read again")  # type: ignore[method-assign]
    written.backlog.follow(written.manifest, written.log)
    assert written.backlog.rows == most


def test_a_write_that_has_waited_is_due_and_nothing_is_without_writes() -> None:
    written = Written()
    written.now = 1e9
    written.backlog.follow(written.manifest, written.log)
    assert (written.backlog.due(DueSettings(due_hours=0)), written.backlog.oldest_s) == (None, 0.0)
    written.write("a")
    written.now = 7200.0
    assert written.backlog.due(DueSettings(due_hours=2)) == "the oldest write has waited 2 hours"
    assert written.backlog.due(DueSettings(due_hours=2.1)) is None


def test_what_a_later_version_holds_is_not_counted_any_more(tmp_path: Path) -> None:
    root = Root(tmp_path)
    counted = Backlog()
    for number in range(3):
        root.write([{"id": f"n{number}", "text": "new"}])
    counted.follow(root.manifest, Log.open(root.storage))
    assert counted.rows > 0
    compacted = root.compact()
    root.write([{"id": "later", "text": "new"}])
    counted.follow(compacted, Log.open(root.storage))
    assert (counted.rows, counted.bytes) == (1, 3 + 4 * DIM)


def test_after_a_rollback_all_is_counted_that_the_older_version_lacks(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.write([{"id": "a", "text": "one"}, {"id": "b", "text": "two"}])
    compacted = root.compact()
    root.write([{"id": "c", "text": "three"}])
    counted, log = Backlog(), Log.open(root.storage)
    counted.follow(compacted, log)
    assert counted.bytes == 5 + 4 * DIM
    counted.follow(root.manifest, log)
    assert counted.bytes == 11 + 3 * 4 * DIM
    counted.follow(compacted, log)
    assert counted.bytes == 5 + 4 * DIM


def test_entries_are_added_once_behind_the_version_that_is_counted_from() -> None:
    written = Written()
    written.write("a", "b")
    counted = Backlog()
    counted.begin(written.manifest)
    for entry in [*written.log.entries, *written.log.entries]:
        counted.add(entry)
    counted.follow(written.manifest, written.log)
    assert counted.bytes == written.backlog.bytes == 2 * (4 + 4 * DIM)


def test_too_much_is_said_so() -> None:
    written = Written()
    written.write("a", "b", "c")
    written.write_text("d", "x" * 2**20)
    assert written.backlog.excess(BacklogSettings(max_backlog_mib=2)) is None
    assert written.backlog.excess(BacklogSettings(max_backlog_mib=1)) == (
        "1 MiB that were written are not compacted yet (max_backlog_mib)"
    )
    rows = written.backlog.rows
    assert written.backlog.excess(BacklogSettings(max_backlog_rows=rows + 1)) is None
    assert written.backlog.excess(BacklogSettings(max_backlog_rows=rows)) == (
        f"{rows:,} passages that were written to one shard are not compacted yet (max_backlog_rows)"
    )


def test_the_command_waits_until_it_is_worth_it(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.write([{"id": "a", "text": "one"}])

    def run(*options: str) -> str:
        result = CliRunner().invoke(app, ["compact", "--index", root.storage.uri, "--if-due", *options])
        assert result.exit_code == 0, result.output
        return result.stdout

    # The entries of tests were written in 1970.
    assert "is not worth a compaction yet" in run("--due-hours", "1000000")
    assert versions.current_manifest(root.storage).version == root.manifest.version
    assert "holds all that was written up to position 1" in run("--due-rows", "1")
    assert "is not worth a compaction yet" in run("--due-rows", "1")
