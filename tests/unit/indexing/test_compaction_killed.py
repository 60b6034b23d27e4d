"""A compaction that ends before any of its writes: the index stays whole, and the next compaction finishes it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from shoal.index_root import layout, versions
from shoal.index_root.log import Log
from shoal.index_root.storage import Storage
from shoal.indexing.compaction import compact
from shoal.settings import CompactSettings
from shoal.shard.reader import Shard
from tests.support.long import LONG
from tests.support.written import Root

MEMORY = Path("/dev/shm")
STEP = 1 if LONG else 9
"""Of so many writes before which it may end one is tried."""
WRITES = ("write", "put", "delete")
"""What changes an index root."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where that can be had."""
    with tempfile.TemporaryDirectory(prefix="shoal-test-", dir=MEMORY if MEMORY.is_dir() else None) as name:
        yield Path(name)


class Killed(BaseException):
    """The end of a process."""


def kill_before(write: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process end before it changes the index root, once it has done so this often."""
    done = count()

    def dying(change: Callable[..., Any]) -> Callable[..., Any]:
        def changes(*given: Any) -> Any:
            if next(done) == write:
                raise Killed
            return change(*given)

        return changes

    for name in WRITES:
        monkeypatch.setattr(Storage, name, dying(getattr(Storage, name)))


def texts(storage: Storage, version: str) -> dict[str, str]:
    """All passages of a version."""
    manifest = versions.read_manifest(storage, version)
    found = {}
    for entry in manifest.shards:
        shard = Shard.open(storage, manifest, entry.shard, cache=None, threads=1)
        fetched = shard.fetch(list(range(shard.count)), False)
        found |= {passage.id: passage.text for passage in fetched.passages}
        shard.close()
    return found


def run(root: Path) -> None:
    compact(CompactSettings(index=str(root)), Log.open(str(root)))


def test_a_compaction_that_ends_at_any_write_is_finished_by_the_next(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = Root(folder, shards=2)
    prepared.write([{"id": "p1", "text": "written"}, "p2"])
    prepared.write([{"id": "new", "text": "also written"}])
    ended, expected = 0, {"p0", "p1", "p3", "p4", "new"}
    for write in range(0, 1000, STEP):
        root = shutil.copytree(folder / "index", folder / f"{write}")
        storage = Storage(str(root))
        with monkeypatch.context() as patch:
            kill_before(write, patch)
            try:
                run(root)
                break
            except Killed:
                ended += 1
        current = versions.read_current(storage)
        assert current is not None
        assert [versions.verify(storage, name) for name in versions.list_versions(storage)][-1] == []
        run(root)
        current = versions.read_current(storage)
        assert current is not None
        assert current.version != prepared.manifest.version
        assert current.previous == prepared.manifest.version
        assert versions.verify(storage, current.version) == []
        assert versions.read_manifest(storage, current.version).complete_to == 2
        found = texts(storage, current.version)
        assert (found.keys(), found["p1"]) == (expected, "written")
        assert [name for name in storage.list(layout.STAGING) if storage.exists(layout.plan(name))] == []
        shutil.rmtree(root)
    assert ended >= 30 // STEP
