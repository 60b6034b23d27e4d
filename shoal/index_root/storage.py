"""An index root, local or remote, behind one small interface over `pyarrow.fs`."""

import errno
import hashlib
import math
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pyarrow as pa

# What `pyarrow.fs` offers under these names; it itself loads the SDKs of all object stores, which a local root has no
# use for.
from pyarrow._fs import FileSelector, FileType, LocalFileSystem

from shoal.errors import CorruptIndex, InvalidArgument, NotFound, ShoalError, Unavailable
from shoal.system.temporary import temporary_folder

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem, S3FileSystem

CHUNK_BYTES = 8 * 2**20
"""Bytes of a file that are held in memory while it is copied or hashed."""

_TEMPORARY = ".tmp"
"""How the names of files end that are being written."""
_S3_OPTIONS = ("endpoint_override", "region", "scheme")
"""Options that the query of an s3:// URI may give."""
_DENIED = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "InvalidAccessKeyId",
    "HTTP 403",
    "401",
)
"""Parts of the messages by which a store says that it does not let us in."""
_RETRY_AFTER_S = 5.0
"""Seconds after which an operation that may pass is worth another try."""
_PASSWORD = re.compile(r"(?<=://)([^:/?@]*):(?!\d+/)([^/?]*|[^?@]*)@")
"""User and password in a URI. A slash in the password makes it invalid; the message must not show it even then."""
_DELETIONS = 10
"""Times that a folder is removed in which another process writes meanwhile."""


class Storage:
    """Files below one root, named by the relative paths of `shoal.index_root.layout`.

    Writes are atomic everywhere: a reader sees the old file, the new file or none, never a part. Locally that is a
    temporary name, fsync and rename; on an object store it is the store's own single put.

    Every method raises InvalidArgument when the root may not be read or written, or a link on the way leaves it, and
    Unavailable when it cannot be reached or has no space left.
    """

    uri: str
    """The root as it was asked for, made absolute if local."""

    def __init__(self, uri: str) -> None:
        """Open a root by path or URI. Nothing is created. Raises InvalidArgument for a scheme that cannot be opened."""
        self._filesystem, self._root = filesystem(uri)
        self.uri = self._root if self.is_local else uri.rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether files can be mapped into memory where they lie."""
        return isinstance(self._filesystem, LocalFileSystem)

    def local_path(self, path: str) -> Path:
        """Where a file lies on this machine's disk; only for a local root."""
        if not self.is_local:
            raise InvalidArgument(f"{self.place()} is not on this machine's disk")
        return Path(self._inside(path))

    def place(self, path: str = "") -> str:
        """How messages name a file of this root: its URI, without connection options and password."""
        root = self.uri if self.is_local else _shown(self.uri)
        return f"{root}/{path}" if path else root

    def require(self) -> None:
        """Raise NotFound if the root itself does not exist (an empty object store prefix does not)."""
        if not self.exists(""):
            raise NotFound(
                f"there is no index root at {self.place()}; build one with `shoal build`, or correct the path"
            )

    def exists(self, path: str) -> bool:
        """Whether a file or folder is there."""
        with self.errors(path):
            info = self._filesystem.get_file_info(self._inside(path))
        return bool(info.type != FileType.NotFound)

    def read(self, path: str, most_bytes: int | None = None) -> bytes:
        """Read a whole small file. Raises NotFound, and CorruptIndex where it has more bytes than it may have."""
        with self.errors(path), self._filesystem.open_input_stream(self._inside(path), compression=None) as stream:
            data = bytes(stream.read(None if most_bytes is None else most_bytes + 1))
        if most_bytes is not None and len(data) > most_bytes:
            raise CorruptIndex(f"{self.place(path)} has more than {most_bytes} bytes; restore it")
        return data

    def write(self, path: str, data: bytes) -> None:
        """Replace a whole small file atomically, creating folders."""
        with self.errors(path, writing=True):
            if self.is_local:
                with _replacing(self.local_path(path)) as temporary:
                    temporary.write_bytes(data)
            else:
                with self._filesystem.open_output_stream(self._inside(path), compression=None) as stream:
                    stream.write(data)

    def put(self, local: Path, path: str) -> None:
        """Move or upload a finished local file into the root, atomically. `local` may be gone afterwards."""
        with self.errors(path, writing=True):
            if self.is_local:
                with _replacing(self.local_path(path)) as temporary:
                    shutil.move(local, temporary)
            else:
                # Left to itself, pyarrow compresses what has a name like .zst once more.
                place = self._inside(path)
                with local.open("rb") as source, self._filesystem.open_output_stream(place, compression=None) as stream:
                    shutil.copyfileobj(source, stream, CHUNK_BYTES)

    def chunks(self, path: str) -> Iterator[bytes]:
        """Stream a file in pieces of CHUNK_BYTES. Raises NotFound."""
        with self.errors(path), self._filesystem.open_input_stream(self._inside(path), compression=None) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk

    def open_input(self, path: str) -> "pa.NativeFile":
        """Open a file for random access. Raises NotFound."""
        with self.errors(path):
            return self._filesystem.open_input_file(self._inside(path))

    def list(self, folder: str) -> Iterator[str]:
        """Names (not paths) of the entries of one folder, sorted; empty if there is no such folder."""
        return iter(sorted({path.split("/", 1)[0] for path in self._entries(folder, recursive=False)}))

    def files(self, folder: str) -> Iterator[str]:
        """Paths of all files below a folder, relative to it, sorted; empty if there is no such folder."""
        return iter(sorted(self._entries(folder, recursive=True)))

    def idle_s(self, folder: str) -> float:
        """Seconds since anything in a folder was written; infinite if nothing is there."""
        selector = FileSelector(self._inside(folder), allow_not_found=True, recursive=True)
        with self.errors(folder):
            written = [info.mtime_ns for info in self._filesystem.get_file_info(selector) if info.mtime_ns is not None]
        return time.time() - max(written, default=-math.inf) / 1e9

    def delete(self, path: str) -> None:
        """Remove a file or a whole folder; not an error if it is not there. Of a link, only the link."""
        if not path:
            raise InvalidArgument(f"refusing to delete the whole root {self.place()}; remove it with your own tools")
        if self.is_local and Path(self._root, path).is_symlink():
            Path(self._inside(str(Path(path).parent)), Path(path).name).unlink(missing_ok=True)
            return
        place = self._inside(path)
        with self.errors(path, writing=True):
            try:
                match self._filesystem.get_file_info(place).type:
                    case FileType.NotFound:
                        pass
                    case FileType.Directory:
                        self._delete_folder(place)
                    case _:
                        self._filesystem.delete_file(place)
            except FileNotFoundError:
                pass  # another process was faster

    def _delete_folder(self, place: str) -> None:
        for more in reversed(range(_DELETIONS)):
            try:
                self._filesystem.delete_dir(place)
                return
            except OSError as error:
                if error.errno != errno.ENOTEMPTY or not more:
                    raise

    @contextmanager
    def scratch(self, folder: str) -> Iterator[Path]:
        """A local folder, removed at the end, for files that are put into the root when they are finished.

        Below `folder` in a local root, so that putting is a rename and a killed process leaves nothing beyond it.
        Raises Unavailable when the disk is full, and InvalidArgument when it may not be written to.
        """
        with ExitStack() as stack:
            place = tempfile.gettempdir()
            try:
                if self.is_local:
                    place = str(self.local_path(folder))
                    Path(place).mkdir(parents=True, exist_ok=True)
                    temporary = tempfile.TemporaryDirectory(prefix="shoal-", dir=place, ignore_cleanup_errors=True)
                    path = Path(stack.enter_context(temporary))
                else:
                    path = stack.enter_context(temporary_folder("scratch-"))
                yield path
            except FileNotFoundError as error:
                raise NotFound(f"{place} was removed while it was written to; run the same command again") from error
            except OSError as error:
                raise translate(error, place, writing=True) from error

    @contextmanager
    def errors(self, path: str, writing: bool = False) -> Iterator[None]:
        """Turn what the operating system, the store or Arrow says of a file of this root into errors of Shoal."""
        try:
            yield
        except FileNotFoundError as error:
            raise NotFound(f"{self.place(path)} does not exist") from error
        except (OSError, pa.ArrowException) as error:
            raise translate(error, self.place(path), writing) from error

    def sha256(self, path: str) -> tuple[str, int]:
        """Stream a file and return its hex digest and its size in bytes. Raises NotFound."""
        digest, size = hashlib.sha256(), 0
        for chunk in self.chunks(path):
            digest.update(chunk)
            size += len(chunk)
        return digest.hexdigest(), size

    def __reduce__(self) -> tuple[Any, ...]:
        # Filesystem handles do not travel between processes; the URI does.
        return type(self), (self.uri,)

    def __repr__(self) -> str:
        return f"Storage({self.place()!r})"

    def _entries(self, folder: str, recursive: bool) -> Iterator[str]:
        base = self._inside(folder)
        with self.errors(folder):
            found = self._filesystem.get_file_info(FileSelector(base, allow_not_found=True, recursive=recursive))
        for info in found:
            path = info.path[len(base) :].strip("/")
            if path and not _is_temporary(path) and not (recursive and info.type == FileType.Directory):
                yield path

    def _inside(self, path: str) -> str:
        if path.startswith("/") or ".." in path.split("/"):
            raise InvalidArgument(f"{path!r} leads out of the index root {self.place()}")
        place = f"{self._root}/{path}".rstrip("/")
        if path and self.is_local:
            root, target = os.path.realpath(self._root), os.path.realpath(place)
            if os.path.commonpath((root, target)) != root:
                raise InvalidArgument(
                    f"{place} lies behind a link that leaves the index root ({target}); remove the link, or move what "
                    "it points to into the root"
                )
        return place


def filesystem(uri: str) -> tuple["FileSystem", str]:
    """Open the file system of a path or URI, with bounded timeouts, and return it with the path inside it.

    A local path is made absolute (`~` is the home folder). For `s3://bucket/prefix` the credentials come from the
    standard AWS environment, endpoint and region from the URI (`?endpoint_override=http://127.0.0.1:9000&region=eu-west-1`)
    or else from AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL and AWS_REGION, AWS_DEFAULT_REGION. Other schemes are handed to
    `pyarrow.fs.FileSystem.from_uri`. Raises InvalidArgument for a URI that cannot be opened.
    """
    if "://" not in uri:
        return LocalFileSystem(), str(Path(uri).expanduser().absolute())
    import pyarrow.fs as pafs

    parts = urlsplit(uri)
    if "@" in parts.netloc and parts.scheme == "s3":
        raise InvalidArgument(
            "credentials do not belong into an s3:// URI; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    try:
        if parts.scheme == "s3":
            return _s3(parts.netloc, query), f"{parts.netloc}{parts.path}".strip("/")
        if parts.scheme in ("gs", "gcs"):
            # Without a limit pyarrow retries a dead endpoint for 15 minutes.
            uri = parts._replace(query=urlencode({"retry_limit_seconds": "30", **query})).geturl()
        opened, path = pafs.FileSystem.from_uri(uri)
    except (OSError, pa.ArrowException) as error:
        raise InvalidArgument(
            f"{_shown(uri)} cannot be opened ({_first_line(error).replace(uri, _shown(uri))}); "
            "give a local path or a URI such as s3://bucket/prefix or gs://bucket/prefix"
        ) from None
    return opened, path.rstrip("/")


def _shown(uri: str) -> str:
    return _PASSWORD.sub(lambda found: f"{found[1]}@" if found[1] else "", uri.partition("?")[0])


@dataclass(frozen=True, slots=True)
class S3Connection:
    """How a bucket is reached. scheme: of an endpoint that does not name its own, None for that of AWS."""

    endpoint: str | None
    region: str
    scheme: str | None


def s3_connection(bucket: str, query: dict[str, str]) -> S3Connection:
    """Read the options of an s3:// URI, and for those it lacks the environment. Raises InvalidArgument."""
    if unknown := sorted(query.keys() - set(_S3_OPTIONS)):
        raise InvalidArgument(f"s3://{bucket}: unknown option {', '.join(unknown)}; known are {', '.join(_S3_OPTIONS)}")
    if not bucket:
        raise InvalidArgument("an s3:// URI names a bucket: s3://bucket/prefix")
    environment = os.environ.get
    endpoint = query.get("endpoint_override") or environment("AWS_ENDPOINT_URL_S3") or environment("AWS_ENDPOINT_URL")
    region = query.get("region") or environment("AWS_REGION") or environment("AWS_DEFAULT_REGION")
    if region is None:
        from pyarrow.fs import resolve_s3_region

        region = "us-east-1" if endpoint else resolve_s3_region(bucket)
    return S3Connection(endpoint, region, query.get("scheme"))


def _s3(bucket: str, query: dict[str, str]) -> "S3FileSystem":
    import pyarrow.fs as pafs

    connection = s3_connection(bucket, query)
    options = {} if connection.scheme is None else {"scheme": connection.scheme}
    return pafs.S3FileSystem(
        endpoint_override=connection.endpoint,
        region=connection.region,
        connect_timeout=5,
        request_timeout=10,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=3),
        **options,
    )


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Offer a temporary name in the folder of `path`; what was written there becomes `path`, durably, at the end."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_TEMPORARY}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def _is_temporary(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.startswith(".") and name.endswith(_TEMPORARY)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably; not an error where it is there."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until the disk has a file or a folder. A rename is durable when it has both the file and its folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def translate(error: Exception, place: str, writing: bool) -> ShoalError:
    """Return an error that names the place and the remedy; pyarrow tells the kind of an S3 error only in its text."""
    number, text = getattr(error, "errno", None), str(error)
    if "NO_SUCH_BUCKET" in text:
        return NotFound(f"{place}: there is no such bucket; create it, or correct the URI")
    if isinstance(error, PermissionError) or number == errno.EROFS or any(sign in text for sign in _DENIED):
        remedy = (
            "read-only or forbidden; give write permission or another index root"
            if writing
            else "no permission to read it"
        )
        return InvalidArgument(f"{place}: {remedy} ({_first_line(error)})")
    if isinstance(error, NotADirectoryError | FileExistsError | IsADirectoryError):
        return InvalidArgument(f"{place}: a file is where a folder should be, or the reverse ({_first_line(error)})")
    if number in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable(
            f"{place}: no space left; free some and run the same command again", retry_after_s=_RETRY_AFTER_S
        )
    if number == errno.ENOTEMPTY:
        return Unavailable(f"{place}: another process is writing to it; try again", retry_after_s=_RETRY_AFTER_S)
    return Unavailable(
        f"{place} cannot be reached: {_first_line(error)}; check the endpoint, the network and the credentials",
        retry_after_s=_RETRY_AFTER_S,
    )


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    return line.rpartition("; Details: ")[2]
