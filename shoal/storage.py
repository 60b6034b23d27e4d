"""An index root, local or remote, behind one small interface over `pyarrow.fs`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa


class Storage:
    """Files below one root, named by the relative paths of `shoal.layout`.

    Writes are atomic everywhere: a reader sees the old file, the new file or none, never a part. Locally that is a temporary
    name, fsync and rename; on an object store it is the store's own single put.
    """

    def __init__(self, uri: str) -> None:
        """Open a root by path or URI. Nothing is created. Raises InvalidArgument for a scheme that cannot be opened."""
        raise NotImplementedError

    uri: str
    """The root as it was asked for, made absolute if local."""

    @property
    def is_local(self) -> bool:
        """Whether files can be mapped into memory where they lie."""
        raise NotImplementedError

    def local_path(self, path: str) -> Path:
        """Where a file lies on this machine's disk; only for a local root."""
        raise NotImplementedError

    def exists(self, path: str) -> bool:
        """Whether a file or folder is there."""
        raise NotImplementedError

    def read(self, path: str) -> bytes:
        """Read a whole small file. Raises NotFound."""
        raise NotImplementedError

    def write(self, path: str, data: bytes) -> None:
        """Replace a whole small file atomically, creating folders."""
        raise NotImplementedError

    def put(self, local: Path, path: str) -> None:
        """Move or upload a finished local file into the root, atomically. `local` may be gone afterwards."""
        raise NotImplementedError

    def get(self, path: str, local: Path) -> None:
        """Copy a file out of the root, streaming. Raises NotFound."""
        raise NotImplementedError

    def open_input(self, path: str) -> "pa.NativeFile":
        """Open a file for random access. Raises NotFound."""
        raise NotImplementedError

    def list(self, folder: str) -> Iterator[str]:
        """Names (not paths) of the entries of one folder, sorted; empty if there is no such folder."""
        raise NotImplementedError

    def delete(self, path: str) -> None:
        """Remove a file or a whole folder; not an error if it is not there."""
        raise NotImplementedError

    def sha256(self, path: str) -> tuple[str, int]:
        """Stream a file and return its hex digest and its size in bytes. Raises NotFound."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        # Filesystem handles do not travel between processes; the URI does.
        return type(self), (self.uri,)
