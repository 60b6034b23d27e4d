"""Shards that lie in memory, without files: what a small run is made of.

Such a shard answers as one that `write_shard` has written and `Shard.open` opened, by the same retrievers over the same
arrays. Writing and opening a dozen files takes longer than all else that a few documents need.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from shoal.index_root.manifest import LexicalInfo
from shoal.indexes import flat
from shoal.late.codec import Codec, Codes
from shoal.late.index import StoredTokens
from shoal.lexical.index import LexicalIndex
from shoal.lexical.postings import Postings
from shoal.metadata import FieldTypes
from shoal.records import FloatArray
from shoal.rerankers.late_interaction import DENSE_WEIGHT
from shoal.shard.columns import Columns
from shoal.shard.dense import DenseRetriever
from shoal.shard.lexical import LexicalRetriever
from shoal.shard.namespaces import NamespaceRows
from shoal.shard.passages import Passages
from shoal.shard.reader import FILTER_BYTES, Shard
from shoal.shard.retriever import ShardRetriever
from shoal.shard.selection import Selections


@dataclass(frozen=True, slots=True, eq=False)
class ShardContents:
    """What a shard holds of n passages, in the order of their rows.

    passages: a record batch of PASSAGE_SCHEMA.
    vectors: float32 (n, dim), finite.
    codes: of the tokens of each, uint8 (t, width); None where none are stored.
    postings: where their words are; None where words are not indexed.
    columns: their metadata, where that is known already.
    """

    passages: pa.RecordBatch
    vectors: FloatArray
    codes: Sequence[Codes] | None
    postings: Postings | None
    columns: Columns | None = None

    @property
    def nbytes(self) -> int:
        """Memory that it takes, about."""
        codes = sum(each.nbytes for each in self.codes or ())
        postings = 0 if self.postings is None else self.postings.nbytes
        return int(self.passages.nbytes) + self.vectors.nbytes + codes + postings


def shard_in_memory(
    contents: ShardContents,
    fields: FieldTypes,
    lexical: LexicalInfo | None,
    codec: Codec | None,
    threads: int,
    dense_weight: float = DENSE_WEIGHT,
) -> Shard:
    """Make a shard of what it holds.

    Args:
        contents: All of it.
        fields: Types of the metadata fields; all values fit them.
        lexical: How words are indexed, where there are postings.
        codec: What the token vectors are reduced with, where there are codes.
        threads: Of one search.
        dense_weight: Share of the vectors in scores by token vectors.
    """
    index = flat.of_vectors(contents.vectors, threads)
    passages = Passages.of_batch(contents.passages)
    retrievers: dict[str, ShardRetriever] = {"dense": DenseRetriever(index, passages.ids)}
    if lexical is not None and contents.postings is not None:
        retrievers["lexical"] = LexicalRetriever(LexicalIndex.of_postings(contents.postings, lexical), passages)
    tokens = None if codec is None or contents.codes is None else StoredTokens.of_codes(codec, contents.codes)
    columns = contents.columns or Columns.of_metadata(contents.passages.column(3), fields)
    namespaces = NamespaceRows.of_ids(passages.id_column())
    selections = Selections(columns, index, FILTER_BYTES, namespaces)
    return Shard(index, retrievers, passages, selections, namespaces, {}, None, tokens, dense_weight)
