"""The span of a search, and what it says; texts of queries only where the owner of the server wants them."""

from collections.abc import Awaitable, Callable
from typing import Concatenate, ParamSpec

from shoal.records import SearchAnswer, SearchRequest
from shoal.search.encode_stage import EncodedQuery
from shoal.system import spans
from shoal.system.spans import Attributes

P = ParamSpec("P")
MAX_QUERY_CHARACTERS = 200
"""Characters of a query that a span repeats."""


def traced_search(
    search: Callable[Concatenate[SearchRequest, P], Awaitable[SearchAnswer]], with_query: bool
) -> Callable[Concatenate[SearchRequest, P], Awaitable[SearchAnswer]]:
    """Make a search whose span tells what was asked for and what came of it.

    Args:
        search: Answers a request.
        with_query: Whether the span holds the text of the query.
    """

    async def answer(request: SearchRequest, /, *args: P.args, **options: P.kwargs) -> SearchAnswer:
        with spans.work("search", asked_attributes(request, with_query)) as work:
            answered = await search(request, *args, **options)
            work.describe(lambda: answer_attributes(answered))
            return answered

    return answer


def asked_attributes(request: SearchRequest, with_query: bool) -> Attributes:
    """Return what was asked for; with the text of the query if it is wanted."""
    asked: dict[str, str | bool | int] = {
        "shoal.top_k": request.top_k,
        "shoal.top_n": request.top_n,
        "shoal.filtered": bool(request.filter),
        "shoal.query_characters": len(request.query),
    }
    if with_query:
        asked["shoal.query"] = request.query[:MAX_QUERY_CHARACTERS]
    return asked


def encoded_attributes(encoded: EncodedQuery, arrived: float) -> Attributes:
    """Return how long a query waited for the encoder, in milliseconds, and how many were encoded together."""
    return {"shoal.queue_ms": 1000 * (encoded.started - arrived), "shoal.batch": encoded.batch}


def answer_attributes(answer: SearchAnswer) -> Attributes:
    """Return how an answer came about: version, mode, what it covers and lacks."""
    coverage = answer.coverage
    return {
        "shoal.index_version": answer.index_version,
        "shoal.mode": answer.mode,
        "shoal.results": len(answer.results),
        "shoal.reranked": answer.reranked,
        "shoal.pairs": answer.pairs,
        "shoal.shards": coverage.shards,
        "shoal.shards_answered": coverage.answered,
        "shoal.coverage": coverage.fraction,
        "shoal.degraded": list(answer.degradations),
    }
