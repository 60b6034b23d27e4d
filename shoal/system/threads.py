"""Blocking work off an event loop."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from shoal.errors import DeadlineExceeded

T = TypeVar("T")

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
