"""Deadlines between processes, whose clocks differ: what is sent is the time that remains.

Within a process a deadline is a time of `time.monotonic`, which no correction of the system's clock changes and which
means nothing to another process.
"""

import time
from collections.abc import Callable
from typing import Any


class SentDeadline(float):
    """A deadline as an argument of a call to another process, where it arrives as one by the clock of that process.

    What remains is measured when the call is packed, after it has waited for a replica. The time of the way is lost,
    and the caller waits no longer than until its own deadline anyway.
    """

    def __reduce__(self) -> tuple[Callable[[float], float], tuple[Any, ...]]:
        """What arrives: the time that remains, from now on."""
        return received, (self - time.monotonic(),)


def received(remaining_s: float) -> float:
    """A deadline of which so many seconds remained when it arrived, by the clock of this process."""
    return time.monotonic() + remaining_s
