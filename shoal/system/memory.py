"""Memory that this process has and does not need."""

import ctypes
import sys
from pathlib import Path

_MAPS = Path("/proc/self/maps")
"""Where Linux says what is mapped into this process."""
_DONTNEED = 4
"""Linux's number of the advice that pages are not needed; those of a file come back when they are read."""


def let_go(file: Path) -> None:
    """Take the pages of a file that is mapped to be read out of this process; which it reads again come back.

    For a library that keeps a whole file mapped of which it reads little once it has begun. Does nothing where there is
    no Linux, and to a map that may be written to.
    """
    if sys.platform != "linux" or not _MAPS.exists():
        return
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    mapped = str(file.resolve())
    for line in _MAPS.read_text().splitlines():
        addresses, rights, *_, name = line.split(maxsplit=5)
        if name == mapped and "w" not in rights:
            start, end = (int(address, 16) for address in addresses.split("-"))
            madvise(start, end - start, _DONTNEED)


def give_back() -> None:
    """Give freed memory back to the system, which glibc keeps; after something that needs much to begin with."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
