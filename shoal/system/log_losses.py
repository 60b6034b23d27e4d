"""What becomes of log lines that cannot be written, as on a full disk: they are counted, and nothing else suffers.

Python's logging writes a stack trace to stderr for each of them, which in a replica of Serve is a log line of its own.
"""

import logging
import sys
from contextlib import suppress
from threading import Lock

from shoal.system.terminal import printable


class LogLosses:
    """Counts the log lines of this process that could not be written, until a line that says so has been."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = 0
        self._reason = ""

    @property
    def count(self) -> int:
        """Lines that could not be written since the last report that could."""
        return self._count

    def add(self, reason: str) -> None:
        """Count a line."""
        with self._lock:
            self._count += 1
            self._reason = reason

    def report(self, logger: logging.Logger) -> None:
        """Log how many lines were lost, if there are any; they count until that line itself has been written."""
        count, reason = self._count, self._reason
        if not count:
            return
        logger.warning("up to %d log lines were lost: they could not be written (%s)", count, reason)
        for handler in logger.handlers:
            with suppress(OSError):
                handler.flush()
        with self._lock:
            # One more: this line was lost as well, and is tried again.
            self._count -= count if self._count == count else 1


LOSSES = LogLosses()
"""Those of this process."""
_explain = logging.Handler.handleError


def tolerate() -> None:
    """Count lines that meet a disk that does not take them; what else goes wrong with a line is explained as before."""
    logging.Handler.handleError = _handle_error  # type: ignore[method-assign]


def _handle_error(self: logging.Handler, record: logging.LogRecord) -> None:
    error = sys.exc_info()[1]
    if isinstance(error, OSError):
        LOSSES.add(printable(error.strerror or str(error)))
    else:
        _explain(self, record)
