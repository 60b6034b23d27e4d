"""Reads NumPy files in any thread, and makes large ones.

NumPy parses the header of a file with `ast`, and in CPython before 3.13 two threads that do so at once may get
SystemError ("AST constructor recursion depth mismatch"): how deep they are is counted for both together.
"""

import os
import threading
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

HEADERS = threading.Lock()
"""Is held by whoever has NumPy parse the header of a file."""
SMALL_BYTES = 4096
"""Bytes of a file below which it is read and not mapped."""


def load_array(path: str | Path | IO[bytes], mmap_mode: Literal["r", "r+"] | None = None) -> NDArray[Any]:
    """Return what `numpy.load` returns of a file that holds one array and no objects. Raises what that raises."""
    with HEADERS:
        array: NDArray[Any] = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    return array


def map_array(path: Path) -> NDArray[Any]:
    """Map the array of a file, to be read; a small one is in memory, since one without elements cannot be mapped."""
    return load_array(path, None if path.stat().st_size < SMALL_BYTES else "r")


def create_array(path: Path, dtype: type[np.generic], count: int) -> NDArray[Any]:
    """Map a new file of so many zeros. Raises OSError if there is no space for them."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(count,))
    with path.open("r+b") as file:
        # Writing through a mapping where there is no space left ends the process: SIGBUS.
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
