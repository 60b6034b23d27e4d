"""Folders that are looked at before long work begins: whether there is a home, and whether files can be written."""

import errno
import os
import tempfile
from pathlib import Path

from shoal.errors import InvalidArgument

PROBE_BYTES = 2**20
"""Bytes that must fit for a folder to count as one that can be written."""


def home_path(path: str, option: str) -> Path:
    """The path with the user's home for `~`. Raises InvalidArgument, which names the option, where there is no home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InvalidArgument(
            f"{path} lies in the home folder of a user who has none here; set {option} to another folder, or HOME",
            param=option,
        ) from None


def require_writable(path: str | Path, option: str) -> None:
    """Raise InvalidArgument, which names the option, unless files of PROBE_BYTES can be written in a folder.

    Where it is not there yet, the nearest folder above it counts. Nothing is left behind, no folder either.
    """
    folder = home_path(str(path), option).absolute()
    try:
        nearest = next(place for place in (folder, *folder.parents) if place.exists())
        with tempfile.TemporaryFile(dir=nearest, buffering=0) as probe:
            if probe.write(bytes(PROBE_BYTES)) < PROBE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise InvalidArgument(
            f"no files can be written in {folder} ({error.strerror}); mend that, or set {option} to another folder",
            param=option,
        ) from None
