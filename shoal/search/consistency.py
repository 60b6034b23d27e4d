"""Which writes an answer has to have seen: what a request asks for, and until when it is waited for."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from shoal.errors import DeadlineExceeded
from shoal.records import SearchRequest

if TYPE_CHECKING:
    from shoal.search.live_index import LiveIndex
    from shoal.search.shard_client import ShardResult


async def with_positions(
    live: "LiveIndex | None", requests: Sequence[SearchRequest], share_of: Callable[[float], float]
) -> Sequence[SearchRequest]:
    """Wait until the coordinator has seen what requests ask for; returns them with the position that each has to see.

    Args:
        live: What it knows of the log; None where it follows none.
        requests: Those of one call.
        share_of: The part of the time until a deadline that may be waited.

    Raises:
        DeadlineExceeded: It had not by then.
        Unavailable: The end of the log is asked for, and the log cannot be read.
    """
    if not any(request.strong or request.min_position for request in requests):
        return requests
    if live is None:
        raise _nothing_followed()
    deadline = share_of(min(request.deadline for request in requests))
    if any(request.strong for request in requests):
        end = await live.tail.catch_up(deadline)
        requests = [
            replace(request, min_position=max(request.min_position, end)) if request.strong else request
            for request in requests
        ]
    await live.tail.reach(max(request.min_position for request in requests), deadline)
    return requests


async def see_position(live: "LiveIndex | None", position: int, deadline: float) -> None:
    """Wait until the coordinator has seen a position of the log, 0 for none. Raises DeadlineExceeded."""
    if not position:
        return
    if live is None:
        raise _nothing_followed()
    await live.tail.reach(position, deadline)


def _nothing_followed() -> DeadlineExceeded:
    return DeadlineExceeded(
        "no log is followed here, so that no position of it is ever reached; leave min_position out"
    )


def seen_position(live: "LiveIndex | None", results: "Iterable[ShardResult]") -> int | None:
    """The position up to which all shards of an answer have seen everything; None where nothing was written."""
    if live is None or live.position is None:
        return None
    return min((result.hits.position for result in results), default=0)
