"""What an answer says, by the names of its fields: over HTTP (`serve.dialects.native.render`) and in this process."""

from collections.abc import Sequence
from typing import Any

from shoal.engine.request_models import Part
from shoal.records import Result, SearchAnswer


def answer_fields(answer: SearchAnswer) -> dict[str, Any]:
    """Return the fields of an answer beside `id`, `index_version` and `results`."""
    coverage, timings = answer.coverage, answer.timings
    fields = {
        "mode": answer.mode,
        "reranked": answer.reranked,
        "reranker": answer.reranker,
        "coverage": {
            "shards": coverage.shards,
            "answered": coverage.answered,
            "fraction": coverage.fraction,
            "missing": [{"shard": missing.shard, "reason": missing.reason} for missing in coverage.missing],
        },
        "degraded": answer.degraded,
        "warnings": list(answer.warnings),
        "timings_ms": {stage: round(ms, 3) for stage, ms in timings.stages()},
        "usage": {"queries": 1, "pairs": answer.pairs},
    }
    if answer.explain is not None:
        fields["explain"] = answer.explain
    return fields


def result_fields(result: Result, include: Sequence[Part]) -> dict[str, Any]:
    """Return the fields of one result, with those parts of its passage that `include` names."""
    passage = result.passage
    fields: dict[str, Any] = {
        "id": result.id,
        "score": result.score,
        "retrieval_score": result.retrieval_score,
        "retrieval_rank": result.retrieval_rank,
        "rerank_score": result.rerank_score,
    }
    if "text" in include:
        if passage.title:
            fields["title"] = passage.title
        fields["text"] = passage.text
    if "metadata" in include:
        fields["metadata"] = passage.metadata
    if "vector" in include:
        fields["vector"] = None if result.vector is None else result.vector.tolist()
    return fields
