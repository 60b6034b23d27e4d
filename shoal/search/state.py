"""One search on its way through the stages of the pipeline."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shoal.filters import Value
from shoal.records import Candidate, FacetCount, FloatArray, SearchRequest, Spelling
from shoal.search.distinct import Distinct
from shoal.search.encode_stage import EncodedQuery
from shoal.search.facets import FacetCounting
from shoal.search.fanout import FanOut
from shoal.search.request_plan import FilterTrees, RequestPlan
from shoal.search.shard_client import ShardResult
from shoal.search.trace import SearchTrace


@dataclass(slots=True)
class SearchState:
    """What is known of a search; each stage adds what it found out.

    spelling: the query as it is searched and read.
    distinct: groups of passages and those with equal texts; None if neither was asked for.
    candidates: what is left of stage one, in its order.
    max_lexical_score: the highest BM25 score that a hybrid query has in the index.
    positions_to_fetch: positions of the candidates whose texts are needed; None for all.
    scores: float32 (n,), what the second stage gave the candidates; None if it did not.
    facets: counts of values by field; None if none were asked for.
    order_values: the values that candidates are put by, by their ids; None if they are put by a query.
    has_more: whether there are further passages behind those.
    """

    request: SearchRequest
    spelling: Spelling
    plan: RequestPlan
    fan_out: FanOut
    trace: SearchTrace
    encoded: EncodedQuery
    distinct: Distinct | None = None
    results: dict[int, ShardResult] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)
    max_lexical_score: float = 0.0
    positions_to_fetch: Sequence[int] | None = None
    scores: FloatArray | None = None
    facets: Mapping[str, list[FacetCount]] | None = None
    order_values: Mapping[str, Value | None] | None = None
    has_more: bool = False


@dataclass(frozen=True, slots=True)
class CallState:
    """What the queries of one call have in common.

    turns: for which they wait, so that a long list does not overrun the reranker's queue.
    """

    trees: FilterTrees
    facets: FacetCounting
    turns: asyncio.Semaphore
