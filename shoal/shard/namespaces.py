"""The namespaces of one shard: the rows of the passages of each, those of the default one apart, which has the rest."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shoal.errors import CorruptIndex
from shoal.index_root import layout
from shoal.index_root.arrow_files import open_batches
from shoal.namespaces import DEFAULT, MARK
from shoal.records import RowArray
from shoal.shard.arrays import from_numbers, to_mask, to_numbers

T = TypeVar("T")

NAMESPACE_SCHEMA = pa.schema(
    [
        pa.field("namespace", pa.string(), nullable=False),
        pa.field("rows", pa.large_list(pa.field("item", pa.uint32(), nullable=False)), nullable=False),
    ]
)
"""Columns of namespaces.arrow: names, ascending, each with the rows of its passages, ascending."""


class NamespaceRows:
    """The rows of each namespace of a shard that has others than the default one.

    Args:
        names: Of these, ascending.
        offsets: int64 (names + 1,), where the rows of each begin among all of them.
        rows: uint32 (n,), of each in turn, ascending.
        count: Rows of the shard.
    """

    def __init__(self, names: list[str], offsets: RowArray, rows: NDArray[np.uint32], count: int) -> None:
        self._places = {name: place for place, name in enumerate(names)}
        self._offsets = offsets
        self._rows = rows
        self._count = count

    @classmethod
    def open(cls, path: Path, count: int) -> "NamespaceRows":
        """Map the file of a shard of so many passages. Raises CorruptIndex for one that says anything else."""
        batches = open_batches(path, NAMESPACE_SCHEMA)
        names = [name for batch in batches for name in batch.column(0).to_pylist()]
        if len(batches) != 1 or not names or names != sorted(set(names)):
            raise CorruptIndex(f"{path} does not name namespaces, each once; restore it or activate another version")
        lists = batches[0].column(1)
        offsets, rows = to_numbers(lists.offsets), to_numbers(lists.values)
        if len(rows) and not rows.max() < count:
            raise CorruptIndex(f"{path} leads out of its {count} passages; restore it or activate another version")
        return cls(names, offsets.astype(np.int64), rows[: offsets[-1]].view(np.uint32), count)

    @classmethod
    def of_ids(cls, ids: pa.ChunkedArray) -> "NamespaceRows | None":
        """Those of passages by their ids, in the order of their rows; None where all are of the default namespace."""
        collected = _CollectedRows()
        for chunk in ids.chunks:
            collected.add(chunk)
        return collected.namespaces()

    def rows(self, namespace: str) -> RowArray:
        """Return the rows of a namespace, which is not the default one, int64 (n,) ascending."""
        place = self._places.get(namespace)
        if place is None:
            return np.empty(0, np.int64)
        return self._rows[self._offsets[place] : self._offsets[place + 1]].astype(np.int64)

    def mask(self, namespace: str) -> NDArray[np.bool_]:
        """Mark the rows of any namespace, bool (rows,)."""
        if namespace != DEFAULT:
            mask = np.zeros(self._count, np.bool_)
            mask[self.rows(namespace)] = True
            return mask
        mask = np.ones(self._count, np.bool_)
        mask[self._rows] = False
        return mask

    def counts(self, alive: NDArray[np.bool_] | None) -> dict[str, int]:
        """Count the passages of each namespace that has any, the default one among them.

        Args:
            alive: Which rows are still there, bool (rows,); None for all.
        """
        if alive is None:
            sizes, all_ = np.diff(self._offsets), self._count
        else:
            before = np.concatenate([[0], np.cumsum(alive[self._rows])])
            sizes, all_ = np.diff(before[self._offsets]), int(np.count_nonzero(alive))
        counts = {DEFAULT: all_ - int(sizes.sum())}
        counts |= dict(zip(self._places, sizes.tolist(), strict=True))
        return {name: count for name, count in counts.items() if count}

    def save(self, path: Path) -> None:
        """Write the file of a shard."""
        kind = NAMESPACE_SCHEMA.field(1).type
        rows = pa.LargeListArray.from_arrays(from_numbers(self._offsets), pa.array(self._rows), type=kind)
        batch = pa.RecordBatch.from_arrays([pa.array(list(self._places), pa.string()), rows], schema=NAMESPACE_SCHEMA)
        with pa.ipc.new_file(str(path), NAMESPACE_SCHEMA) as writer:
            writer.write_batch(batch)


class NamespaceWriter:
    """Writes the namespaces of one shard while its passages stream by. Memory: 4 bytes for each passage of one.

    Args:
        folder: Of the shard.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: tuple[str, ...] = ()
        """Names of the files that were written: none where all passages are of the default namespace."""

    def tee(self, blocks: Iterable[tuple[pa.RecordBatch, T]]) -> Iterator[tuple[pa.RecordBatch, T]]:
        """Hand blocks through, whose batches have the column `id`, and write the file at the end."""
        collected = _CollectedRows()
        for block in blocks:
            collected.add(block[0].column("id"))
            yield block
        if (namespaces := collected.namespaces()) is not None:
            namespaces.save(self._folder / layout.NAMESPACES)
            self.files = (layout.NAMESPACES,)


class _CollectedRows:
    """Rows by namespace, as passages come in the order of their rows."""

    def __init__(self) -> None:
        self._parts: dict[str, list[NDArray[np.uint32]]] = {}
        self._count = 0

    def add(self, ids: pa.StringArray) -> None:
        """Take the next passages into account, by their ids."""
        rows = np.flatnonzero(to_mask(pc.starts_with(ids, pattern=MARK)))
        if len(rows):
            # What stands before the first mark is empty, and between the two is the name.
            parts = pc.split_pattern(ids.take(from_numbers(rows)), pattern=MARK, max_splits=2)
            names = pc.list_element(parts, 1).dictionary_encode()
            codes = to_numbers(names.indices)
            order = np.argsort(codes, kind="stable")  # rows of one name ascend
            borders = np.flatnonzero(np.diff(codes[order])) + 1
            by_name = np.split((rows[order] + self._count).astype(np.uint32), borders)
            for name, part in zip(names.dictionary.to_pylist(), by_name, strict=True):
                self._parts.setdefault(name, []).append(part)
        self._count += len(ids)

    def namespaces(self) -> NamespaceRows | None:
        """Return what has come; None where all of it is of the default namespace."""
        if not self._parts:
            return None
        joined: Mapping[str, NDArray[np.uint32]] = {
            name: np.concatenate(parts) for name, parts in sorted(self._parts.items())
        }
        offsets = np.cumsum([0, *map(len, joined.values())], dtype=np.int64)
        return NamespaceRows(list(joined), offsets, np.concatenate(list(joined.values())), self._count)
