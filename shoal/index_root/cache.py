"""Shards of a remote root on this machine's disk: verified, bounded in size and shared by all processes."""

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shoal.errors import CorruptIndex, InvalidArgument, NotFound, Unavailable
from shoal.index_root.storage import Storage
from shoal.system.folders import home_path
from shoal.system.locks import exclusive, is_at

_PART, _LOCK = ".part", ".lock"


class ShardCache:
    """Files named by the SHA-256 of their content.

    A file that some process has asked for and not released is never evicted: the process holds a shared lock (flock) on
    it, which the kernel ends with the process. Files that are not held go when room is needed, least recently asked for
    first. One process downloads a file, into `<sha256>.part`, while the others wait for its `<sha256>.lock`.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        """Open a cache; `folder` is created when first needed, `~` is the home folder."""
        self._folder = home_path(str(folder), "--cache-dir")
        self._max_bytes = max_bytes
        self._held: dict[Path, list[int]] = {}
        self._guard = threading.Lock()

    def path(self, storage: Storage, path: str, sha256: str, size: int) -> Path:
        """Return a local copy of a file of `storage`, downloaded if need be and checked in any case.

        The caller holds it until `release`. Raises CorruptIndex when the file in `storage` is not what its checksum and
        size (bytes) say, InvalidArgument when it does not fit beside the files in use, Unavailable when the storage or
        the disk fails.
        """
        local = self._folder / sha256
        try:
            # Not for other users of the machine, who may not have the credentials that the root asks for.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = None
            while descriptor is None:
                descriptor = self._present(local, sha256, size)
                if descriptor is None:
                    descriptor = self._download(storage, path, local, sha256, size)
        except OSError as error:
            raise Unavailable(
                f"the cache in {self._folder} cannot be used ({error}); free space there or set cache_dir"
            ) from error
        with self._guard:
            self._held.setdefault(local, []).append(descriptor)
        return local

    def release(self, path: Path) -> None:
        """Let go of a file, once for each time `path` returned it; when nobody holds it, it may be evicted."""
        with self._guard:
            if descriptors := self._held.get(path):
                os.close(descriptors.pop())

    def _present(self, local: Path, sha256: str, size: int) -> int | None:
        """Return a descriptor that holds the cached file, or None if there is no such file or it is damaged."""
        try:
            descriptor = os.open(local, os.O_RDONLY)
        except FileNotFoundError:
            return None
        with _closing_on_error(descriptor):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if is_at(descriptor, local):
                if _matches(descriptor, sha256, size):
                    os.utime(descriptor)
                    return descriptor
                # Whoever has it mapped keeps the damaged copy until it is opened again.
                local.unlink(missing_ok=True)
        os.close(descriptor)
        return None

    def _download(self, storage: Storage, path: str, local: Path, sha256: str, size: int) -> int | None:
        """Download and return a descriptor that holds the file, or None if another process was faster."""
        part = local.with_name(local.name + _PART)
        with exclusive(local.with_name(local.name + _LOCK)):
            if local.exists():
                return None
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            with _closing_on_error(descriptor):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if is_at(descriptor, part):
                    self._fill(descriptor, part, storage, path, sha256, size)
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                    if is_at(descriptor, local):
                        return descriptor
            os.close(descriptor)
            return None

    def _fill(self, descriptor: int, part: Path, storage: Storage, path: str, sha256: str, size: int) -> None:
        """Download into the locked file `part` and give it its final name, or remove it if that fails."""
        try:
            self._reserve(descriptor, size, storage.place(path))
            _copy(descriptor, storage, path, sha256, size)
            with exclusive(self._folder / _LOCK):  # so that whoever sums up the sizes sees one of the two names
                part.rename(part.with_name(sha256))
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _reserve(self, descriptor: int, size: int, place: str) -> None:
        """Make room for a file and claim it by giving the file its size, so that other processes count it."""
        with exclusive(self._folder / _LOCK):
            os.ftruncate(descriptor, 0)
            files = []
            for path in self._folder.iterdir():
                with suppress(FileNotFoundError):  # another process removed a lock or a damaged file
                    if not path.name.endswith(_LOCK):
                        files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            total = sum(length for _, length, _ in files)
            for _, length, path in sorted(files):
                if total + size <= self._max_bytes:
                    break
                if _evict(path):
                    total -= length
            if total + size > self._max_bytes:
                raise InvalidArgument(
                    f"{place} ({size} bytes) does not fit into the cache {self._folder}: {total} of "
                    f"{self._max_bytes} bytes are in use; raise cache_bytes",
                    param="cache_bytes",
                )
            os.ftruncate(descriptor, size)


def _evict(path: Path) -> bool:
    """Remove a file unless some process holds it."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass  # damaged, and removed by another process
    return True


def _copy(descriptor: int, storage: Storage, path: str, sha256: str, size: int) -> None:
    """Stream a file of `storage` into a descriptor, checking it on the way."""
    place, digest, written = storage.place(path), hashlib.sha256(), 0
    try:
        for chunk in storage.chunks(path):
            digest.update(chunk)
            written += len(chunk)
            if written > size:
                break
            with memoryview(chunk) as rest:
                sent = 0
                while sent < len(rest):
                    sent += os.write(descriptor, rest[sent:])
    except NotFound as error:
        raise CorruptIndex(f"{place} is missing; restore it or activate another version") from error
    if written != size or digest.hexdigest() != sha256:
        raise CorruptIndex(
            f"{place} does not match the checksum in its manifest; restore it or activate another version"
        )


def _matches(descriptor: int, sha256: str, size: int) -> bool:
    with open(descriptor, "rb", closefd=False) as file:
        return os.fstat(descriptor).st_size == size and hashlib.file_digest(file, "sha256").hexdigest() == sha256


@contextmanager
def _closing_on_error(descriptor: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(descriptor)
        raise
