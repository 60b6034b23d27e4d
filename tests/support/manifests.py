"""Manifests of versions that tests write shard by shard."""

from collections.abc import Mapping, Sequence
from typing import Any

from shoal.fingerprint import Fingerprint
from shoal.index_root.manifest import CorpusStatistics, Counts, Manifest, ShardEntry, VectorIndexInfo


def describe(
    version: str,
    entries: Sequence[ShardEntry],
    *,
    dim: int,
    plan: str = "p",
    kind: str = "flat",
    fields: Mapping[str, Any] | None = None,
) -> Manifest:
    """The manifest of these shards, as if an encoder of `dim` dimensions had made them."""
    count = sum(entry.count for entry in entries)
    return Manifest(
        version=version,
        plan=plan,
        created_at="2026-11-22T23:34:11+00:00",
        encoder=Fingerprint(
            model="m",
            weights="w",
            dim=dim,
            pooling="mean",
            query_prompt="",
            passage_prompt="",
            max_length=256,
            dtype="float32",
        ),
        dim=dim,
        index=VectorIndexInfo(kind=kind, search="", recall_at_10=None, latency_ms=None),
        shards=list(entries),
        counts=Counts(input=count, passages=count, duplicates=0, rejected=0),
        statistics=CorpusStatistics(text_bytes=count, mean_text_bytes=1.0),
        fields=dict(fields or {}),
        build={},
    )
