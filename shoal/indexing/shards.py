"""Index: the rows of one shard, out of all unit files, become the shard's folder in the new version."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import TextIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shoal.errors import Conflict
from shoal.index_root import layout
from shoal.index_root.manifest import ShardInfo
from shoal.index_root.storage import Storage
from shoal.indexes import index_kind
from shoal.indexing.commits import Duplicate, ShardCommit, read_shard_commit
from shoal.indexing.lexical import open_writer
from shoal.indexing.plan import Plan
from shoal.indexing.recall import ExactSearch, attempt
from shoal.indexing.tokens import read_codec
from shoal.indexing.units import UnitFile, vectors_of
from shoal.late.writer import TokenWriter
from shoal.lexical.analyzer import Analyzer
from shoal.lexical.statistics import count_terms
from shoal.metadata import FieldTypes
from shoal.records import FloatArray
from shoal.shard.writer import write_shard

SEARCH_BYTES = 32 * 2**20
"""How much of a flat index the measurement of recall holds in memory."""


def index_shard(
    plan: Plan, shard: int, storage: Storage, queries: FloatArray, threads: int, fields: FieldTypes
) -> ShardCommit:
    """Index one shard, store its files in the version's folder and commit it; one that is stored is only looked up.

    queries: float32 (q, dim), the sampled vectors for which the index is compared with exact search. fields: types
    of the metadata fields of the whole corpus. Raises Conflict when a unit was embedded by another run of this build,
    or when one has published the version meanwhile.
    Two passes over the shard's rows: ids alone for the duplicates, then everything. Memory: 63 bytes a row (73 of texts
    that were cut) while equal ids are looked for (measured), 4 bytes a row, one block and what `LexicalWriter` takes
    afterwards.
    """
    codec = read_codec(plan, storage) if plan.stores_tokens else None
    digest = None if codec is None else codec.digest
    if commit := _stored(plan, shard, storage, digest, len(queries)):
        return commit
    rows = _Rows.read(storage, plan, shard)
    exact = ExactSearch(queries)
    trained = layout.trained_index(plan.hash)
    with storage.scratch(layout.scratch(plan.hash)) as folder:
        lexical = open_writer(plan, shard, storage, folder / "shard") if plan.lexical.lexical else None
        tokens = TokenWriter(folder / "shard", codec) if codec is not None else None
        with (folder / "duplicates.jsonl").open("w", encoding="utf-8") as duplicates:
            entry = write_shard(
                folder / "shard",
                exact.watch(_blocks(storage, plan, shard, rows, duplicates, digest)),
                shard=shard,
                dim=plan.encoder.dim,
                kind=plan.index.index_kind,
                trained=storage.read(trained) if storage.exists(trained) else None,
                threads=threads,
                lexical=lexical,
                tokens=tokens,
                fields=fields,
            )
        info = ShardInfo.model_validate_json((folder / "shard" / layout.SHARD).read_bytes())
        kind = index_kind(plan.index.index_kind)
        path = folder / "shard" / layout.VECTORS
        # A trained index has been in memory as a whole already; a flat one never is.
        step = None if kind.TRAINED else max(1, SEARCH_BYTES // (4 * plan.encoder.dim))
        trials = attempt(lambda: kind.open(path, plan.index, threads), exact, step)
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
        text_bytes=info.text_bytes,
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
    rows = _Rows.read(storage, plan, shard)

    def batches() -> Iterator[pa.RecordBatch]:
        start = 0
        for unit in range(len(plan.units)):
            with UnitFile(storage, plan.hash, unit, ["text", "title"]) as file:
                batch = file.shard(shard)
                yield batch.filter(pa.array(rows.kept(start, len(batch))))
                start += len(batch)

    with storage.scratch(layout.scratch(plan.hash)) as folder:
        count_terms(batches(), Analyzer(plan.lexical), folder / "terms.arrow")
        storage.put(folder / "terms.arrow", layout.shard_terms(plan.hash, shard))


def id_digests(ids: Iterable[str]) -> bytes:
    """Digests of ids, 16 bytes each: equal for equal ids and, by any reckoning, for no others."""
    return b"".join([blake2b(one.encode(), digest_size=16).digest() for one in ids])


def duplicate_rows(digests: bytes | bytearray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find ids that occur more than once, given the digests of all rows, 16 bytes each.

    Returns two int64 (d,): the rows whose id occurred before, ascending, and the row where each of them occurred first.
    """
    keys = np.frombuffer(digests, np.uint64).reshape(-1, 2)
    # lexsort is stable: equal digests stay in row order, so that each group begins with its first row.
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    repeats = np.zeros(len(order), np.bool_)
    repeats[1:] = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    group_starts = np.maximum.accumulate(np.where(repeats, 0, np.arange(len(order))))
    duplicates, firsts = order[repeats], order[group_starts[repeats]]
    ascending = np.argsort(duplicates)
    return duplicates[ascending], firsts[ascending]


def _stored(plan: Plan, shard: int, storage: Storage, codec: str | None, queries: int) -> ShardCommit | None:
    """The commit record of a shard of this very version, codec and number of queries, whose files are there."""
    if not storage.exists(layout.shard_commit(plan.hash, shard)):
        return None
    commit = read_shard_commit(storage, plan.hash, shard)
    folder = layout.version_dir(plan.version)
    files = [layout.shard_duplicates(plan.hash, shard), *(f"{folder}/{file.path}" for file in commit.entry.files)]
    same = commit.version == plan.version and commit.codec == codec and commit.queries == queries
    return commit if same and all(map(storage.exists, files)) else None


@dataclass(frozen=True, slots=True)
class _Rows:
    """Which rows of a shard are kept. Rows are counted over all units, in input order.

    unit_ends: int64 (units,), the shard's rows up to and including each unit.
    records: uint32 (rows,), place of each row's record within its unit.
    duplicates, firsts: int64 (d,), ascending: rows of records whose id occurred before, and the row where it occurred
    first. Pieces of one text share its record, and its shard: they are kept or dropped together.
    """

    unit_ends: NDArray[np.int64]
    records: NDArray[np.uint32]
    duplicates: NDArray[np.int64]
    firsts: NDArray[np.int64]

    @classmethod
    def read(cls, storage: Storage, plan: Plan, shard: int) -> "_Rows":
        digests, parts, counts = bytearray(), [np.zeros(0, np.uint32)], []
        for unit in range(len(plan.units)):
            with UnitFile(storage, plan.hash, unit, ["id", "record"]) as file:
                batch = file.shard(shard)
                digests += id_digests(map(plan.document, batch.column("id").to_pylist()))
                parts.append(batch.column("record").to_numpy().astype(np.uint32))
                counts.append(len(batch))
        ends, records = np.cumsum(counts, dtype=np.int64), np.concatenate(parts)
        rows, firsts = duplicate_rows(digests)
        units, first_units = (np.searchsorted(ends, places, side="right") for places in (rows, firsts))
        repeated = (units != first_units) | (records[rows] != records[firsts])
        return cls(ends, records, rows[repeated], firsts[repeated])

    def kept(self, start: int, count: int) -> NDArray[np.bool_]:
        """Mark those of `count` rows from `start` on that are no duplicates, bool (count,)."""
        low, high = np.searchsorted(self.duplicates, (start, start + count))
        kept = np.ones(count, np.bool_)
        kept[self.duplicates[low:high] - start] = False
        return kept

    def place(self, row: int) -> tuple[int, int]:
        """Unit and record of a row."""
        return int(np.searchsorted(self.unit_ends, row, side="right")), int(self.records[row])


def _blocks(
    storage: Storage, plan: Plan, shard: int, rows: _Rows, duplicates: TextIO, codec: str | None
) -> Iterator[tuple[pa.RecordBatch, FloatArray]]:
    """The kept rows of a shard, unit by unit, with their vectors; duplicates go to their file.

    Raises Conflict for a unit whose token vectors were reduced otherwise than by this codec; the next run embeds it.
    """
    start = 0
    for unit in range(len(plan.units)):
        with UnitFile(storage, plan.hash, unit) as file:
            if file.codec != codec:
                # Another run may have replaced the file before this one wrote its commit record.
                storage.delete(layout.unit_commit(plan.hash, unit))
                raise Conflict(
                    f"another run of this build has reduced the token vectors of unit {unit} otherwise; run it again"
                )
            batch = file.shard(shard)
            kept = _without_duplicates(batch, start, rows, duplicates)
            start += len(batch)
            yield kept, vectors_of(kept)


def _without_duplicates(batch: pa.RecordBatch, start: int, rows: _Rows, duplicates: TextIO) -> pa.RecordBatch:
    """Drop the duplicates of a batch that begins with row `start` of the shard; note each with its first occurrence."""
    low, high = np.searchsorted(rows.duplicates, (start, start + len(batch)))
    if low == high:
        return batch
    dropped = rows.duplicates[low:high] - start
    ids = batch.column("id").take(pa.array(dropped)).to_pylist()
    for row, first, passage_id in zip(
        rows.duplicates[low:high].tolist(), rows.firsts[low:high].tolist(), ids, strict=True
    ):
        (unit, record), (first_unit, first_record) = rows.place(row), rows.place(first)
        duplicate = Duplicate(unit=unit, record=record, first_unit=first_unit, first_record=first_record, id=passage_id)
        duplicates.write(duplicate.model_dump_json() + "\n")
    return batch.filter(pa.array(rows.kept(start, len(batch))))
