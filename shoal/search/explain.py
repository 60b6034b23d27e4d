"""How an answer came about, for whoever asks with `explain`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shoal.modes import RETRIEVERS_OF
from shoal.namespaces import own_id
from shoal.records import Candidate, FloatArray, SearchRequest
from shoal.search.request_plan import RequestPlan
from shoal.search.shard_client import ShardResult

_SHOWN = RETRIEVERS_OF["hybrid"]
"""Retrievers that explanations always show, before others that a version has."""


def explain(
    request: SearchRequest,
    plan: RequestPlan,
    encoded_together: int,
    results: Mapping[int, ShardResult],
    missing: Mapping[int, str],
    candidates: Sequence[Candidate],
    rerank_scores: FloatArray | None,
) -> dict[str, Any]:
    """Tell the plan of a query, what each shard did for it, and its candidates, as JSON.

    Args:
        request: What was asked for.
        plan: How it was answered.
        encoded_together: Queries that were encoded in one call.
        results: What shards found, by their numbers.
        missing: Why others did not answer.
        candidates: N, as they were left in the end.
        rerank_scores: float32 (n,), what the second stage gave them; None if there was none.
    """
    shards = [_explain_shard(shard, result, plan) for shard, result in results.items() if shard not in missing]
    shards += [{"shard": shard, "missing": reason} for shard, reason in missing.items()]
    scores = [None] * len(candidates) if rerank_scores is None else rerank_scores.tolist()
    return {
        "plan": {
            "mode": plan.mode,
            **({"search": plan.search_params} if plan.search_params else {}),
            "candidates_per_shard": plan.window,
            "top_k": request.top_k,
            "top_n": request.top_n,
            "rerank": request.rerank,
            "encoded_together": encoded_together,
            **({"searched_by": "vector" if request.vector is not None else "id"} if request.brings_vector else {}),
        },
        "shards": sorted(shards, key=lambda shard: shard["shard"]),
        "candidates": [
            _explain_candidate(candidate, score, dict.fromkeys((*_SHOWN, *plan.version.retrievers)))
            for candidate, score in zip(candidates, scores, strict=True)
        ],
    }


def _explain_shard(shard: int, result: ShardResult, plan: RequestPlan) -> dict[str, Any]:
    matches = result.hits.matches[result.position] if result.hits.matches else None
    hits = sum(min(plan.window, len(part.ids[result.position])) for part in result.hits.by_retriever.values())
    shown = {"shard": shard, "ms": result.ms, "batch": result.batch, "hits": hits}
    return shown if matches is None else {**shown, "matches": matches}


def _explain_candidate(candidate: Candidate, rerank_score: float | None, retrievers: Iterable[str]) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": own_id(candidate.id), "rank": candidate.rank, "score": candidate.score}
    for name in retrievers:
        shown[f"{name}_score"] = candidate.scores.get(name)
        shown[f"{name}_rank"] = candidate.ranks.get(name)
    return {**shown, "rerank_score": rerank_score}
