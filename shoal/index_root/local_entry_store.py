"""The log on a disk: a file is written under another name, and a link gives it its own, if that is not taken."""

import errno
import os
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path

from shoal.errors import CorruptIndex, InvalidArgument
from shoal.index_root import layout
from shoal.index_root.entry_store import CreateOutcome, bounded
from shoal.index_root.log_entry import MOST_ENTRY_BYTES
from shoal.index_root.storage import Storage, make_folder, sync, translate

_TEMPORARY = ".tmp"
"""How the names of files end that are being written."""
_ABANDONED_S = 3600.0
"""Seconds after which a file that is being written is taken for one whose writer died."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)
"""What file systems say that know no links."""


def _open_file(path: Path) -> int:
    """Open a file to read it, but not what a link leads to, and without waiting for the writer of a pipe."""
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)


class LocalEntryStore:
    """Files on a disk of this machine, or of a file server. A link is created if absent, and the disk has it then.

    Args:
        storage: A local index root.
    """

    read_ahead = 1

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._folders: dict[str, Path] = {}

    def create(self, name: str, data: bytes) -> CreateOutcome:
        """Create a file, unless there is one."""
        path = self._path(name)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_TEMPORARY}")
        try:
            if not path.parent.is_dir():
                self._storage.require()  # a root that was removed is not made again for what is written to it
                make_folder(path.parent)
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            outcome = self._link(temporary, path)
        except OSError as error:
            raise self._error(error, name) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        try:
            sync(path.parent)
        except OSError:
            return CreateOutcome.UNKNOWN
        return outcome

    def read(self, name: str) -> bytes | None:
        """Read a file; None if there is none. Raises CorruptIndex for a link, a pipe and the like: a log has none."""
        try:
            with os.fdopen(_open_file(self._path(name)), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise self._no_file(name)
                data = file.read(MOST_ENTRY_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._no_file(name) from error
            raise translate(error, self.place(name), writing=False) from error
        return bounded(data, self.place(name))

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return self.written_at(name) is not None

    def names(self, prefix: str, after: str = "") -> list[str]:
        """Names of all files of a folder, sorted; only those behind the name `after`."""
        try:
            files = [f"{prefix}{name}" for name in os.listdir(self._path(prefix))]  # noqa: PTH208
        except FileNotFoundError:
            return []
        except OSError as error:
            raise translate(error, self.place(prefix), writing=False) from error
        return sorted(name for name in files if name > after and not name.endswith(_TEMPORARY))

    def delete(self, name: str) -> None:
        """Remove a file; not an error if there is none."""
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise self._error(error, name) from error

    def written_at(self, name: str) -> float | None:
        """When a file was created, in seconds; None if there is none."""
        try:
            return self._path(name).lstat().st_mtime
        except FileNotFoundError:
            return None
        except OSError as error:
            raise translate(error, self.place(name), writing=False) from error

    def confirm(self) -> None:
        """Make durable what was read of the entries."""
        folder = self._path(layout.LOG_ENTRIES)
        try:
            sync(folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._error(error, layout.LOG_ENTRIES) from error

    def clean(self) -> None:
        """Remove files that were not finished for an hour."""
        for prefix in (layout.LOG_ENTRIES, layout.LOG_SEGMENTS, layout.LOG_FLOORS):
            for path in self._path(prefix).glob(f".*{_TEMPORARY}"):
                try:
                    if path.stat().st_mtime < time.time() - _ABANDONED_S:
                        path.unlink(missing_ok=True)
                except FileNotFoundError:
                    pass  # it was finished, or somebody else cleans too

    def place(self, name: str) -> str:
        """How messages name a file."""
        return self._storage.place(name)

    def _path(self, name: str) -> Path:
        folder, _, base = name.rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = self._storage.local_path(folder)  # looks where links lead, which takes longer
        return self._folders[folder] / base

    @staticmethod
    def _link(temporary: Path, path: Path) -> CreateOutcome:
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return CreateOutcome.EXISTS
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise InvalidArgument(
                    f"{path.parent} lies on a file system without hard links ({error.strerror}), and live writes need "
                    "them; keep the index root on another one"
                ) from error
            raise
        return CreateOutcome.CREATED

    def _no_file(self, name: str) -> CorruptIndex:
        return CorruptIndex(f"{self.place(name)} is a link or no file, as nothing in a log is; remove or restore it")

    def _error(self, error: OSError, name: str) -> Exception:
        return translate(error, self.place(name), writing=True)
