"""Blocking work off an event loop."""

import asyncio
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from shoal.errors import DeadlineExceeded

T = TypeVar("T")

SHORT_S = 0.0005
"""Seconds of a core up to which work is done in the thread of the event loop: to hand it to another one takes a tenth
of a millisecond, and much longer where that has to wait for Python's lock."""
SEEN_SHORT = 20
"""Calls of one kind that must have been short before the next one is done in the thread of the event loop."""
LEARNING = 0.1
"""Weight of the latest call in what is known of the pace of its kind."""
BLOCKED_S = 0.005
"""Seconds for which work has kept the event loop waiting, as for a disk, after which it goes to other threads again."""

WARM_UP = "what a first request would otherwise wait for: " * 8
"""A text of some eighty words; the first pass through a model takes a second longer than the next ones."""


_here = threading.local()


def seconds_left(most: float) -> float:
    """Seconds until the deadline of what `Threads.run` does in this thread; `most` if there is none, or a later one."""
    deadline: float | None = getattr(_here, "deadline", None)
    return most if deadline is None else min(most, deadline - time.monotonic())


class Threads:
    """Runs blocking work off the event loop."""

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._name = name

    async def run(self, deadline: float, work: Callable[..., T], *args: Any) -> T:
        """Run `work(*args)` in a thread. Raises DeadlineExceeded at the deadline; what waits by then is never begun."""
        late = DeadlineExceeded(f"the deadline passed before the {self._name} had answered; allow more time")

        def guarded() -> T:
            if time.monotonic() >= deadline:
                raise late
            _here.deadline = deadline  # for work that waits and does not compute; nobody waits for it any longer
            try:
                return work(*args)
            finally:
                _here.deadline = None

        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await asyncio.get_running_loop().run_in_executor(self._pool, guarded)
        except TimeoutError:
            raise late from None

    async def run_briefly(
        self, paces: "Paces", kind: Hashable, size: int, deadline: float, work: Callable[..., T], *args: Any
    ) -> T:
        """Run `work(*args)` as `run` does, or at once in this very thread where it is known to be short.

        Args:
            paces: What is known of such work.
            kind: Of the work; calls of one kind take as long as their sizes say.
            size: Of this call, in any unit.
            deadline: As for `run`.
            work: What is done.
            args: For it.
        """

        def timed() -> T:
            started = time.thread_time()  # without what it waits for, which in another thread is mostly Python's lock
            try:
                return work(*args)
            finally:
                paces.took(kind, size, time.thread_time() - started)

        if not paces.is_short(kind, size) or time.monotonic() >= deadline:
            return await self.run(deadline, timed)
        started = time.perf_counter()
        try:
            return timed()
        finally:
            if time.perf_counter() - started > BLOCKED_S:
                paces.forget(kind)

    def begin(self, work: Callable[..., T], *args: Any) -> "Future[T]":
        """Begin `work(*args)` in a thread, for which nobody waits."""
        return self._pool.submit(work, *args)

    def wait(self, work: Callable[..., Any], *args: Any) -> None:
        """Run `work(*args)` in a thread and wait: to warm up, because what torch prepares is kept for each thread."""
        self._pool.submit(work, *args).result()

    def close(self) -> None:
        """Take no more work, and end the threads once they have done what they do now; what waits is never begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        """Wait until the threads have ended, once they were told so by `close`."""
        self._pool.shutdown(wait=True)


class Paces:
    """How long work takes, by its kind, of which there are few. Safe for concurrent calls."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[int, float]] = {}
        """Short calls in a row, and the seconds of a core that a unit of their sizes takes."""

    def is_short(self, kind: Hashable, size: int) -> bool:
        """Whether a call of such a size takes at most SHORT_S, by SEEN_SHORT calls of its kind or more."""
        calls, unit_s = self._known.get(kind, (0, 0.0))
        return calls >= SEEN_SHORT and size * unit_s <= SHORT_S

    def took(self, kind: Hashable, size: int, seconds: float) -> None:
        """Note a call of a size that took so many seconds of a core."""
        unit_s = seconds / size
        if unit_s > SHORT_S:
            self.forget(kind)
            return
        calls, usual_s = self._known.get(kind, (0, unit_s))
        self._known[kind] = calls + 1, usual_s + LEARNING * (unit_s - usual_s)

    def forget(self, kind: Hashable) -> None:
        """Begin anew with a kind."""
        self._known.pop(kind, None)
