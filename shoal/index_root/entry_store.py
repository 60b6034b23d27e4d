"""Where the log lies: files that are created if absent, which is what orders the writers of an index.

Neither `Storage` nor pyarrow can do this: pyarrow ignores the condition of an object store, and overwrites.
"""

import secrets
from enum import Enum
from typing import Protocol

from shoal.errors import CorruptIndex, InvalidArgument, Unavailable
from shoal.index_root import layout
from shoal.index_root.log_entry import MOST_ENTRY_BYTES


class CreateOutcome(Enum):
    """What came of creating a file if absent."""

    CREATED = "created"
    """It is there, durably, as it was given."""
    EXISTS = "exists"
    """It is there, durably, perhaps of somebody else, perhaps of an attempt that had no answer; or it only seems so."""
    UNKNOWN = "unknown"
    """It may be there or not, or come to be there later."""


class EntryStore(Protocol):
    """Files named by their paths in the index root, as in `shoal.index_root.layout`. Safe to use from several threads.

    Every method raises Unavailable where the store cannot be reached, and InvalidArgument where it lets nobody in.
    """

    read_ahead: int
    """Files that are worth reading at once."""

    def create(self, name: str, data: bytes) -> CreateOutcome:
        """Create a file, unless there is one. Raises Unavailable only where it certainly was not created."""
        ...

    def read(self, name: str) -> bytes | None:
        """Read a file; None if there is none. Raises CorruptIndex for one that is larger than any entry."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        ...

    def names(self, prefix: str, after: str = "") -> list[str]:
        """Names of all files of a folder, which ends in a slash, sorted; only those behind the name `after`."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file; not an error if there is none."""
        ...

    def written_at(self, name: str) -> float | None:
        """When a file was created, in seconds by the clock of the store; None if there is none."""
        ...

    def confirm(self) -> None:
        """Make durable what was read: a file may be seen before the disk of its writer has it."""
        ...

    def clean(self) -> None:
        """Remove what writers that died left unfinished."""
        ...

    def place(self, name: str) -> str:
        """How messages name a file."""
        ...


def bounded(data: bytes, place: str) -> bytes:
    """Return the bytes of a file. Raises CorruptIndex where there are more than any entry or segment has."""
    if len(data) > MOST_ENTRY_BYTES:
        raise CorruptIndex(f"{place} has more than {MOST_ENTRY_BYTES} bytes; restore it")
    return data


def check_conditional_create(store: EntryStore) -> None:
    """Try whether the store creates a file only if absent, without which writers would overwrite each other.

    Raises InvalidArgument where it does not, and Unavailable where it does not say.
    """
    name = f"{layout.LOG_PROBES}{secrets.token_hex(16)}"
    try:
        outcomes = [store.create(name, b"first"), store.create(name, b"second")]
        data = store.read(name)
    finally:
        store.delete(name)
    if CreateOutcome.UNKNOWN in outcomes:
        raise Unavailable(f"{store.place('log')} does not answer whether it creates a file only if absent; try again")
    if outcomes[1] is not CreateOutcome.EXISTS or data != b"first":
        raise InvalidArgument(
            f"{store.place('log')} lies in a store that overwrites a file which it was asked to create only if absent "
            "(If-None-Match), so that writers would lose what others wrote; keep the index root in another store"
        )
