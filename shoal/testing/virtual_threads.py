"""Threads of which one runs at a time, in an order and at a time that a seed decides: races that come again"""

import random
import threading
from collections.abc import Callable


class Killed(BaseException):
    """Ends a thread that was killed, wherever it is; no `except Exception` holds it back."""


class _Thread:
    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.name = name
        self.work = work
        self.may_run = threading.Event()
        self.wakes_at = 0.0
        self.killed = False
        self.done = False


class VirtualThreads:
    """Runs threads one at a time; each runs until it calls `switch` or `sleep`. Time passes only while all sleep.

    Args:
        seed: Decides which thread goes on at each switch.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 (nothing is secret)
        self._threads: list[_Thread] = []
        self._current: _Thread | None = None
        self._back = threading.Event()
        self._now = 0.0
        self._errors: list[BaseException] = []

    def clock(self) -> float:
        """Seconds since the beginning."""
        return self._now

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Add a thread, which runs from the next switch on; it may be called from another one."""
        thread = _Thread(name, work)
        thread.wakes_at = self._now
        self._threads.append(thread)
        threading.Thread(target=self._run, args=(thread,), name=name, daemon=True).start()

    def kill(self, name: str) -> None:
        """End a thread where it stands, as SIGKILL ends a process; it notices when it would go on."""
        for thread in self._threads:
            if thread.name == name:
                thread.killed, thread.wakes_at = True, self._now

    def switch(self) -> None:
        """Let any thread go on, perhaps this one."""
        self.sleep(0.0)

    def sleep(self, seconds: float) -> None:
        """Let others go on for so long. Outside of these threads nothing happens."""
        thread = self._current
        if thread is None or threading.current_thread().name != thread.name:
            return
        thread.wakes_at = self._now + seconds
        self._hand_back(thread)
        if thread.killed:
            raise Killed

    def run(self) -> None:
        """Run all threads until they have ended. Raises what one of them raised first."""
        while living := [thread for thread in self._threads if not thread.done]:
            ready = [thread for thread in living if thread.wakes_at <= self._now]
            if not ready:
                self._now = min(thread.wakes_at for thread in living)
                continue
            self._current = self.random.choice(ready)
            self._back.clear()
            self._current.may_run.set()
            self._back.wait()
            self._current = None
            if self._errors:  # what the others wait for may never come
                for thread in living:
                    thread.killed, thread.wakes_at = True, self._now
        if self._errors:
            raise self._errors[0]

    def _run(self, thread: _Thread) -> None:
        thread.may_run.wait()
        thread.may_run.clear()
        try:
            if not thread.killed:
                thread.work()
        except Killed:
            pass
        except BaseException as error:
            self._errors.append(error)
        thread.done = True
        self._back.set()

    def _hand_back(self, thread: _Thread) -> None:
        self._back.set()
        thread.may_run.wait()
        thread.may_run.clear()
