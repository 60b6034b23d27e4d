"""Passages like another one: its vector is what is searched by, and itself it is no result."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from shoal.errors import NotFound, Unavailable
from shoal.namespaces import DEFAULT, check_namespace, qualified
from shoal.records import Candidate, FloatArray, SearchRequest
from shoal.search.fanout import FanOut
from shoal.search.lookup import fetch_passages
from shoal.search.trace import SearchTrace


async def given_vector(
    request: SearchRequest, fan_out: FanOut, trace: SearchTrace, share_of: Callable[[float], float]
) -> FloatArray | None:
    """Return the vector that a request brings or names, float32 (dim,), L2-normalised; None for that of its text.

    Raises as `vector_of_passage`.
    """
    if request.passage_id is None:
        return request.vector
    with trace.stage("encode"):
        return await vector_of_passage(fan_out, request.passage_id, request.deadline, share_of, request.namespace)


async def vector_of_passage(
    fan_out: FanOut,
    passage_id: str,
    deadline: float,
    share_of: Callable[[float], float],
    namespace: str = DEFAULT,
) -> FloatArray:
    """Return the vector of a passage, float32 (dim,), L2-normalised.

    Args:
        fan_out: Of the version.
        passage_id: Of the passage.
        deadline: By the clock.
        share_of: The part of the time until a deadline that one call to the shards may take.
        namespace: Of the passage.

    Raises:
        NotFound: There is no such passage.
        Unavailable: The shard that may hold it does not answer.
        DeadlineExceeded: No shard answered in time.
        InvalidArgument: The index kind has no vectors to give.
    """
    fetched = await fetch_passages(fan_out, [passage_id], deadline, True, share_of, namespace)
    for _, vector in fetched.passages:
        if vector is not None:
            length = np.linalg.norm(vector)  # what was rounded is not quite of length 1
            return np.asarray(vector / (length or 1), np.float32)
    if fetched.unknown:
        raise Unavailable("the shard that may hold the passage of this id does not answer; try again", retry_after_s=1)
    raise NotFound(f"version {fan_out.version.name} has no passage {passage_id!r}; see GET /v1/passages", param="id")


def leave_out(rankings: dict[str, list[Candidate]], request: SearchRequest) -> dict[str, list[Candidate]]:
    """Return rankings, by retriever, without the passage that a request names, if any; those behind it move up."""
    if request.passage_id is None:
        return rankings
    inner = qualified(check_namespace(request.namespace), request.passage_id)
    return {name: _without(name, ranking, inner) for name, ranking in rankings.items()}


def _without(name: str, ranking: list[Candidate], passage_id: str) -> list[Candidate]:
    kept = [candidate for candidate in ranking if candidate.id != passage_id]
    if len(kept) == len(ranking):
        return ranking
    return [
        replace(candidate, rank=rank, ranks={**candidate.ranks, name: rank}) for rank, candidate in enumerate(kept, 1)
    ]
