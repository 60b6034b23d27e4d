"""What a server tells of the index version that it serves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from shoal.index_root.manifest import TEXT_FIELD, CurvePoint, Manifest
from shoal.modes import Mode, modes_of
from shoal.search.live_index import LiveDescription, LiveIndex
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
        chunk_characters: Most characters of the passages that texts are cut into; None where they stay whole.
        text_field: The field of the text. With another name than `text`, a record may bring its text in that field of
            its metadata.
        live: What was written since it was built; None where nothing ever was.
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
    chunk_characters: int | None = None
    text_field: str = TEXT_FIELD
    live: LiveDescription | None = None
    problem: str | None = None

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        previous: str | None,
        reranker: str | None,
        problem: str | None,
        live: LiveIndex | None = None,
    ) -> "IndexDescription":
        """Describe the version of a manifest, and what was written since."""
        written = None if live is None or live.position is None else live.describe()
        if problem is None and live is not None:
            problem = live.tail.problem
        return cls(
            version=manifest.version,
            previous=previous,
            created_at=manifest.created_at,
            passages=manifest.counts.passages if written is None else written.passages,
            shards=len(manifest.shards),
            dim=manifest.dim,
            metric=manifest.metric,
            kind=manifest.index.kind,
            search=manifest.index.search,
            recall_at_10=manifest.index.recall_at_10,
            curve=manifest.index.curve,
            modes=modes_of(retriever_names(manifest)),
            late_interaction="none" if manifest.late is None else "stored",
            fields=manifest.fields if live is None else live.version.fields,
            models=ModelNames(manifest.encoder.model, reranker),
            chunk_characters=_count(manifest.build.get("chunk_characters")),
            text_field=manifest.text_field,
            live=written,
            problem=problem,
        )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None
