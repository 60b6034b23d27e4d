"""Writes the token vectors of one shard while its passages stream by."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy

from shoal.index_root import layout
from shoal.late.codec import Codec, Codes

T = TypeVar("T")

FILES = (layout.LATE_PROJECTION, layout.LATE_OFFSETS, layout.LATE_CODES)
"""What is stored of the late interaction of one shard."""
COLUMN = pa.field("tokens", pa.large_binary(), nullable=False)
"""Column of a unit file: the codes of all tokens of a passage, one after the other."""


class TokenWriter:
    """Writes the codes of a shard's tokens; see FORMAT.md for the files. Memory: one block, and 8 bytes a passage.

    Args:
        folder: Of the shard.
        codec: What has rounded the tokens.
    """

    def __init__(self, folder: Path, codec: Codec) -> None:
        self._folder = folder
        self._codec = codec

    def tee(self, blocks: Iterable[tuple[pa.RecordBatch, T]]) -> Iterator[tuple[pa.RecordBatch, T]]:
        """Hand blocks through, whose batches have the column COLUMN, and write it."""
        (self._folder / layout.LATE).mkdir(parents=True, exist_ok=True)
        np.save(self._folder / layout.LATE_PROJECTION, self._codec.projection)
        lengths = [np.zeros(1, np.int64)]
        total = 0
        with (self._folder / layout.LATE_CODES).open("wb") as file:
            self._write_header(file, total)
            for block in blocks:
                column = block[0].column(COLUMN.name)
                borders = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
                if len(column):
                    data = memoryview(column.buffers()[2] or b"")
                    file.write(data[borders[0] : borders[-1]])
                    lengths.append(np.diff(borders) // self._codec.width)
                    total += int(lengths[-1].sum())
                yield block
            file.seek(0)
            self._write_header(file, total)
        np.save(self._folder / layout.LATE_OFFSETS, np.cumsum(np.concatenate(lengths)))

    def _write_header(self, file: IO[bytes], tokens: int) -> None:
        # NumPy leaves room in it for the tokens to be counted at the end.
        header = {"descr": "|u1", "fortran_order": False, "shape": (tokens, self._codec.width)}
        npy.write_array_header_1_0(file, header)


def column_of(codes: Sequence[Codes]) -> pa.LargeBinaryArray:
    """The column of passages whose tokens have these codes, uint8 (t, width) each."""
    return pa.array([passage.tobytes() for passage in codes], COLUMN.type)
