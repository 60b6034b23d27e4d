"""Index: the rows of one shard, out of all unit files, become the shard's folder in the new version."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from shoal.errors import Conflict
from shoal.index_root import layout
from shoal.index_root.digests import document_digests
from shoal.index_root.manifest import ShardEntry, ShardInfo
from shoal.index_root.storage import Storage
from shoal.indexes import index_kind
from shoal.indexing.commits import ShardCommit, Trial, read_shard_commit
from shoal.indexing.last_writes import LastWrites
from shoal.indexing.lexical import open_writer
from shoal.indexing.plan import Plan
from shoal.indexing.recall import ExactSearch, attempt
from shoal.indexing.shard_rows import ShardRows
from shoal.indexing.tokens import read_codec
from shoal.indexing.units import KNOWN, REUSED
from shoal.late.codec import Codec
from shoal.late.writer import TokenWriter
from shoal.lexical.analyzer import Analyzer
from shoal.lexical.statistics import count_terms
from shoal.metadata import FieldTypes
from shoal.records import FloatArray
from shoal.shard.documents import DocumentWriter
from shoal.shard.positions import PositionWriter
from shoal.shard.writer import write_shard
from shoal.sparse.writer import SparseWriter

Blocks = Iterator[tuple[pa.RecordBatch, FloatArray]]

SEARCH_BYTES = 32 * 2**20
"""Most bytes of a flat index that the measurement of recall holds in memory at once."""


def index_shard(
    plan: Plan, shard: int, storage: Storage, queries: FloatArray, threads: int, fields: FieldTypes
) -> ShardCommit:
    """Index one shard, store its files in the version's folder and commit it; one that is stored is only looked up.

    Two passes over the shard's rows: ids alone for the duplicates, then everything. Memory: what `ShardRows` takes, one
    block, and what `LexicalWriter` takes.

    Args:
        plan: What is built; all of its units are embedded.
        shard: Which shard.
        storage: The index root.
        queries: float32 (q, dim), the sampled vectors for which the index is compared with exact search.
        threads: CPU threads of the index kind.
        fields: Types of the metadata fields of the whole corpus.

    Raises:
        Conflict: A unit was embedded by another run of this build, or another run has published the version meanwhile.
    """
    codec = read_codec(plan, storage) if plan.stores_tokens else None
    digest = None if codec is None else codec.digest
    if commit := _stored(plan, shard, storage, digest, len(queries)):
        return commit
    rows = ShardRows.read(plan, shard, storage)
    exact, reuse = ExactSearch(queries), ReuseCount()
    with storage.scratch(layout.scratch(plan.hash)) as folder:
        entry = _write_files(rows, folder, lambda blocks: reuse.tee(exact.tee(blocks)), codec, threads, fields)
        text_bytes = ShardInfo.model_validate_json((folder / "shard" / layout.SHARD).read_bytes()).text_bytes
        trials = _measure(plan, folder / "shard" / layout.VECTORS, exact, threads)
        # Indexing takes long: another run may have been faster, and what it has published is never changed.
        if commit := _stored(plan, shard, storage, digest, len(queries)):
            return commit
        if storage.exists(layout.manifest(plan.version)):
            raise Conflict(f"another run of this build has published {plan.version}")
        for file in entry.files:
            storage.put(
                folder / "shard" / file.path.partition("/")[2], f"{layout.version_dir(plan.version)}/{file.path}"
            )
        storage.put(folder / "duplicates.jsonl", layout.shard_duplicates(plan.hash, shard))
    commit = ShardCommit(
        version=plan.version,
        entry=entry,
        duplicates=len(rows.duplicates),
        text_bytes=text_bytes,
        known=reuse.known,
        reused=reuse.reused,
        codec=digest,
        trials=trials,
    )
    storage.write(layout.shard_commit(plan.hash, shard), commit.model_dump_json().encode())
    return commit


def count_shard(plan: Plan, shard: int, storage: Storage) -> None:
    """Count the terms of one shard, for the lexical index; a shard that is counted is left alone.

    Two passes over the shard's rows: ids alone for the duplicates, then the texts.
    """
    if storage.exists(layout.shard_terms(plan.hash, shard)):
        return
    rows = ShardRows.read(plan, shard, storage)
    with storage.scratch(layout.scratch(plan.hash)) as folder:
        count_terms(rows.texts(), Analyzer(plan.lexical), folder / "terms.arrow")
        storage.put(folder / "terms.arrow", layout.shard_terms(plan.hash, shard))


class ReuseCount:
    """Counts passages that the base of a build knows, and those whose vectors were copied, while they stream by."""

    def __init__(self) -> None:
        self.known = self.reused = 0

    def tee(self, blocks: Blocks) -> Blocks:
        """Hand blocks through and count their columns KNOWN and REUSED, where they have them."""
        for batch, vectors in blocks:
            if REUSED.name in batch.schema.names:
                self.known += batch.column(KNOWN.name).true_count
                self.reused += batch.column(REUSED.name).true_count
            yield batch, vectors


def _write_files(
    rows: ShardRows,
    folder: Path,
    tee: Callable[[Blocks], Blocks],
    codec: Codec | None,
    threads: int,
    fields: FieldTypes,
) -> ShardEntry:
    """Write the files of a shard to `folder`/shard, and its duplicates beside it; all blocks go through `tee`."""
    plan, storage, sparse = rows.plan, rows.storage, rows.plan.encoder.sparse
    trained = layout.trained_index(plan.hash)
    with (folder / "duplicates.jsonl").open("w", encoding="utf-8") as duplicates:
        return write_shard(
            folder / "shard",
            tee(rows.blocks(None if codec is None else codec.digest, duplicates)),
            shard=rows.shard,
            dim=plan.encoder.dim,
            kind=plan.index.index_kind,
            trained=storage.read(trained) if storage.exists(trained) else None,
            threads=threads,
            lexical=open_writer(plan, rows.shard, storage, folder / "shard") if plan.lexical.lexical else None,
            sparse=None if sparse is None else SparseWriter(folder / "shard", sparse.dimensions),
            tokens=TokenWriter(folder / "shard", codec) if codec is not None else None,
            documents=DocumentWriter(folder / "shard", plan.document),
            positions=_position_writer(rows, folder / "shard"),
            fields=fields,
        )


def _position_writer(rows: ShardRows, folder: Path) -> PositionWriter | None:
    """What writes where the log has written the passages of a shard; None for a build that reads no log."""
    if rows.plan.carried is None:
        return None
    deleted = LastWrites.read(rows.storage, rows.plan.hash).deletions()
    digests = document_digests(document for document, _ in deleted)
    mine = np.flatnonzero(digests % np.uint64(rows.plan.shards) == rows.shard)
    return PositionWriter(folder, [deleted[place] for place in mine.tolist()])


def _measure(plan: Plan, path: Path, exact: ExactSearch, threads: int) -> list[Trial]:
    """Compare a written index with exact search, for all search parameters that are tried."""
    kind = index_kind(plan.index.index_kind)
    # A trained index has been in memory as a whole already; a flat one never is.
    step = None if kind.TRAINED else max(1, SEARCH_BYTES // (4 * plan.encoder.dim))
    return attempt(lambda: kind.open(path, plan.index, threads), exact, step)


def _stored(plan: Plan, shard: int, storage: Storage, codec: str | None, queries: int) -> ShardCommit | None:
    """The commit record of a shard of this very version, codec and number of queries, whose files are there."""
    if not storage.exists(layout.shard_commit(plan.hash, shard)):
        return None
    commit = read_shard_commit(storage, plan.hash, shard)
    folder = layout.version_dir(plan.version)
    files = [layout.shard_duplicates(plan.hash, shard), *(f"{folder}/{file.path}" for file in commit.entry.files)]
    same = commit.version == plan.version and commit.codec == codec and commit.queries == queries
    return commit if same and all(map(storage.exists, files)) else None
