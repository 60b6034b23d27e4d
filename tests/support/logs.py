"""Logs on a disk, and time that passes only when a test says so."""

import os
from collections.abc import Callable, Iterator
from itertools import count

from shoal.index_root.local_entry_store import LocalEntryStore
from shoal.index_root.log import Log
from shoal.index_root.log_entry import LogEntry
from shoal.index_root.log_writer import LogWriter
from shoal.index_root.storage import Storage
from tests.support.log_entries import entry, upsert


class Clock:
    """Time that passes only when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def open_log(root: Storage, clock: Callable[[], float]) -> Log:
    return Log(LocalEntryStore(root), clock)


_nonces = count()


def make(*keys: str, text: str = "one") -> Callable[[int], LogEntry]:
    """Makes an entry whose document is named by its position."""
    return lambda position: entry(position, [upsert(f"d{position}", text)], f"n{next(_nonces)}", keys)


def append(writer: LogWriter, number: int = 1, *keys: str) -> list[LogEntry]:
    return [writer.append(make(*keys), lambda entry: None) for _ in range(number)]


def positions(entries: Iterator[LogEntry]) -> list[int]:
    return [entry.position for entry in entries]


def age(root: Storage, name: str, seconds: float) -> None:
    path = root.local_path(name)
    written = path.stat().st_mtime - seconds
    os.utime(path, (written, written))
