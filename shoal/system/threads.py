"""Blocking work off an event loop."""

import asyncio
import resource
import sys
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
"""Calls of one kind whose pace is known before the next one is done in the thread of the event loop."""
FASTER, SLOWER = 0.3, 0.05
"""Weights of the latest call in what is known of the pace of its kind: of a faster one than usual, and of a slower one,
which says less. Where others compute, a core does the same in twice the time now and then."""
BLOCKED_S = 0.005
"""Seconds for which work has kept the event loop waiting, after which it is looked whether it has read from a disk; if
so, it goes to other threads again. On a busy machine it more often waited for a core."""

WARM_UP = "what a first request would otherwise wait for: " * 8
"""A text of some eighty words; the first pass through a model takes a second longer than the next ones."""


_here = threading.local()
_THREAD = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
"""Whose page faults are counted: those of the thread, or of the process where the system does not tell them apart."""


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

    async def run_briefly(self, paces: "Paces", kind: Hashable, size: int, deadline: float, work: Callable[[], T]) -> T:
        """Run `work` as `run` does, or at once in this very thread where it is known to be short.

        Args:
            paces: What is known of such work.
            kind: Of the work; calls of one kind take as long as their sizes say.
            size: Of this call, in any unit.
            deadline: As for `run`.
            work: What is done.
        """

        if size > paces.short_size(kind) or time.monotonic() >= deadline:
            return await self.run(deadline, paces.timed, kind, size, work)
        return paces.in_loop(kind, size, work)

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
        """Calls, and the seconds of a core that a unit of their sizes takes, the latest ones for the most part."""
        self._disk_reads = _disk_reads()

    def short_size(self, kind: Hashable) -> int:
        """The greatest size of a call that takes at most SHORT_S; 0 where not even 1 is known to."""
        calls, unit_s = self._known.get(kind, (0, 0.0))
        if calls < SEEN_SHORT:
            return 0
        return int(SHORT_S / unit_s) if unit_s else sys.maxsize

    def timed(self, kind: Hashable, size: int, work: Callable[[], T]) -> T:
        """Do work, and note how long it took."""
        started = time.thread_time()  # without what it waits for, which in another thread is mostly Python's lock
        try:
            return work()
        finally:
            self.took(kind, size, time.thread_time() - started)

    def in_loop(self, kind: Hashable, size: int, work: Callable[[], T]) -> T:
        """Do work as `timed` does, in the thread of the event loop; begin anew with its kind where it read a disk."""
        started = time.perf_counter()
        try:
            return self.timed(kind, size, work)
        finally:
            if time.perf_counter() - started > BLOCKED_S and (reads := _disk_reads()) != self._disk_reads:
                self._disk_reads = reads
                self.forget(kind)

    def took(self, kind: Hashable, size: int, seconds: float) -> None:
        """Note a call of a size that took so many seconds of a core."""
        unit_s = seconds / size
        calls, usual_s = self._known.get(kind, (0, unit_s))
        weight = FASTER if unit_s < usual_s else SLOWER
        self._known[kind] = calls + 1, usual_s + weight * (unit_s - usual_s)

    def forget(self, kind: Hashable) -> None:
        """Begin anew with a kind."""
        self._known.pop(kind, None)


def _disk_reads() -> int:
    """How often this thread has waited for pages of mapped files to be read from a disk."""
    return resource.getrusage(_THREAD).ru_majflt
