"""Stopping in good order: signals become one exception, and every process that came of this one is ended (Linux)."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

KILL_S = 20.0
"""Seconds within which every descendant shall have ended that was killed."""
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a process to stop: Ctrl-C, `kill`, and the end of its terminal."""
_PR_SET_CHILD_SUBREAPER = 36
"""The number of this option of prctl(2)."""


def hold_signals() -> None:
    """Make STOPS wait until `stop_on_signals`. A program that this process turns into inherits that."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)


def stop_on_signals() -> None:
    """Raise KeyboardInterrupt in the main thread on the first of STOPS; what follows it never interrupts the stopping.

    No other exception ends a wait inside Ray at once, or at all. Call it again where a library has put its own handlers
    in place. Under nohup the end of the terminal stays without effect.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        ignore_signals()
        raise KeyboardInterrupt

    for number in STOPS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def ignore_signals() -> None:
    """Let nothing interrupt what follows: the stopping."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none escapes `kill_descendants`."""
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def descendants(pid: int) -> list[int]:
    """Process ids of everything below `pid`, read from /proc; empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # pid (command, which may hold spaces and parentheses) state parent ...
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # it ended while we looked
        children.setdefault(parent, []).append(int(entry.parent.name))
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for parent in level for child in children.get(parent, [])]
        found += level
    return found


def kill_descendants(timeout_s: float = KILL_S) -> None:
    """SIGKILL all descendants of this process, and theirs as they surface, until there are none or the time is up."""
    deadline = time.monotonic() + timeout_s
    while (remaining := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in remaining:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            continue
        time.sleep(0.02)
