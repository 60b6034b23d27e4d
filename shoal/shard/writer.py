"""Writes one shard of a version in one pass: passages, vectors, metadata; words, terms, tokens, look-up if wanted."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shoal.errors import InvalidArgument
from shoal.index_root import layout
from shoal.index_root.manifest import FileEntry, ShardEntry, ShardInfo
from shoal.index_root.storage import Storage
from shoal.indexes import index_kind
from shoal.late.writer import FILES as LATE_FILES
from shoal.late.writer import TokenWriter
from shoal.lexical.postings import PostingsWriter
from shoal.lexical.writer import FILES, LexicalWriter
from shoal.metadata import FieldTypes
from shoal.records import FloatArray
from shoal.shard.columns import ColumnWriter, column_types
from shoal.shard.documents import FILES as DOCUMENT_FILES
from shoal.shard.documents import DocumentWriter
from shoal.shard.namespaces import NamespaceWriter
from shoal.shard.passages import PASSAGE_SCHEMA
from shoal.shard.positions import PositionWriter
from shoal.sparse.writer import FILES as SPARSE_FILES
from shoal.sparse.writer import SparseWriter

BATCH_ROWS = 4096
"""Rows of one record batch of passages.arrow and metadata.arrow; only the last one is smaller."""


def write_shard(  # noqa: PLR0913 - what a shard is made of
    folder: Path,
    blocks: Iterable[tuple[pa.RecordBatch, FloatArray]],
    *,
    shard: int,
    dim: int,
    kind: str,
    trained: bytes | None,
    threads: int,
    fields: FieldTypes | None = None,
    lexical: LexicalWriter | PostingsWriter | None = None,
    sparse: SparseWriter | None = None,
    tokens: TokenWriter | None = None,
    documents: DocumentWriter | None = None,
    positions: PositionWriter | None = None,
) -> ShardEntry:
    """Write one shard into a local folder (created if missing) and return its manifest entry.

    How the rows are cut into blocks does not change a byte. Memory: one block, for other kinds than `flat` the index.

    Args:
        blocks: Record batches with at least the columns of PASSAGE_SCHEMA, each with its vectors, float32 (n_i, dim).
        kind: The `index_kind` setting.
        trained: What the kind's `train` returned.
        fields: Types of the metadata fields; all values fit them.
        lexical: A writer for the same folder, unless the shard shall be searched by vectors only.
        sparse: One of learned terms, if the shard shall be searched by them.
        tokens: One of the token vectors, if the shard shall keep them.
        documents: One of the look-up of records, which a later build copies by.
        positions: One of what the passages have to do with the log, for a build that reads it.

    Raises:
        InvalidArgument: Vectors that are not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count, text_bytes, namespaces = 0, 0, NamespaceWriter(folder)
    for beside in (lexical, sparse, tokens, documents, positions, namespaces):
        if beside is not None:
            blocks = beside.tee(blocks)
    with (
        pa.OSFile(str(folder / layout.PASSAGES), "wb") as sink,
        pa.ipc.new_file(sink, PASSAGE_SCHEMA) as writer,
        ColumnWriter(folder / layout.METADATA, fields or {}) as columns,
    ):

        def vectors() -> Iterator[FloatArray]:
            nonlocal count, text_bytes
            for batch, block in _regular(blocks, dim):
                writer.write_batch(batch)
                columns.write(batch.column(3))
                count += batch.num_rows
                text_bytes += _byte_count(batch.column(1))
                yield block

        index_kind(kind).build(vectors(), dim, folder / layout.VECTORS, trained, threads)
    info = ShardInfo(shard=shard, count=count, dim=dim, kind=kind, text_bytes=text_bytes)
    (folder / layout.SHARD).write_bytes(info.to_bytes())
    own, beside_own = _own_files(kind, fields or {}), _files_beside(lexical, sparse, tokens, documents, positions)
    files = _file_entries(folder, shard, [*own, *beside_own, *namespaces.files])
    return ShardEntry(shard=shard, count=count, files=files)


def _file_entries(folder: Path, shard: int, names: Iterable[str]) -> list[FileEntry]:
    """What the manifest says of files of a shard's folder."""
    local, entries = Storage(str(folder)), []
    for name in names:
        digest, size = local.sha256(name)
        entries.append(FileEntry(path=f"{layout.shard_name(shard)}/{name}", bytes=size, sha256=digest))
    return entries


def _own_files(kind: str, fields: FieldTypes) -> list[str]:
    """Files of every shard of an index kind, whose metadata has these fields."""
    return [
        layout.VECTORS,
        *([layout.EXACT] if index_kind(kind).EXACT else []),
        layout.PASSAGES,
        *([layout.METADATA] if column_types(fields) else []),
        layout.SHARD,
    ]


def _files_beside(
    lexical: LexicalWriter | PostingsWriter | None,
    sparse: SparseWriter | None,
    tokens: TokenWriter | None,
    documents: DocumentWriter | None,
    positions: PositionWriter | None,
) -> list[str]:
    """Files that the writers beside the index have written, of those that there are."""
    written = ((lexical, FILES), (sparse, SPARSE_FILES), (tokens, LATE_FILES), (documents, DOCUMENT_FILES))
    names = [name for writer, files in written if writer is not None for name in files]
    return [*names, *(positions.files if positions is not None else ())]


def _regular(
    blocks: Iterable[tuple[pa.RecordBatch, FloatArray]], dim: int
) -> Iterator[tuple[pa.RecordBatch, FloatArray]]:
    """Cut blocks of any size into blocks of BATCH_ROWS, so that the files do not depend on how they came."""
    table, vectors = PASSAGE_SCHEMA.empty_table(), np.empty((0, dim), dtype=np.float32)
    for batch, block in blocks:
        if block.shape != (batch.num_rows, dim) or block.dtype != np.float32:
            raise ValueError(
                f"{batch.num_rows} passages need as many float32 vectors of {dim}: {block.dtype} {block.shape}"
            )
        if not np.isfinite(block).all():
            passage = batch.column("id")[int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])].as_py()
            raise InvalidArgument(f"the vector of passage {passage!r} is not finite; check the encoder and its dtype")
        columns = [batch.column(name) for name in PASSAGE_SCHEMA.names]
        arrived = pa.Table.from_arrays(columns, schema=PASSAGE_SCHEMA)
        table, vectors = pa.concat_tables([table, arrived]), np.concatenate([vectors, block])
        while table.num_rows >= BATCH_ROWS:
            yield _one_batch(table.slice(0, BATCH_ROWS)), vectors[:BATCH_ROWS]
            table, vectors = table.slice(BATCH_ROWS), vectors[BATCH_ROWS:]
    if table.num_rows:
        yield _one_batch(table), vectors


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    # take() copies: a slice would carry the padding and the spare validity bits of what it was cut from into the file.
    (batch,) = table.combine_chunks().take(np.arange(table.num_rows)).to_batches()
    return batch


def _byte_count(texts: pa.LargeStringArray) -> int:
    return pc.sum(pc.binary_length(texts)).as_py() or 0
