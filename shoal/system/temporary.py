"""Temporary folders that end with their process; what a killed process left, the next one removes and ends.

A folder belongs to whoever holds the lock (flock) on the file `.owner` in it, which the kernel ends with the process.
Folders without such a file are nobody's business here, whatever their name.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from shoal.system.leftovers import end_group

LONGEST_TEMPORARY = 20
"""Bytes of the path of a temporary folder that leave room for the names of Ray's sockets in it."""
_OWNER = ".owner"
"""The file of a temporary folder that names the process it belongs to."""
_PREFIX = "shoal-"
"""How the names of temporary folders begin."""


@contextmanager
def temporary_folder(name: str = "", parent: str | None = None) -> Iterator[Path]:
    """A new folder that is removed at the end. `parent`: where, if not where temporary files belong."""
    place = parent or tempfile.gettempdir()
    sweep(place)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{name}", dir=place))
    owner = _own(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(owner)


def ray_parent() -> str:
    """Where the folder for Ray's sockets and logs goes: a socket's path has to stay below the 107 bytes of Linux."""
    parent = tempfile.gettempdir()
    return parent if len(parent) <= LONGEST_TEMPORARY else "/tmp"  # noqa: S108


def ray_folder(folder: Path) -> Path:
    """Where Ray may keep its sockets and logs below a temporary folder.

    Ray opens the directory that it is given to every user of the machine (mode 0777). `folder` itself stays closed to
    all but its owner (mode 0700), and with it everything below.
    """
    return folder / "r"


def _own(folder: Path) -> int:
    # Locked before it has its name: a sweep that comes by meanwhile sees no owner file at all.
    unnamed = folder / f"{_OWNER}.new"
    descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    unnamed.rename(folder / _OWNER)
    return descriptor


def _is_ours(path: Path, is_kind: Callable[[int], bool]) -> bool:
    """Whether something belongs to this user and is of its kind itself, and no link to such a thing."""
    status = path.lstat()
    return status.st_uid == os.geteuid() and is_kind(status.st_mode)


@cache
def sweep(place: str) -> None:
    """Remove this user's folders of dead processes, and end what of these still runs, once a process."""
    for owner in Path(place).glob(f"{_PREFIX}*/{_OWNER}"):
        try:
            if not (_is_ours(owner.parent, stat.S_ISDIR) and _is_ours(owner, stat.S_ISREG)):
                continue  # what another user makes there is neither opened nor believed
            with owner.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                end_group(owner.parent)
                shutil.rmtree(owner.parent, ignore_errors=True)
        except OSError:  # alive, another user's, or just removed
            continue
