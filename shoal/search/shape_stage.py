"""The last step of a search: which of the ordered results an answer holds."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shoal.errors import InvalidArgument
from shoal.namespaces import own_id
from shoal.records import Group, Result
from shoal.search.diversity import most_different
from shoal.search.highlight_stage import HighlightStage
from shoal.search.pages import next_cursor
from shoal.search.state import SearchState
from shoal.search.trace import describe


async def shape_results(search: SearchState, results: list[Result], highlighting: HighlightStage) -> list[Result]:
    """Choose among results, best first, those of the answer; name their groups and best sentences where asked to.

    Args:
        search: With its candidates.
        results: Best first.
        highlighting: Finds the best sentences.

    Raises InvalidArgument for diversity where the index kind has no vectors to give.
    """
    results = await _chosen(search, results)
    if search.request.shape.highlight and results:
        results = await highlighting.highlighted(search, results)
    return results


def next_page(search: SearchState, results: Sequence[Result]) -> str | None:
    """Return the cursor of the page behind these results; None where there is none, and for an answer without pages."""
    request, plan = search.request, search.plan
    if plan.second_stage != "none" or request.shape.needs_all or (plan.is_ordered and not search.has_more):
        return None
    version, values = plan.version.name, search.order_values
    return next_cursor(request, version, plan.mode, plan.after, results, plan.last_place, values)


def with_own_ids(results: list[Result], namespace: str) -> list[Result]:
    """Return results whose ids are those that clients of a namespace see."""
    if not namespace:
        return results
    ids = [own_id(result.id) for result in results]
    return [
        replace(result, id=id_, passage=replace(result.passage, id=id_))
        for id_, result in zip(ids, results, strict=True)
    ]


async def _chosen(search: SearchState, results: list[Result]) -> list[Result]:
    shape, top_n = search.request.shape, search.request.top_n
    if shape.min_score is not None:
        results = _above(search, results, shape.min_score)
    if shape.diversity:
        results = await _diverse(search, results, top_n, shape.diversity)
    if search.distinct is not None and shape.group_by is not None:
        positions = search.distinct.group([result.id for result in results], top_n)
        groups = [(results[position], search.distinct.value(results[position].id)) for position in positions]
        return [replace(result, group=Group(value)) for result, value in groups]
    return results[:top_n]


def _above(search: SearchState, results: Sequence[Result], min_score: float) -> list[Result]:
    if search.plan.second_stage != "none" and search.scores is None:
        search.trace.warnings.append("min_score was not applied: it is meant for the scores of a reranked answer")
        return list(results)
    return [result for result in results if result.score >= min_score]


async def _diverse(search: SearchState, results: list[Result], count: int, diversity: float) -> list[Result]:
    """Choose results that differ, by the vectors of the index."""
    if not results:
        return results
    candidates = {candidate.id: candidate for candidate in search.candidates}
    wanted = [candidates[result.id] for result in results]
    try:
        fetched, missing = await search.fan_out.fetch(wanted, search.request.deadline, with_vectors=True)
    except InvalidArgument as error:
        raise InvalidArgument(f"diversity needs vectors: {error.message}", param="diversity") from None
    if missing:
        search.trace.degrade("diversity", f"some vectors are missing for diversity ({describe(missing)})")
    if not fetched:
        return results[:count]
    nothing = np.zeros_like(next(vector for _, vector in fetched.values() if vector is not None))
    known = (fetched.get(candidate.ref) for candidate in wanted)
    vectors = np.stack([nothing if entry is None or entry[1] is None else entry[1] for entry in known])
    scores = np.array([result.score for result in results], np.float32)
    return [results[position] for position in most_different(scores, vectors, count, diversity)]
