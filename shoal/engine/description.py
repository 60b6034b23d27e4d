"""What a server tells of the index version that it serves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from shoal.index_root.manifest import CurvePoint, Manifest
from shoal.modes import Mode, modes_of
from shoal.shard.retrievers import retriever_names


@dataclass(frozen=True, slots=True)
class ModelNames:
    """The models in use; `reranker` is None if there is none."""

    encoder: str
    reranker: str | None


@dataclass(frozen=True, slots=True)
class IndexDescription:
    """The version that is served, and how it can be searched.

    Args:
        version: Its name.
        previous: The version that a rollback would serve, None if there is none.
        created_at: When it was built, in ISO 8601.
        passages: How many it holds.
        shards: How many it has.
        dim: Dimensions of a vector.
        metric: What compares vectors.
        kind: Kind of the vector index.
        search: Search parameters of the vector index.
        recall_at_10: Measured share of the ten nearest passages that these find, None if it was not measured.
        curve: What other search parameters find, cheapest first.
        modes: How it can be searched.
        late_interaction: Whether the shards hold token vectors.
        fields: Metadata fields that filters know, and their types.
        models: The models in use.
        problem: Why the version that CURRENT names is not the one that is served; None if it is.
    """

    version: str
    previous: str | None
    created_at: str
    passages: int
    shards: int
    dim: int
    metric: str
    kind: str
    search: str
    recall_at_10: float | None
    curve: Sequence[CurvePoint]
    modes: Sequence[Mode]
    late_interaction: Literal["none", "stored"]
    fields: Mapping[str, str]
    models: ModelNames
    problem: str | None = None

    @classmethod
    def of(
        cls, manifest: Manifest, previous: str | None, reranker: str | None, problem: str | None
    ) -> "IndexDescription":
        """Describe the version of a manifest."""
        return cls(
            version=manifest.version,
            previous=previous,
            created_at=manifest.created_at,
            passages=manifest.counts.passages,
            shards=len(manifest.shards),
            dim=manifest.dim,
            metric=manifest.metric,
            kind=manifest.index.kind,
            search=manifest.index.search,
            recall_at_10=manifest.index.recall_at_10,
            curve=manifest.index.curve,
            modes=modes_of(retriever_names(manifest)),
            late_interaction="none" if manifest.late is None else "stored",
            fields=manifest.fields,
            models=ModelNames(manifest.encoder.model, reranker),
            problem=problem,
        )
