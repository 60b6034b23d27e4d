"""What an answer says, by the names of its fields: over HTTP (`serve.dialects.native.render`) and in this process."""

from collections.abc import Sequence
from typing import Any

from shoal.engine.request_models import Part
from shoal.records import (
    Coverage,
    FetchedPassages,
    FloatArray,
    ListedIds,
    ListedNamespaces,
    Passage,
    Result,
    SearchAnswer,
)


def fetch_fields(fetched: FetchedPassages, include: Sequence[Part]) -> dict[str, Any]:
    """Return the fields of passages that were fetched, with those parts of each that `include` names."""
    missing = fetched.coverage.missing
    return {
        "index_version": fetched.index_version,
        "passages": [
            {"id": passage.id, **passage_fields(passage, vector, include)} for passage, vector in fetched.passages
        ],
        "missing": fetched.missing,
        "unknown": fetched.unknown,
        "coverage": coverage_fields(fetched.coverage),
        "degraded": f"{len(missing)} of {fetched.coverage.shards} shards did not answer" if missing else None,
    }


def list_fields(listed: ListedIds) -> dict[str, Any]:
    """Return the fields of a page of ids."""
    return {"index_version": listed.index_version, "ids": listed.ids, "next": listed.next}


def namespaces_fields(listed: ListedNamespaces) -> dict[str, Any]:
    """Return the fields of a page of namespaces."""
    namespaces = [{"namespace": size.namespace, "passages": size.passages} for size in listed.namespaces]
    return {"index_version": listed.index_version, "namespaces": namespaces, "next": listed.next}


def coverage_fields(coverage: Coverage) -> dict[str, Any]:
    """Return the fields of which part of an index answered."""
    return {
        "shards": coverage.shards,
        "answered": coverage.answered,
        "fraction": coverage.fraction,
        "missing": [{"shard": missing.shard, "reason": missing.reason} for missing in coverage.missing],
    }


def passage_fields(passage: Passage, vector: FloatArray | None, include: Sequence[Part]) -> dict[str, Any]:
    """Return those parts of a passage that `include` names."""
    fields: dict[str, Any] = {}
    if "text" in include:
        if passage.title:
            fields["title"] = passage.title
        fields["text"] = passage.text
    if "metadata" in include:
        fields["metadata"] = passage.metadata
    if "vector" in include:
        fields["vector"] = None if vector is None else vector.tolist()
    return fields


def answer_fields(answer: SearchAnswer) -> dict[str, Any]:
    """Return the fields of an answer beside `id`, `index_version` and `results`."""
    timings = answer.timings
    fields: dict[str, Any] = {
        "mode": answer.mode,
        "reranked": answer.reranked,
        "reranker": answer.reranker,
        "coverage": coverage_fields(answer.coverage),
        "degraded": answer.degraded,
        "warnings": list(answer.warnings),
        "timings_ms": {stage: round(ms, 3) for stage, ms in timings.stages()},
        "usage": {"queries": 1, "pairs": answer.pairs},
    }
    if answer.position is not None:
        fields["position"] = answer.position
    if answer.facets is not None:
        fields["facets"] = {
            name: [{"value": entry.value, "count": entry.count} for entry in counts]
            for name, counts in answer.facets.items()
        }
    if answer.next is not None:
        fields["next"] = answer.next
    if answer.explain is not None:
        fields["explain"] = answer.explain
    return fields


def result_fields(result: Result, include: Sequence[Part]) -> dict[str, Any]:
    """Return the fields of one result, with those parts of its passage that `include` names."""
    fields = {
        "id": result.id,
        "score": result.score,
        "retrieval_score": result.retrieval_score,
        "retrieval_rank": result.retrieval_rank,
        "rerank_score": result.rerank_score,
        **passage_fields(result.passage, result.vector, include),
    }
    if result.highlight is not None:
        fields["highlight"] = {
            "text": result.highlight.text,
            "start": result.highlight.start,
            "end": result.highlight.end,
        }
    if result.group is not None:
        fields["group"] = result.group.value
    return fields
