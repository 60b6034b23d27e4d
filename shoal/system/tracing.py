"""For which requests a piece of work is done, so that every log line of it can say so.

The ids travel with the context of a task. Where one call serves the queries of several requests, it has all their ids.
"""

from contextvars import ContextVar

_REQUESTS: ContextVar[tuple[str, ...]] = ContextVar("shoal_requests", default=())
"""Ids of the requests that are worked on here."""
MOST = 32
"""Ids that one log line names."""


def requests() -> tuple[str, ...]:
    """Ids of the requests that the running code works for."""
    return _REQUESTS.get()


def work_for(*ids: tuple[str, ...]) -> None:
    """Let the running task work for these requests from now on, each given as what `requests` said where it came in."""
    _REQUESTS.set(tuple(dict.fromkeys(one for some in ids for one in some)))


def label() -> str:
    """The ids as one word, for log lines; empty outside of requests."""
    ids = requests()
    return ",".join(ids[:MOST]) + (",..." if len(ids) > MOST else "")


def fields() -> dict[str, str]:
    """The `extra` of a log call."""
    return {"request_id": text} if (text := label()) else {}
