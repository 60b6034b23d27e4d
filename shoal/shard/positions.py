"""What the rows of a shard have to do with the log: where each was written last, and what was deleted by it.

A build of a source that comes later keeps both as they are: what was written to a served index wins.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from shoal.index_root import layout
from shoal.index_root.arrow_files import checked

T = TypeVar("T")
Deleted = list[tuple[str, int]]
"""Ids of records that were deleted, ascending, and the positions of the log at which they were."""

POSITION = pa.field("position", pa.int64(), nullable=False)
"""Column of a unit file: position of the log at which a passage was written; 0 for one that a source brought."""
DELETED_SCHEMA = pa.schema(
    [pa.field("document", pa.large_string(), nullable=False), pa.field("position", pa.int64(), nullable=False)]
)
"""Columns of deleted.arrow."""


class PositionWriter:
    """Writes positions and deletions of one shard while its passages stream by; neither file without any.

    Memory: 8 bytes a passage.

    Args:
        folder: Of the shard.
        deleted: Documents of the shard that were deleted.
    """

    def __init__(self, folder: Path, deleted: Deleted) -> None:
        self._folder = folder
        self._deleted = deleted
        self.files: tuple[str, ...] = ()
        """Names of the files that were written."""

    def tee(self, blocks: Iterable[tuple[pa.RecordBatch, T]]) -> Iterator[tuple[pa.RecordBatch, T]]:
        """Hand blocks through, whose batches have the column POSITION, and write the files at the end."""
        parts = [np.zeros(0, np.int64)]
        for block in blocks:
            parts.append(block[0].column(POSITION.name).to_numpy())
            yield block
        positions = np.concatenate(parts)
        if positions.any():
            np.save(self._folder / layout.POSITIONS, positions.astype("<i8", copy=False))
            self.files += (layout.POSITIONS,)
        if self._deleted:
            self._save_deleted()
            self.files += (layout.DELETED,)

    def _save_deleted(self) -> None:
        documents, positions = zip(*self._deleted, strict=True)
        columns = [pa.array(documents, pa.large_string()), pa.array(positions, pa.int64())]
        with pa.ipc.new_file(str(self._folder / layout.DELETED), DELETED_SCHEMA) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=DELETED_SCHEMA))


def read_deleted(source: pa.NativeFile) -> Deleted:
    """Read deleted.arrow. Raises what Arrow raises for another file."""
    reader = pa.ipc.open_file(source)
    if not reader.schema.equals(DELETED_SCHEMA):
        raise pa.ArrowInvalid("it has other columns")
    batches = [checked(reader.get_batch(number)) for number in range(reader.num_record_batches)]
    documents = [document for batch in batches for document in batch.column(0).to_pylist()]
    positions = [position for batch in batches for position in batch.column(1).to_pylist()]
    return list(zip(documents, positions, strict=True))
