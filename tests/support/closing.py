"""A copy of a log that is under way when its index is closed."""

import threading
from pathlib import Path

import pytest

from shoal.index_root.log_writer import LogWriter
from shoal.system.threads import Threads

PATIENCE_S = 30.0
"""Seconds within which a thread is waited for."""


class SlowCopy:
    """Copies of the log end once somebody waits for them, and leave a file in the root then.

    Where nobody waits, the file comes long after the index was closed.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.ended = threading.Event()
        self._root = root
        self._awaited = threading.Event()
        join = Threads.join

        def note_and_join(threads: Threads) -> None:
            self._awaited.set()
            join(threads)

        monkeypatch.setattr(LogWriter, "write_segments", lambda writer, is_wanted: self._copy())
        monkeypatch.setattr(Threads, "join", note_and_join)

    def _copy(self) -> None:
        self.begun.set()
        self._awaited.wait(PATIENCE_S)
        self._root.mkdir(exist_ok=True)
        (self._root / "copied").touch()
        self.ended.set()
