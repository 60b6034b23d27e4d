"""An index version as searches need to know it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.index_root.manifest import Manifest, VectorIndexInfo
from shoal.metadata import FieldTypes
from shoal.shard.retrievers import retriever_names


@dataclass(frozen=True, eq=False, slots=True)
class ServedVersion:
    """An index version that searches are answered from. Two are equal only if they are the same object.

    counts: passages of each shard, in order.
    retrievers: names of the ways in which its shards can be searched.
    fields: types of its metadata fields, for filters.
    index: its vector index, for queries that ask for a recall; None takes any recall for reached.
    has_token_vectors: whether its shards hold token vectors, for late interaction.
    """

    name: str
    counts: tuple[int, ...]
    retrievers: tuple[str, ...] = ("dense",)
    fields: FieldTypes = field(default_factory=dict)
    index: VectorIndexInfo | None = None
    has_token_vectors: bool = False

    @classmethod
    def of(cls, manifest: Manifest) -> "ServedVersion":
        """Describe the version of a manifest."""
        return cls(
            name=manifest.version,
            counts=tuple(shard.count for shard in manifest.shards),
            retrievers=retriever_names(manifest),
            fields=manifest.fields,
            index=manifest.index,
            has_token_vectors=manifest.late is not None,
        )

    def count_passages(self, shards: Mapping[int, object] | None = None) -> int:
        """Count the passages of these shards, or of all."""
        return sum(self.counts) if shards is None else sum(self.counts[shard] for shard in shards)

    def search_params(self, recall: float | None) -> str:
        """Return the parameters that give a recall, "" for the version's own. Raises InvalidArgument if none do."""
        return "" if recall is None or self.index is None else self.index.search_for(recall)
