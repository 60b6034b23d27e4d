"""Index files of FAISS: opened as if a stranger had written them, and written."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import faiss

from shoal.errors import CorruptIndex, InvalidArgument
from shoal.indexes import _faiss, _structure

_reading = threading.Lock()
"""Held while a file is opened: what FAISS may reserve for it is one number for the whole process."""


def read(path: Path, threads: int, mmap: bool, empty: Callable[[int], Any], search: str = "") -> _faiss.FaissIndex:
    """Open an index file, mapped into memory where FAISS can.

    Args:
        path: Of the file.
        threads: Of a search.
        mmap: Whether replicas of a node share its pages.
        empty: Makes, for the dimensions of a vector, an empty index of the kind that the file has to be.
        search: Search parameters.

    Raises:
        CorruptIndex: FAISS cannot read it, or it is of another kind.
    """
    try:
        index = _read(path, mmap)
    except RuntimeError as error:
        raise CorruptIndex(
            f"{path} is not a FAISS index ({_faiss.reason(error)}); restore it or activate another version"
        ) from error
    _check(index, path, empty)
    _faiss.set_search(index, search)
    return _faiss.FaissIndex(index, threads)


def _check(index: Any, path: Path, empty: Callable[[int], Any]) -> None:
    """Raise CorruptIndex for an index that a build of this kind does not make."""
    try:
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError("another metric than the inner product")
        wanted, actual = _structure.structure(empty(index.d)), _structure.structure(index)
        if wanted != actual:
            raise ValueError(f"{actual[0]} in place of {wanted[0]}" if wanted[0] != actual[0] else "other parts")
        _structure.check_content(index)
    except (ValueError, InvalidArgument) as error:
        raise CorruptIndex(
            f"{path} holds no index that a build has made ({error}); restore it or activate another version"
        ) from error


def _read(path: Path, mmap: bool) -> Any:
    # An index may name another file; not even opened shall be one outside its own folder.
    flags = faiss.IO_FLAG_ONDISK_SAME_DIR
    with _bounded(_structure.read_limit(path)):
        if mmap:
            # Not every kind can be mapped. A broken file fails again, with its own message, below.
            with suppress(RuntimeError):
                return faiss.read_index(str(path), flags | faiss.IO_FLAG_MMAP_IFC)
        return faiss.read_index(str(path), flags)


@contextmanager
def _bounded(limit: int) -> Iterator[None]:
    """Let FAISS reserve at most so many bytes for an array that it reads; FAISS has one limit for the whole process."""
    if not hasattr(faiss, "set_deserialization_vector_byte_limit"):
        yield
        return
    with _reading:
        before = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(limit)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before)


def write(index: Any, path: Path) -> None:
    """Write an index to a file. Raises OSError, for a full disk with its number."""
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # FAISS tells the cause in words alone
        number = errno.ENOSPC if os.strerror(errno.ENOSPC) in str(error) else errno.EIO
        raise OSError(number, _faiss.reason(error), str(path)) from error
