"""The last write of each document that the log holds: what a build takes from it, and what it hides below it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from shoal.errors import CorruptIndex
from shoal.index_root import layout
from shoal.index_root.arrow_files import checked
from shoal.index_root.log_entry import LogEntry
from shoal.index_root.storage import Storage
from shoal.shard.positions import Deleted

_SCHEMA = pa.schema(
    [
        pa.field("document", pa.large_string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("number", pa.int64(), nullable=False),
        pa.field("deleted", pa.bool_(), nullable=False),
    ]
)
"""Columns of the file in staging. `number`: the place of the write in its entry."""
_BEFORE = -1
"""Number of what the base holds of the log: no entry that is read has it."""


class EntryReader(Protocol):
    """The part of the log that a build reads (`shoal.index_root.log.Log`)."""

    def read(self, after: int, limit: int | None = None) -> Iterable[LogEntry]:
        """Yield entries in order, from the one behind a position on."""
        ...


@dataclass(slots=True)
class LastWrites:
    """Where each written document has its last state, and which were deleted by it.

    Memory: some 200 bytes a document.
    """

    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By document: position of the entry, and the place of the write in it."""
    deleted: set[str] = field(default_factory=set)

    def add(self, entry: LogEntry) -> None:
        """Take an entry into account; entries come in their order."""
        for number, write in enumerate(entry.documents):
            self.places[write.document] = entry.position, number
            if write.passages:
                self.deleted.discard(write.document)
            else:
                self.deleted.add(write.document)

    def add_deleted(self, deleted: Deleted) -> None:
        """Take over documents that were deleted before, so that they stay so."""
        for document, position in deleted:
            self.places[document] = position, _BEFORE
            self.deleted.add(document)

    def add_rows(self, documents: Iterable[str], positions: Iterable[int]) -> None:
        """Take documents into account that a row of the base holds, as they were written at these positions."""
        for document, position in zip(documents, positions, strict=True):
            self.places[document] = position, _BEFORE

    def is_written_since(self, document: str) -> bool:
        """Whether the log has a later state of a document than the base."""
        place = self.places.get(document)
        return place is not None and place[1] != _BEFORE

    def is_last(self, document: str, position: int, number: int) -> bool:
        """Whether a write of a document is its last one."""
        return self.places.get(document) == (position, number)

    def deletions(self) -> Deleted:
        """The deleted documents, ascending, with the positions that they were deleted at."""
        return [(document, self.places[document][0]) for document in sorted(self.deleted)]

    def stage(self, storage: Storage, plan_hash: str) -> None:
        """Leave them beside a plan, for whoever works on it."""
        with storage.scratch(layout.scratch(plan_hash)) as folder:
            self.save(folder / "written.arrow")
            storage.put(folder / "written.arrow", layout.last_writes(plan_hash))

    def save(self, path: Path) -> None:
        """Write them to a local file."""
        documents = sorted(self.places)
        columns = [
            pa.array(documents, pa.large_string()),
            pa.array([self.places[document][0] for document in documents], pa.int64()),
            pa.array([self.places[document][1] for document in documents], pa.int64()),
            pa.array([document in self.deleted for document in documents], pa.bool_()),
        ]
        with pa.ipc.new_file(str(path), _SCHEMA) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=_SCHEMA))

    @classmethod
    def read(cls, storage: Storage, plan_hash: str) -> "LastWrites":
        """Read what a plan found when it was made. Raises NotFound."""
        path = layout.last_writes(plan_hash)
        with storage.errors(path), storage.open_input(path) as source:
            batch = checked(pa.ipc.open_file(source).get_batch(0))
        documents = batch.column("document").to_pylist()
        numbers = zip(batch.column("position").to_pylist(), batch.column("number").to_pylist(), strict=True)
        deleted = np.flatnonzero(batch.column("deleted").to_numpy(zero_copy_only=False))
        return cls(dict(zip(documents, numbers, strict=True)), {documents[row] for row in deleted.tolist()})


def in_order(log: EntryReader, after: int, position: int) -> Iterator[LogEntry]:
    """Yield the entries behind one position up to another.

    Raises CorruptIndex when one of them is not there: what it wrote must not be left out.
    """
    expected = after + 1
    for entry in log.read(after, position - after):
        if entry.position != expected:
            break
        yield entry
        expected += 1
    if expected <= position:
        raise CorruptIndex(
            f"the log has no entry {expected} any more, without which nothing behind it can be carried over; restore "
            "it, or activate a version that is complete to a later position"
        )
