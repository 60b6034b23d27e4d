"""The retrievers that the shards of a version have, by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.index_root.manifest import Manifest
from shoal.shard.retriever import ShardRetriever

if TYPE_CHECKING:  # they import FAISS and bm25s, which the coordinator of a search does without
    from shoal.indexes import ShardIndex
    from shoal.shard.passages import Passages


def retriever_names(manifest: Manifest) -> tuple[str, ...]:
    """Name the retrievers of the shards of a version."""
    lexical = () if manifest.lexical is None else ("lexical",)
    return ("dense", *lexical, *(() if manifest.encoder.sparse is None else ("sparse",)))


def open_retrievers(
    manifest: Manifest, index: "ShardIndex", passages: "Passages", paths: Mapping[str, Path]
) -> dict[str, ShardRetriever]:
    """Open the retrievers of a shard of a version, in the order in which they search.

    Args:
        manifest: Of the version.
        index: The vector index of the shard.
        passages: Those of the shard.
        paths: Where its files lie, by their names in `shoal.index_root.layout`.

    Raises:
        CorruptIndex: Files do not fit together.
        Conflict: A lexical index that another analyser has built.
    """
    from shoal.lexical.index import LexicalIndex
    from shoal.shard.dense import DenseRetriever
    from shoal.shard.lexical import LexicalRetriever
    from shoal.shard.sparse import SparseRetriever
    from shoal.sparse.index import SparseIndex

    retrievers: dict[str, ShardRetriever] = {"dense": DenseRetriever(index, passages.ids)}
    if manifest.lexical is not None:
        retrievers["lexical"] = LexicalRetriever(LexicalIndex(paths, passages.count, manifest.lexical), passages)
    if (sparse := manifest.encoder.sparse) is not None:
        terms = SparseIndex(paths, passages.count, sparse.dimensions)
        retrievers["sparse"] = SparseRetriever(terms, passages.count, passages.ids)
    return retrievers
