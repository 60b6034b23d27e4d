"""From a record to the rows of its passages: digests of the records of one shard, ascending, and where each lies."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shoal.errors import CorruptIndex
from shoal.index_root import layout
from shoal.index_root.digests import Digests, document_digests
from shoal.records import RowArray
from shoal.system.array_files import map_array

T = TypeVar("T")

FILES = (layout.DOCUMENTS, layout.ORDER)
"""The two files of a shard."""


class Documents:
    """The look-up of one shard.

    Args:
        digests: uint64 (n,), ascending, of the records of its n passages.
        order: int32 (n,), the row of each of these.
    """

    def __init__(self, digests: Digests, order: NDArray[np.int32]) -> None:
        self._digests = digests
        self._order = order

    @classmethod
    def of_rows(cls, digests: Digests) -> "Documents":
        """Make a look-up out of the digests of all rows, uint64 (n,), in the order of the rows."""
        order = np.argsort(digests, kind="stable")  # rows of one digest ascend
        return cls(digests[order], order.astype(np.int32))

    @classmethod
    def open(cls, documents: Path, order: Path, count: int) -> "Documents":
        """Map the files of a shard of `count` passages. Raises CorruptIndex when they hold anything else."""
        try:
            digests, rows = (map_array(path) for path in (documents, order))
            is_long_enough = digests.shape == rows.shape == (count,)
            if not is_long_enough or digests.dtype != np.uint64 or rows.dtype != np.int32:
                raise ValueError(f"they hold {digests.dtype} {digests.shape} and {rows.dtype} {rows.shape}")
        except (OSError, ValueError, EOFError) as error:
            raise CorruptIndex(
                f"{documents} and {order.name} do not lead to {count} passages ({error}); restore them or activate "
                "another version"
            ) from error
        return cls(digests, rows)

    def save(self, folder: Path) -> None:
        """Write the two files into the folder of a shard."""
        np.save(folder / layout.DOCUMENTS, self._digests.astype("<u8", copy=False))
        np.save(folder / layout.ORDER, self._order.astype("<i4", copy=False))

    def rows(self, digests: Digests) -> RowArray:
        """Rows of all passages whose record has one of these digests, int64 (m,), ascending and each once.

        Raises CorruptIndex for a look-up that leads out of its shard.
        """
        wanted = np.unique(digests)
        first = np.searchsorted(self._digests, wanted, side="left")
        counts = np.searchsorted(self._digests, wanted, side="right") - first
        # Places first[i], first[i] + 1, ... counts[i] of them, for all i at once.
        ends = np.cumsum(counts)
        places = np.arange(int(counts.sum())) + np.repeat(first - (ends - counts), counts)
        found = np.sort(self._order[places].astype(np.int64))
        if len(found) and not 0 <= found[0] <= found[-1] < len(self._order):
            raise CorruptIndex(f"{layout.ORDER} leads out of its shard; restore the version or activate another one")
        return found


class DocumentWriter:
    """Writes the look-up of one shard while its passages stream by. Memory: 8 bytes a passage, 20 more at the end.

    Args:
        folder: Of the shard.
        document_of: Names the record that a passage of this id comes from.
    """

    def __init__(self, folder: Path, document_of: Callable[[str], str]) -> None:
        self._folder = folder
        self._document_of = document_of

    def tee(self, blocks: Iterable[tuple[pa.RecordBatch, T]]) -> Iterator[tuple[pa.RecordBatch, T]]:
        """Hand blocks through, whose batches have the column `id`, and write the files at the end."""
        digests = [np.zeros(0, np.uint64)]
        for block in blocks:
            digests.append(document_digests(map(self._document_of, block[0].column("id").to_pylist())))
            yield block
        Documents.of_rows(np.concatenate(digests)).save(self._folder)
