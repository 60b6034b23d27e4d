"""Power fails at any moment while the log is written: what was acknowledged is there, and what is there is whole.

Every fsync is recorded. What a disk may hold after a power failure is what the last one of each file and folder saw,
and of everything since as much or as little as it likes.
"""

import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from shoal.index_root import local_entry_store
from shoal.index_root.log import Log
from shoal.index_root.log_entry import LogEntry
from shoal.index_root.log_writer import LogWriter
from shoal.index_root.storage import Storage
from tests.support.log_entries import entry, plain, upsert


class Disk:
    """A folder, and what a disk certainly has of it.

    Args:
        root: The folder.
        on_event: Called before and after the disk has got something more.
    """

    def __init__(self, root: Path, on_event: Callable[[], None]) -> None:
        self.root = root
        self._on_event = on_event
        self._files: dict[int, bytes] = {}
        self._folders: dict[str, dict[str, int]] = {}
        self._open: list[int] = []

    def fsync(self, descriptor: int) -> None:
        """What os.fsync does, by this model."""
        self._on_event()
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        self._open.append(os.dup(descriptor))  # so that its number is not given to another file
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self._folders[path] = {item.name: item.inode() for item in os.scandir(path)}
        else:
            self._files[os.fstat(descriptor).st_ino] = Path(path).read_bytes()
        self._on_event()

    def after_power_loss(self, image: Path, choose: random.Random | None) -> None:
        """Write what the disk holds. What was not synced is lost, or, for each name by `choose`, there or not."""
        self._restore(self.root, image, choose)

    def _restore(self, folder: Path, image: Path, choose: random.Random | None) -> None:
        image.mkdir(parents=True)
        names = dict(self._folders.get(str(folder), {}))
        for item in os.scandir(folder):
            if choose is not None and choose.random() < 0.5:
                names[item.name] = item.inode()
        for name in list(names):
            if choose is not None and not (folder / name).exists() and choose.random() < 0.5:
                del names[name]  # its removal was not synced, and yet happened
        for name, inode in names.items():
            if (folder / name).is_dir():
                self._restore(folder / name, image / name, choose)
            else:
                (image / name).write_bytes(self._files.get(inode, b"torn"))

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)


class PowerCheck:
    """Looks after every event whether a power failure there would lose or tear anything."""

    def __init__(self, root: Path, images: Path) -> None:
        self.disk = Disk(root, self.check)
        self.acknowledged: list[LogEntry] = []
        self.images = images
        self.checks = 0

    def check(self) -> None:
        if not self.disk.root.exists():
            return
        for choose in (None, random.Random(2 * self.checks), random.Random(2 * self.checks + 1)):
            image = self.images / "image"
            self.disk.after_power_loss(image, choose)
            self._check_image(image)
            shutil.rmtree(image)
            self.checks += 1

    def _check_image(self, image: Path) -> None:
        log = Log.open(str(image))
        entries = list(log.read(0))  # raises CorruptIndex for one that is torn
        expected = [plain(each) for each in self.acknowledged]
        assert [plain(each) for each in entries[: len(expected)]] == expected, "an acknowledged entry is gone"
        assert len(entries) <= len(expected) + 1
        assert log.end() == len(entries)


@pytest.fixture
def power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PowerCheck]:
    root = tmp_path / "root"
    root.mkdir()
    check = PowerCheck(root, tmp_path)
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: check.disk.fsync(file) if file_is_below(file, root) else fsync(file))
    yield check
    check.disk.close()


def file_is_below(descriptor: int, root: Path) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(root)


def write(power: PowerCheck, number: int) -> None:
    """Append entries, each acknowledged before the next."""
    writer, nonces = LogWriter(Log.open(str(power.disk.root)), 0), count()
    for _ in range(number):
        written = writer.append(
            lambda position: entry(position, [upsert(f"d{position}")], f"n{next(nonces)}"), lambda entry: None
        )
        power.acknowledged.append(written)
        power.check()


def test_no_acknowledged_entry_is_lost_and_none_is_torn(power: PowerCheck) -> None:
    write(power, 8)
    assert power.checks > 8 * 3 * 3


@pytest.mark.parametrize("lost", ["file", "folder"])
def test_a_sync_that_is_left_out_is_noticed(power: PowerCheck, lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if lost == "folder":
        monkeypatch.setattr(local_entry_store, "sync", lambda path: None)
    else:
        fsync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda file: fsync(file) if stat.S_ISDIR(os.fstat(file).st_mode) else None)
    with pytest.raises(Exception, match=r"acknowledged|torn|not an entry"):
        write(power, 8)


def test_what_a_writer_that_died_left_is_ignored_and_removed_after_an_hour(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    log = Log.open(storage)
    writer = LogWriter(log, 0)
    writer.append(lambda position: entry(position, [upsert("a")], "n"), lambda entry: None)
    folder = tmp_path / "log" / "entries"
    old, young = folder / ".x.0.tmp", folder / ".x.1.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    written = old.stat().st_mtime - 2 * 3600
    os.utime(old, (written, written))
    assert len(log.store.names("log/entries/")) == 1
    assert log.end() == 1
    log.store.clean()
    assert sorted(path.name for path in folder.iterdir()) == [".x.1.tmp", "00000000000000000001.arrow"]
