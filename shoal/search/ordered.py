"""Passages in the order of a metadata field instead of by a query: every shard orders its own."""

from collections.abc import Callable

from shoal.errors import DeadlineExceeded, Unavailable
from shoal.filters import conditions
from shoal.records import Candidate, OrderBy, RowRef
from shoal.search.state import SearchState
from shoal.search.trace import describe
from shoal.shard.order import OrderRows, in_order


async def retrieve_ordered(search: SearchState, order_by: OrderBy, share_of: Callable[[float], float]) -> None:
    """Let the shards put what the filter lets through by a field, and merge what comes first.

    Raises DeadlineExceeded or Unavailable when no shard answered.
    """
    request, plan, trace = search.request, search.plan, search.trace
    after = None if plan.after is None else (plan.after.key, plan.after.id)
    question = OrderRows(order_by.field, order_by.descending, plan.filter, request.top_n + 1, after)
    with trace.stage("retrieve"):
        answers, missing = await search.fan_out.ask_all(question, share_of(request.deadline))
        trace.missing |= missing
    if not answers:
        if set(missing.values()) == {"deadline"}:
            raise DeadlineExceeded("no shard answered within the deadline; allow more time")
        raise Unavailable(f"no shard answered ({describe(missing)}); try again", retry_after_s=1)
    with trace.stage("merge"):
        shard_of = {row.id: shard for shard, rows in answers.items() for row in rows}
        ordered = in_order([row for rows in answers.values() for row in rows], order_by.descending)
        seen = plan.after.count if plan.after else 0
        search.candidates = [
            Candidate(row.id, 0.0, rank, RowRef(shard_of[row.id], row.row))
            for rank, row in enumerate(ordered[: request.top_n], seen + 1)
        ]
        search.order_values = {row.id: row.value for row in ordered[: request.top_n]}
        search.has_more = len(ordered) > request.top_n
    if not ordered and plan.filter is not None and after is None:
        asked = conditions(plan.filter)
        trace.warnings.append(
            "no passage fulfils the filter" if asked is not None else "this namespace holds no passage"
        )
