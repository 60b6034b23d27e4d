"""How an answer came about, for whoever asks with `explain`."""

from typing import Any

from shoal.records import Candidate, FloatArray, SearchRequest
from shoal.search.fanout import Found, Probe


def _matches(found: Found) -> int | None:
    hits = found.dense or found.lexical
    return hits.matches[found.query] if hits and hits.matches else None


def explain(
    request: SearchRequest,
    probe: Probe,
    together: int,
    found: dict[int, Found],
    missing: dict[int, str],
    candidates: list[Candidate],
    scores: FloatArray | None,
) -> dict[str, Any]:
    """Tell the plan of a query, what each shard did for it, and its candidates, as JSON.

    together: queries that were encoded in one call. found, missing: what shards found, and why others did not answer.
    scores: float32 (n,), what the second stage gave the candidates; None if there was none.
    """
    shards: list[dict[str, Any]] = [
        {
            "shard": shard,
            "ms": one.ms,
            "batch": one.batch,
            "hits": _hits(one, probe),
            **({} if (matches := _matches(one)) is None else {"matches": matches}),
        }
        for shard, one in found.items()
        if shard not in missing
    ]
    shards += [{"shard": shard, "missing": reason} for shard, reason in missing.items()]
    return {
        "plan": {
            "mode": probe.mode,
            **({"search": probe.effort} if probe.effort else {}),
            "candidates_per_shard": probe.top_k,
            "top_k": request.top_k,
            "top_n": request.top_n,
            "rerank": request.rerank,
            "encoded_together": together,
        },
        "shards": sorted(shards, key=lambda shard: shard["shard"]),
        "candidates": [
            {
                "id": candidate.id,
                "rank": candidate.rank,
                "score": candidate.score,
                "dense_score": candidate.dense_score,
                "dense_rank": candidate.dense_rank,
                "lexical_score": candidate.lexical_score,
                "lexical_rank": candidate.lexical_rank,
                "rerank_score": rerank_score,
            }
            for candidate, rerank_score in zip(
                candidates, [None] * len(candidates) if scores is None else scores.tolist(), strict=True
            )
        ],
    }


def _hits(found: Found, probe: Probe) -> int:
    """Passages that a shard found for a query, once for each way of searching."""
    return sum(min(probe.top_k, len(hits.ids[found.query])) for hits in (found.dense, found.lexical) if hits)
