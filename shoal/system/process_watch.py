"""Tells at once when a process ends that this one cannot do without: on Linux, elsewhere nothing is noticed."""

import os
import select
from collections.abc import Mapping

from shoal.errors import Unavailable

SIGNAL_MS = 200
"""Milliseconds that a signal to stop may come later than the end of a process that got it as well."""


class ProcessWatch:
    """Waits, and notices the end of the processes that it was given, whoever is their parent.

    Attributes:
        ended: Name of the process that was seen to have ended, None as long as all of them run.
    """

    def __init__(self, processes: Mapping[int, str]) -> None:
        """`processes`: what people call each of them, by process id."""
        self.ended: str | None = None
        self._names: dict[int, str] = {}
        for pid, name in processes.items():
            self._add(pid, name)

    def wait(self, seconds: float) -> None:
        """Wait so long. Raises Unavailable as soon as one of the processes has ended, also if it had before."""
        if self.ended is None and (events := self._poller().poll(1000 * seconds)):
            # Whoever stops all processes at once, as systemd does, sends this one a signal too, which comes first.
            select.poll().poll(SIGNAL_MS)
            self.ended = self._names[events[0][0]]
        if self.ended is not None:
            raise Unavailable(f"{self.ended} has ended, without which nothing works here; start again")

    def close(self) -> None:
        """Let go of the processes; nothing is noticed any more."""
        while self._names:
            os.close(self._names.popitem()[0])

    def _poller(self) -> select.poll:
        """One of its own for each wait, because threads may wait beside each other."""
        poller = select.poll()
        for descriptor in self._names:
            poller.register(descriptor, select.POLLIN)
        return poller

    def _add(self, pid: int, name: str) -> None:
        if not hasattr(os, "pidfd_open"):
            return
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self.ended = name
        except OSError:
            return  # a kernel, or a sandbox, that knows no such descriptors
        else:
            self._names[descriptor] = name
