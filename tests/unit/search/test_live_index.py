"""What a coordinator knows of the log: entries that its own process has appended need not be read again."""

from pathlib import Path

from shoal.index_root import layout
from shoal.index_root.log import Log
from shoal.search.live_index import LiveIndex
from tests.support.written import Root


def test_entries_of_this_process_are_applied_without_being_read(tmp_path: Path) -> None:
    root = Root(tmp_path)
    for number in range(3):
        root.write([{"id": f"n{number}", "text": "new"}])
    entries = list(Log.open(root.storage).read(0))
    live = LiveIndex(root.storage, root.manifest)
    live.offer(entries[1])
    live.offer(entries[0])
    root.storage.delete(layout.log_entry(1))
    root.storage.delete(layout.log_entry(2))
    assert live.read(0) == entries[:2]
    live.apply(entries[:2])
    assert [entry.position for entry in live.read(2)] == [3]
    assert live.version.count_passages() == 7


def test_of_many_entries_at_once_most_are_read(tmp_path: Path) -> None:
    root = Root(tmp_path)
    for number in range(12):
        root.write([{"id": f"n{number}", "text": "new"}])
    live = LiveIndex(root.storage, root.manifest)
    for entry in Log.open(root.storage).read(0):
        live.offer(entry)
    live.replay()
    assert (live.position, live.version.count_passages()) == (12, 17)
