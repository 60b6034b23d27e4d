"""Writes the learned terms of one shard while its passages stream by."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shoal.index_root import layout
from shoal.sparse.column import COLUMN, ENTRY
from shoal.system.array_files import create_array, load_array

T = TypeVar("T")

FILES = (layout.SPARSE_OFFSETS, layout.SPARSE_ROWS, layout.SPARSE_WEIGHTS)
"""What is stored of the learned terms of one shard."""
_ENTRIES = 2**20
"""Terms of passages that are sorted at once, unless one block has more."""


class SparseWriter:
    """Writes the passages of every term; see FORMAT.md for the files.

    Passages come one after the other and are stored by terms, so that all of them are noted in a file first. Memory:
    one block, what it touches of the files, and 8 bytes a term that the model knows.

    Args:
        folder: Of the shard.
        dimensions: Terms that the model knows.
    """

    def __init__(self, folder: Path, dimensions: int) -> None:
        self._folder = folder
        self._dimensions = dimensions

    def tee(self, blocks: Iterable[tuple[pa.RecordBatch, T]]) -> Iterator[tuple[pa.RecordBatch, T]]:
        """Hand blocks through, whose batches have the column COLUMN, and write it."""
        (self._folder / layout.SPARSE).mkdir(parents=True, exist_ok=True)
        noted = self._folder / layout.SPARSE / "noted"
        counts, lengths = np.zeros(self._dimensions, np.int64), []
        with noted.open("wb") as file:
            for block in blocks:
                data, of_block = _entries_of(block[0].column(COLUMN.name))
                file.write(data)
                counts += np.bincount(np.frombuffer(data, ENTRY)["term"], minlength=self._dimensions)
                lengths.append(of_block)
                yield block
        self._write(noted, counts, np.concatenate([np.zeros(0, np.int64), *lengths]))
        noted.unlink()

    def _write(self, noted: Path, counts: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """Put the terms that were noted in their places. counts: of each term, lengths: of each passage, int64."""
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        np.save(self._folder / layout.SPARSE_OFFSETS, offsets)
        rows_file, weights_file = self._folder / layout.SPARSE_ROWS, self._folder / layout.SPARSE_WEIGHTS
        create_array(rows_file, np.int32, int(offsets[-1]))
        create_array(weights_file, np.float16, int(offsets[-1]))
        ends, following, row = np.cumsum(lengths), offsets[:-1].copy(), 0
        with noted.open("rb") as file:
            while row < len(lengths):
                before = int(ends[row - 1]) if row else 0
                last = max(row + 1, int(np.searchsorted(ends, before + _ENTRIES, side="right")))
                entries = np.frombuffer(file.read(ENTRY.itemsize * int(ends[last - 1] - before)), ENTRY)
                # Stable: within a term the rows ascend.
                order = np.argsort(entries["term"], kind="stable")
                terms = entries["term"][order]
                distinct, starts, passages = np.unique(terms, return_index=True, return_counts=True)
                places = following[terms] + np.arange(len(terms)) - np.repeat(starts, passages)
                following[distinct] += passages
                if len(places):  # mapped anew for each part, so that no more of the files is resident
                    of_entries = np.repeat(np.arange(row, last), lengths[row:last])
                    load_array(rows_file, "r+")[places] = of_entries[order]
                    load_array(weights_file, "r+")[places] = entries["weight"][order]
                row = last


def _entries_of(column: pa.LargeBinaryArray) -> tuple[bytes, NDArray[np.int64]]:
    """The terms of passages, one after the other, and how many each has, int64 (n,)."""
    borders = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    if not len(column):
        return b"", np.zeros(0, np.int64)
    data = bytes(memoryview(column.buffers()[2] or b"")[borders[0] : borders[-1]])
    return data, np.diff(borders) // ENTRY.itemsize
