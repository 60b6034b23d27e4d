"""A server that compacts what was written to its index by itself: a child process of its own, when that is worth it."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from shoal.cli.errors import REFUSED
from shoal.cli.options import to_arguments
from shoal.index_root import versions
from shoal.index_root.log import Log
from shoal.index_root.storage import Storage
from shoal.indexing.backlog import Backlog
from shoal.serving.index_name import index_name
from shoal.settings import CompactSettings, RunSettings

logger = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 60.0, 6 * 3600.0
"""Seconds before a compaction that failed is tried again: the first time, doubled each time, and at most."""
BUSY_S = 300.0
"""Seconds without a write after which a compaction in staging is taken over from whoever has begun it."""
END_S = 10.0
"""Seconds within which a child that was told to end has to."""


class Compaction(Protocol):
    """A compaction that was started."""

    def outcome(self) -> int | None:
        """Its exit code; None while it runs."""
        ...

    def last_line(self) -> str:
        """The last line that it said."""
        ...

    def end(self) -> None:
        """End it, and wait until it is gone. The next one goes on where it was."""
        ...


class Compacting:
    """Starts compactions when they are due, one at a time, and tries those again that failed. Looks in any thread.

    Args:
        due: Says why a compaction is worth it now; None if it is not.
        busy: Whether a process is at it; asked only while none that was started here has failed, which looks like it.
        start: Starts one.
        say: Takes a line for whoever reads the server's log.
        clock: Seconds from any start.
    """

    def __init__(
        self,
        due: Callable[[], str | None],
        busy: Callable[[], bool],
        start: Callable[[], Compaction],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._due = due
        self._busy = busy
        self._start = start
        self._say = say
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = False
        self._running: Compaction | None = None
        self._failures = 0
        self._next_try = 0.0
        self.problem: str | None = None
        """Why what was written is not compacted although it should be; None if nothing keeps it."""

    def look(self) -> None:
        """Look once whether something is to be done. Never raises: what goes wrong is the `problem`."""
        with self._lock:
            if self._closed or self._is_running():
                return
            try:
                due = self._due()
                if due is None:
                    self._failures, self.problem = 0, None
                elif self._clock() >= self._next_try if self._failures else not self._busy():
                    self._say(f"compacting what was written: {due}")
                    self._running = self._start()
            except Exception as error:
                self._fail(str(error))

    @property
    def is_running(self) -> bool:
        """Whether a compaction was started whose end nobody has looked at."""
        return self._running is not None

    def still_runs(self) -> bool:
        """Whether a compaction runs that was started; notes how one has ended, and starts none."""
        with self._lock:
            return self._is_running()

    def _is_running(self) -> bool:
        if self._running is None:
            return False
        outcome = self._running.outcome()
        if outcome is None:
            return True
        last_line, self._running = self._running.last_line(), None
        if outcome == REFUSED:
            self._refuse(last_line)
        elif outcome:
            self._fail(last_line or f"it ended with {outcome}")
        else:
            self._failures, self.problem = 0, None
        return False

    def _refuse(self, reason: str) -> None:
        """Note that a version did not pass its gate. The next child looks itself when another one is worth it."""
        self._wait()
        self.problem = f"what was written is not compacted: {reason}; searches go on, and nothing written is lost"
        self._say(self.problem)

    def _wait(self) -> float:
        """Put off the next try; returns by how many seconds."""
        wait_s: float = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**self._failures)
        self._failures += 1
        self._next_try = self._clock() + wait_s
        return wait_s

    def _fail(self, reason: str) -> None:
        wait_s = self._wait()
        self.problem = f"what was written cannot be compacted ({reason}); searches go on, and it is tried again"
        self._say(f"{self.problem} in {wait_s:.0f} s")

    def close(self) -> None:
        """End what runs, and start nothing any more."""
        with self._lock:
            self._closed = True
            if self._running is not None:
                self._running.end()
                self._running = None


class ChildCompaction:
    """A child process that compacts, by `serve.versions.compacting_child`.

    Args:
        arguments: Of `shoal compact`.
        say: Hears each line of its output.
    """

    def __init__(self, arguments: list[str], say: Callable[[str], None]) -> None:
        self._say = say
        self._last_line = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "serve.versions.compacting_child", *arguments],
            stdin=subprocess.PIPE,  # closes when this process ends, however it does, and ends the child
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is meant for the server
        )
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def outcome(self) -> int | None:
        """Its exit code; None while it runs."""
        outcome = self._process.poll()
        if outcome is not None:
            self._listening.join()
        return outcome

    def last_line(self) -> str:
        """The last line that it said."""
        return self._last_line

    def end(self) -> None:
        """Kill it, which loses nothing: the next one goes on where it was."""
        self._process.kill()
        self._process.wait(END_S)
        self._listening.join(END_S)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if text := line.strip():
                    self._last_line = text.removeprefix("error: ")
                    self._say(text)


def due_compaction(settings: RunSettings) -> Callable[[], str | None]:
    """What says why a compaction of the index is worth it now; None if it is not."""
    storage, backlog = Storage(settings.index), Backlog()

    def due() -> str | None:
        backlog.follow(versions.current_manifest(storage), Log.open(storage))
        return backlog.due(settings)

    return due


def is_busy(settings: RunSettings) -> bool:
    """Whether some process compacts the index."""
    from shoal.indexing.compaction import is_under_way  # what a server on Ray does without

    storage = Storage(settings.index)
    return is_under_way(storage, versions.current_manifest(storage), BUSY_S)


class Compactor:
    """Compacts several indexes, one after another: each looks by itself whether something is to be done.

    The one that was compacted longest ago looks first, so that one that is always due keeps no other waiting.

    Args:
        make: Makes what looks after an index root.
        roots: Gives the index roots that are looked after now; what was begun for others is finished.
    """

    def __init__(self, make: Callable[[str], Compacting], roots: Callable[[], Sequence[str]]) -> None:
        self._make = make
        self._roots = roots
        self._lock = threading.Lock()
        self._lookers: dict[str, Compacting] = {}
        self._turns: dict[str, int] = {}
        self._closed = False

    def look(self) -> None:
        """Look once. While a compaction runs, only whether it has ended."""
        with self._lock:
            if self._closed:
                return
            if any(looker.still_runs() for looker in self._lookers.values()):
                return
            roots = sorted(self._roots(), key=lambda root: self._turns.get(root, 0))
            self._lookers = {root: self._lookers.get(root) or self._make(root) for root in roots}
            self._turns = {root: turn for root, turn in self._turns.items() if root in self._lookers}
            for root, looker in self._lookers.items():
                looker.look()
                if looker.is_running:
                    self._turns[root] = 1 + max(self._turns.values(), default=0)
                    return

    def running(self) -> list[str]:
        """The index roots of which a compaction runs that was started."""
        return [root for root, looker in list(self._lookers.items()) if looker.is_running]

    def problem(self, root: str) -> str | None:
        """Say what keeps an index from being compacted; None if nothing does, or nobody looks after it."""
        looker = self._lookers.get(root)
        return None if looker is None else looker.problem

    def leave(self, root: str) -> None:
        """End what works on an index root."""
        with self._lock:
            if (looker := self._lookers.pop(root, None)) is not None:
                looker.close()

    def close(self) -> None:
        """End what runs, and begin nothing any more."""
        with self._lock:
            self._closed = True
            for looker in self._lookers.values():
                looker.close()


def make_compacting(settings: RunSettings, root: str, say: Callable[[str], None]) -> Compacting:
    """Make what compacts an index root by child processes when it is worth it."""
    of_root = settings.model_copy(update={"index": root})
    arguments = to_arguments(of_root.part(CompactSettings, if_due=True, threads=1))

    def say_of_root(line: str) -> None:
        say(f"{index_name(root)}: {line}" if settings.catalog or settings.further_indexes else line)

    return Compacting(
        due_compaction(of_root),
        lambda: is_busy(of_root),
        lambda: ChildCompaction(arguments, say_of_root),
        say_of_root,
    )


@contextmanager
def compacting(
    settings: RunSettings, roots: Callable[[], Sequence[str]], say: Callable[[str], None]
) -> Iterator[Compactor]:
    """Compact indexes by themselves until the end of the block, unless that is turned off.

    Args:
        settings: Of the server.
        roots: Gives, in any thread, the index roots that are looked after.
        say: Takes a line for whoever reads the server's log; in any thread.

    Yields what says of each why it cannot be done.
    """
    compactor = Compactor(lambda root: make_compacting(settings, root, say), roots)
    if not settings.compact:
        yield compactor
        return
    ending = threading.Event()

    def watch() -> None:
        while not ending.wait(settings.compact_check_s):
            compactor.look()

    thread = threading.Thread(target=watch, name="compacting", daemon=True)
    thread.start()
    try:
        yield compactor
    finally:
        ending.set()
        compactor.close()
