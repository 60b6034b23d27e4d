"""The rows of one shard, out of all unit files: read in input order, each id once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import TextIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shoal.errors import Conflict
from shoal.index_root import layout
from shoal.index_root.storage import Storage
from shoal.indexing.commits import Duplicate
from shoal.indexing.plan import Plan
from shoal.indexing.units import UnitFile, vectors_of
from shoal.records import FloatArray


@dataclass(frozen=True, slots=True)
class ShardRows:
    """Which rows of a shard are kept, and how they are read. Rows are counted over all units, in input order.

    unit_ends: int64 (units,), the shard's rows up to and including each unit.
    records: uint32 (rows,), place of each row's record within its unit.
    duplicates, firsts: int64 (d,), ascending: rows of records whose id occurred before, and the row where it occurred
    first. Pieces of one text share its record, and its shard: they are kept or dropped together.
    """

    plan: Plan
    shard: int
    storage: Storage
    unit_ends: NDArray[np.int64]
    records: NDArray[np.uint32]
    duplicates: NDArray[np.int64]
    firsts: NDArray[np.int64]

    @classmethod
    def read(cls, plan: Plan, shard: int, storage: Storage) -> "ShardRows":
        """Read the ids of a shard and find the duplicates.

        Memory: 63 bytes a row (73 of texts that were cut) meanwhile (measured), 4 bytes a row afterwards.
        """
        digests, parts, counts = bytearray(), [np.zeros(0, np.uint32)], []
        for unit in range(len(plan.units)):
            with UnitFile(storage, plan.hash, unit, ["id", "record"]) as file:
                batch = file.shard(shard)
                digests += id_digests(map(plan.document, batch.column("id").to_pylist()))
                parts.append(batch.column("record").to_numpy().astype(np.uint32))
                counts.append(len(batch))
        unit_ends, records = np.cumsum(counts, dtype=np.int64), np.concatenate(parts)
        rows, firsts = duplicate_rows(digests)
        units, first_units = (np.searchsorted(unit_ends, places, side="right") for places in (rows, firsts))
        repeated = (units != first_units) | (records[rows] != records[firsts])
        return cls(plan, shard, storage, unit_ends, records, rows[repeated], firsts[repeated])

    def texts(self) -> Iterator[pa.RecordBatch]:
        """Read the columns `text` and `title` of the kept rows, one batch for each unit. Memory: one batch."""
        for unit, start in enumerate(self._unit_starts()):
            with UnitFile(self.storage, self.plan.hash, unit, ["text", "title"]) as file:
                yield self._kept_rows(file.shard(self.shard), start)

    def blocks(self, codec: str | None, duplicates: TextIO) -> Iterator[tuple[pa.RecordBatch, FloatArray]]:
        """Read all columns of the kept rows, one batch for each unit, with their vectors. Memory: one batch.

        Args:
            codec: Digest of what the token vectors have to be reduced with; None for rows without them.
            duplicates: Takes one line of JSON, a `Duplicate`, for each row that is dropped.

        Yields:
            A batch of n rows, and its vectors, float32 (n, dim).

        Raises:
            Conflict: The token vectors of a unit were reduced otherwise; the next run embeds it.
        """
        for unit, start in enumerate(self._unit_starts()):
            with UnitFile(self.storage, self.plan.hash, unit) as file:
                if file.codec != codec:
                    # Another run may have replaced the file before this one wrote its commit record.
                    self.storage.delete(layout.unit_commit(self.plan.hash, unit))
                    raise Conflict(
                        f"another run of this build has reduced the token vectors of unit {unit} otherwise; run it "
                        "again"
                    )
                batch = file.shard(self.shard)
                self._note_duplicates(batch, start, duplicates)
                kept = self._kept_rows(batch, start)
                yield kept, vectors_of(kept)

    def _unit_starts(self) -> list[int]:
        """The shard's rows before each unit."""
        return [0, *self.unit_ends[:-1].tolist()] if len(self.unit_ends) else []

    def _kept_rows(self, batch: pa.RecordBatch, start: int) -> pa.RecordBatch:
        """Drop the duplicates of a batch that begins with row `start` of the shard."""
        low, high = np.searchsorted(self.duplicates, (start, start + len(batch)))
        if low == high:
            return batch
        kept = np.ones(len(batch), np.bool_)
        kept[self.duplicates[low:high] - start] = False
        return batch.filter(pa.array(kept))

    def _note_duplicates(self, batch: pa.RecordBatch, start: int, file: TextIO) -> None:
        """Note each duplicate of a batch that begins with row `start` of the shard, with its first occurrence."""
        low, high = np.searchsorted(self.duplicates, (start, start + len(batch)))
        rows, firsts = self.duplicates[low:high], self.firsts[low:high]
        ids = batch.column("id").take(pa.array(rows - start)).to_pylist()
        for row, first, passage_id in zip(rows.tolist(), firsts.tolist(), ids, strict=True):
            (unit, record), (first_unit, first_record) = self._record_of(row), self._record_of(first)
            duplicate = Duplicate(
                unit=unit, record=record, first_unit=first_unit, first_record=first_record, id=passage_id
            )
            file.write(duplicate.model_dump_json() + "\n")

    def _record_of(self, row: int) -> tuple[int, int]:
        """Unit and record of a row."""
        return int(np.searchsorted(self.unit_ends, row, side="right")), int(self.records[row])


def id_digests(ids: Iterable[str]) -> bytes:
    """Digests of ids, 16 bytes each: equal for equal ids and, by any reckoning, for no others."""
    return b"".join([blake2b(passage_id.encode(), digest_size=16).digest() for passage_id in ids])


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
