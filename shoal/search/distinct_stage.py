"""The stage of a search for different groups, or texts: stage one looks deeper until there are enough of them."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from shoal.errors import DeadlineExceeded, Overloaded, Unavailable
from shoal.records import AnswerShape
from shoal.search.state import SearchState

GROWTH = 4
"""By how much the window grows where it has held too few groups."""


async def make_distinct(
    search: SearchState,
    retrieve: Callable[[SearchState], Awaitable[None]],
    share_of: Callable[[float], float],
    max_window: int,
) -> None:
    """Keep different candidates; those of a larger window while there are too few groups, or texts, among them.

    Args:
        search: With its candidates.
        retrieve: Asks the shards for those of the window of the search's plan.
        share_of: The part of the time until a deadline that one call to the shards may take.
        max_window: Where the window stops to grow.
    """
    if (distinct := search.distinct) is None:
        return
    request, trace = search.request, search.trace
    wanted = request.top_n if request.shape.group_by else search.plan.depth
    while True:
        with trace.stage("retrieve"):
            candidates, missing = await distinct.look_up(search.candidates, share_of(request.deadline))
        left_out = request.passage_id is not None  # of the window, though it may not have been in it
        seen_all = len(search.candidates) + left_out < search.plan.window
        if seen_all or distinct.count(candidates) >= wanted:
            break
        if search.plan.window >= max_window:
            trace.warnings.append(_too_few(request.shape, max_window))
            break
        plan = search.plan
        search.plan = replace(plan, window=min(GROWTH * plan.window, max_window))
        try:
            await retrieve(search)
        except (DeadlineExceeded, Overloaded, Unavailable) as error:
            search.plan = plan
            trace.degrade("groups", f"there may be more groups: {error.message}")
            break
    trace.missing |= missing
    if request.shape.group_by and search.plan.second_stage == "none":
        search.candidates = distinct.members(candidates, request.top_n)
    else:
        search.candidates = distinct.choose(candidates, request.top_n, search.plan.depth)


def _too_few(shape: AnswerShape, window: int) -> str:
    """Say that so many passages did not hold as many groups, or texts, as were asked for."""
    what = "groups" if shape.group_by else "different texts"
    return (
        f"the first {window:,} passages were looked at and hold fewer {what} than were asked for; there may be more "
        "(--max-group-window)"
    )
