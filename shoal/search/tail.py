"""Follows the log of an index, so that what is written becomes visible.

Pull is the truth: the tail looks for entries by itself. Push is speed: who knows of an entry lets it look at once.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

from shoal.errors import DeadlineExceeded, ShoalError, Unavailable
from shoal.index_root.log_entry import LogEntry

logger = logging.getLogger(__name__)
A = TypeVar("A")
R = TypeVar("R")

POLL_LOCAL_S, POLL_REMOTE_S = 0.05, 0.25
"""Seconds between two looks for entries on a disk, and in an object store."""
IDLE_S = 1.0
"""The same as long as there is no entry at all: most indexes are never written to."""
FAILED_S = 1.0
"""Seconds until the next look after one that failed."""


class Tail:
    """Looks for entries behind a position and applies them. Belongs to one event loop.

    Args:
        read: Reads entries behind a position, in order; none if there are no more yet. Called in a thread.
        apply: Applies entries. Called in a thread, never twice at once.
        position: Up to which all is applied.
        poll_s: Seconds between two looks.
        idle_s: The same as long as the log has no entry at all.
        clock: Seconds, that of deadlines.
    """

    def __init__(
        self,
        read: Callable[[int], Sequence[LogEntry]],
        apply: Callable[[Sequence[LogEntry]], None],
        position: int,
        *,
        poll_s: float,
        idle_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._apply = apply
        self.position = position
        """The position up to which all entries are applied."""
        self.problem: str | None = None
        """Why no more entries can be applied; None if nothing keeps them."""
        self._poll_s = poll_s
        self._idle_s = idle_s
        self._clock = clock
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._started = self._finished = 0
        self._failure: Exception | None = None

    async def run(self) -> None:
        """Look until cancelled. Never raises: what goes wrong is the `problem`, and is tried again."""
        while True:
            self._wake.clear()
            self._started += 1
            await self._look()
            self._finished = self._started
            self._tell()
            pause = FAILED_S if self._failure else self._poll_s if self.position else self._idle_s
            with suppress(TimeoutError):
                # Not `wait_for`, in which Python 3.11 loses a cancellation that comes together with the event.
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    def advance(self, position: int) -> None:
        """Look at once, unless all entries up to a position are applied."""
        if position > self.position:
            self._wake.set()

    async def reach(self, position: int, deadline: float) -> None:
        """Wait until all entries up to a position are applied. Raises DeadlineExceeded."""
        self.advance(position)
        while self.position < position:
            if not await self._changes(deadline):
                reason = f" ({self.problem})" if self.problem else ""
                raise DeadlineExceeded(
                    f"position {position} of the log is not reached yet, only {self.position}{reason}"
                )

    async def catch_up(self, deadline: float) -> int:
        """Wait until all is applied that was written before this call; returns the position.

        Raises DeadlineExceeded when the deadline passes before, and Unavailable when the log cannot be read.
        """
        wanted = self._started + 1
        self._wake.set()
        while self._finished < wanted:
            if not await self._changes(deadline):
                raise DeadlineExceeded(f"the end of the log is not reached yet, only position {self.position}")
        if self._failure is not None:
            raise Unavailable(f"the log cannot be read ({self._failure}); ask without consistency, or try again later")
        return self.position

    def replay(self) -> None:
        """Apply all entries that there are, in this thread, before `run`. Never raises; see `problem`."""
        with self._noting_failure():
            while entries := self._read(self.position):
                self._apply(entries)
                self.position = entries[-1].position

    async def _look(self) -> None:
        with self._noting_failure():
            while entries := await _in_thread(self._read, self.position):
                await _in_thread(self._apply, entries)
                self.position = entries[-1].position
                self._tell()

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._failure = error
            problem = f"the log cannot be followed beyond position {self.position}: {error}"
            if problem != self.problem:
                logger.error("%s", problem, exc_info=not isinstance(error, ShoalError))
            self.problem = problem
        else:
            self._failure = self.problem = None

    async def _changes(self, deadline: float) -> bool:
        """Wait for the next change; False when the deadline passes before."""
        changed = self._changed
        try:
            async with asyncio.timeout(deadline - self._clock()):
                await changed.wait()
        except TimeoutError:
            return False
        return True

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _in_thread(work: Callable[[A], R], argument: A) -> "asyncio.Future[R]":
    """Start `work` in a thread. Raises CancelledError where none takes it any more, as the process is ending."""
    try:
        return asyncio.get_running_loop().run_in_executor(None, work, argument)
    except RuntimeError:
        raise asyncio.CancelledError from None
