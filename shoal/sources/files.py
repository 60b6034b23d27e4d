"""Input files: how a plan names them, and how they are opened, locally or by URI."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.fs as pafs
from pydantic import BaseModel, ConfigDict

from shoal.errors import InvalidArgument
from shoal.index_root.storage import filesystem, translate
from shoal.sources import hub

if TYPE_CHECKING:
    from pyarrow import NativeFile

Compression = Literal["gzip", "zstd"]
COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}
"""How a file is compressed, by its ending."""

BLOCK = 2**20
"""Bytes of one read."""
_SALVAGED = 16 * 1024
"""Bytes of a damaged gzip file that are decompressed at once; they may unfold into a thousand times as many."""
_GZIP = 16 + zlib.MAX_WBITS
"""What tells zlib to expect the header and the checksum of gzip."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What some programs put before UTF-8; no part of the text."""


class InputFile(BaseModel):
    """One file of the input. What stands below `columns` is known only after the file has been spooled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """How users know it: relative to the source folder, or its URI if it is remote."""
    uri: str
    """What is opened: an absolute path, or a URI whose path is `escaped`."""
    bytes: int
    mtime_ns: int
    compression: Compression | None = None
    rows: int | None = None
    """Parquet: its exact number of rows."""
    group: int = 0
    """Parquet: rows of its largest row group."""
    first: int = 0
    """Offset of the first record, behind a byte order mark and a header line, in the uncompressed file."""
    first_line: int = 1
    """Line of the first record."""
    columns: list[str] | None = None
    """CSV, TSV: names of the columns. Parquet: the columns to be read."""
    quoted: bool = False
    """TSV: quotes stand around values, as in CSV, and are no part of them."""
    left_out: list[str] = []
    """Parquet: columns that cannot be metadata."""

    read_anew: bool = False
    """Parquet: 0.1.0 made other values of its metadata."""
    partition: dict[str, bool | int | float | str] = {}
    """Metadata of all of its records, from folders such as `year=2020` on its path or the log of a Delta table."""

    offsets: list[int] | None = None
    """CSV: where its units start, and the end of the last one."""
    pieces: int | None = None
    """Compressed files, Parquet of large row groups: how many pieces they were spooled into."""
    damage: str | None = None
    """Spooled files: why they could not be read to their end."""
    unreadable: str | None = None
    """Why nothing of the file can be read; it becomes one unit that reports this."""


@lru_cache(maxsize=64)
def _bucket(root: str, query: str) -> pafs.FileSystem:
    return filesystem(f"{root}?{query}" if query else root)[0]


def locate(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a path or URI, opened once a bucket, and the path inside it."""
    if "://" not in uri:
        return filesystem(uri)
    scheme, rest = uri.split("://", 1)
    path, _, query = rest.partition("?")
    if scheme == "file":
        return filesystem(path)
    if scheme == hub.SCHEME:
        return hub.hub_filesystem(), rest.rstrip("/")
    return _bucket(f"{scheme}://{path.partition('/')[0]}", query), path.rstrip("/")


def escaped(path: str) -> str:
    """Return the path of a URI in which a question mark is part of a key; `locate_file` undoes it."""
    return path.replace("%", "%25").replace("?", "%3F")


def locate_file(file: InputFile) -> tuple[pafs.FileSystem, str]:
    """Return the file system of an input file, and the path inside it."""
    files, path = locate(file.uri)
    return files, path.replace("%3F", "?").replace("%25", "%") if "://" in file.uri else path


@contextmanager
def opened(file: InputFile) -> "Iterator[NativeFile]":
    """Open an input file for random access.

    Raises InvalidArgument when it cannot be read, or is not the file that the plan was made for, and Unavailable when
    it cannot be reached at the moment.
    """
    files, path = locate_file(file)
    with readable(file.name):
        info = files.get_file_info(path)
        if info.type != pafs.FileType.File:
            raise InvalidArgument(
                f"input file {file.uri} has vanished since the plan was made; restore it or run again"
            )
        if (info.size, info.mtime_ns) != (file.bytes, file.mtime_ns):
            raise InvalidArgument(f"input file {file.uri} has changed since the plan was made; run again to plan anew")
        with files.open_input_file(path) as stream:
            yield stream


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn what the operating system or the store says of a file into an error of Shoal with its name and the remedy.

    A disk or a network that fails is Unavailable: the next attempt may succeed.
    """
    try:
        yield
    except (FileNotFoundError, pa.ArrowException) as error:
        raise InvalidArgument(
            f"input file {name} cannot be read ({str(error).splitlines()[0]}); check that it is there and whole"
        ) from error
    except OSError as error:
        raise translate(error, f"input file {name}", writing=False) from error


class Damaged(Exception):
    """Content that breaks off, is corrupt or not of its format, after everything before that point was delivered."""


@contextmanager
def content(stream: "NativeFile") -> Iterator[None]:
    """Raise Damaged for what Arrow cannot decode of a file whose bytes can all be read.

    If they cannot, what was raised says so: a disk or a network that fails is no property of the file.
    """
    try:
        yield
    except pa.ArrowMemoryError:
        raise
    except (OSError, pa.ArrowException) as error:
        stream.seek(0)
        while stream.read(BLOCK):
            pass
        raise Damaged(str(error).splitlines()[0]) from error


def decompressed(stream: "NativeFile", compression: Compression) -> Iterator[bytes]:
    """Yield the decompressed blocks of a file; of a damaged one every byte before the damage, then raise Damaged."""
    source = _Source(stream)
    delivered = 0
    try:
        with source.inflated(compression) as inflated:
            while block := inflated.read(BLOCK):
                yield block
                delivered += len(block)
        return
    except OSError as error:
        if source.failed:
            raise
        reason = str(error).splitlines()[0]
    # pyarrow drops what it had decompressed of the block that failed: go there again.
    yield from salvaged(stream, compression, delivered, reason)


def salvaged(stream: "NativeFile", compression: Compression, delivered: int, reason: str) -> Iterator[bytes]:
    """Yield what can be decompressed of a damaged file behind the first `delivered` bytes.

    Raises Damaged at the end, with the reason, unless nothing but zeros follows on a whole gzip file: that is padding.
    """
    if compression == "gzip":
        yield from _gzip_behind(stream, delivered, reason)
        return
    rest = bytearray()
    with _Source(stream).inflated(compression) as inflated:
        while delivered:
            delivered -= len(inflated.read(min(delivered, BLOCK)))
        with suppress(OSError):
            while byte := inflated.read(1):
                rest += byte
    if rest:
        yield bytes(rest)
    raise Damaged(reason)


def _gzip_behind(stream: "NativeFile", delivered: int, reason: str) -> Iterator[bytes]:
    stream.seek(0)
    inflate = zlib.decompressobj(_GZIP)
    started = False
    while data := stream.read(_SALVAGED):
        while data:
            if inflate.eof:  # another file may follow on this one
                inflate, started = zlib.decompressobj(_GZIP), False
            if not started and not (data := data.lstrip(b"\0")):
                break
            started = True
            block, failed = _inflated(inflate, data)
            if fresh := block[delivered:]:
                yield fresh
            delivered = max(delivered - len(block), 0)
            if failed:
                raise Damaged(reason)
            data = inflate.unused_data
    if started and not inflate.eof:
        raise Damaged(reason)


def _inflated(inflate: "zlib._Decompress", data: bytes) -> tuple[bytes, bool]:
    """Decompress as much as can be, and tell whether that was not all. zlib drops what it had when it fails."""
    before = inflate.copy()
    try:
        return inflate.decompress(data), False
    except zlib.error:
        block = bytearray()
        with suppress(zlib.error):
            for place in range(len(data)):
                block += before.decompress(data[place : place + 1])
        return bytes(block), True


class _Source:
    """What a decompressor reads from. It stays open for a second pass, and tells a failed disk from damaged content."""

    closed = False

    def __init__(self, stream: "NativeFile") -> None:
        self.failed = False
        self._stream = stream

    def inflated(self, compression: Compression) -> "pa.CompressedInputStream":
        """Start at the beginning."""
        self._stream.seek(0)
        return pa.CompressedInputStream(pa.PythonFile(self, mode="r"), compression)

    def read(self, size: int) -> bytes:
        """Read on."""
        try:
            return bytes(self._stream.read(size))
        except OSError:
            self.failed = True
            raise

    def close(self) -> None:
        """Leave the stream to its owner."""
