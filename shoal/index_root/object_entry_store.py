"""The log in an object store, by obstore, which can create an object only if it is absent."""

import configparser
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit
from urllib.request import getproxies

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import GCSStore, S3Store

from shoal.errors import CorruptIndex, InvalidArgument, NotFound, ShoalError, Unavailable
from shoal.index_root.entry_store import CreateOutcome
from shoal.index_root.log_entry import MOST_ENTRY_BYTES
from shoal.index_root.storage import Storage, s3_connection
from shoal.system.proxies import no_proxy

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_CLIENT: "ClientConfig" = {
    "connect_timeout": timedelta(seconds=5),
    "timeout": timedelta(seconds=10),
    "allow_http": True,
}
"""How long a request may take; `allow_http` is for endpoints that are given as such."""
_RETRIES: "RetryConfig" = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
"""How often the library tries again by itself. What it does not know then, the log finds out."""
_RETRY_AFTER_S = 5.0
"""Seconds after which an operation that may pass is worth another try."""
_READ_AHEAD = 16
"""Objects that are read at once: each takes tens of milliseconds."""
_GCS_OPTIONS = ("endpoint_override", "retry_limit_seconds", "scheme")
"""Options of a gs:// URI that are understood here."""
_S3_DENIED = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "403 Forbidden", "401 Unauthorized")
"""Parts of the messages by which a store says that it does not let us in, where the library has no class for it."""
Store = S3Store | GCSStore
_PROFILE_OPTIONS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
"""Options of a profile of AWS, which the library does not read by itself."""


class ObjectEntryStore:
    """Objects below the prefix of an index root on S3, on what speaks as S3 does, or on Google's storage.

    Args:
        storage: A remote index root; its URI takes the same options here.

    Raises InvalidArgument for another store, or options that are not known.
    """

    read_ahead = _READ_AHEAD

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._store = _open(storage)

    def create(self, name: str, data: bytes) -> CreateOutcome:
        """Create an object, unless there is one."""
        try:
            obstore.put(self._store, name, data, mode="create")
        except (AlreadyExistsError, PreconditionError):
            # Also where a retry of the library met the object that its own first attempt had made.
            return CreateOutcome.EXISTS
        except (BaseError, OSError, TimeoutError) as error:
            translated = self._translated(error, name)
            if isinstance(translated, Unavailable):
                return CreateOutcome.UNKNOWN
            raise translated from error
        return CreateOutcome.CREATED

    def read(self, name: str) -> bytes | None:
        """Read an object; None if there is none."""
        with self._errors(name):
            try:
                answer = obstore.get(self._store, name)
                if answer.meta["size"] > MOST_ENTRY_BYTES:
                    raise CorruptIndex(f"{self.place(name)} has more than {MOST_ENTRY_BYTES} bytes; restore it")
                return bytes(answer.bytes())
            except FileNotFoundError as error:
                self._check_bucket(error, name)
                return None

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        return self.written_at(name) is not None

    def names(self, prefix: str, after: str = "") -> list[str]:
        """Names of all objects of a folder, sorted; only those behind the name `after`."""
        with self._errors(prefix):
            pages = obstore.list(self._store, prefix=prefix, offset=after or None)
            return sorted(str(each["path"]) for page in pages for each in page if each["path"] > after)

    def delete(self, name: str) -> None:
        """Remove an object; not an error if there is none."""
        with self._errors(name), suppress(FileNotFoundError):
            obstore.delete(self._store, name)

    def written_at(self, name: str) -> float | None:
        """When an object was created, in seconds by the clock of the store; None if there is none."""
        with self._errors(name):
            try:
                return obstore.head(self._store, name)["last_modified"].timestamp()
            except FileNotFoundError as error:
                self._check_bucket(error, name)
                return None

    def confirm(self) -> None:
        """Do nothing: an object that can be read is durable."""

    def clean(self) -> None:
        """Do nothing: an upload that was not finished leaves no object."""

    def place(self, name: str) -> str:
        """How messages name an object."""
        return self._storage.place(name)

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            raise self._translated(error, name) from error

    def _check_bucket(self, error: Exception, name: str) -> None:
        if "NoSuchBucket" in str(error):
            raise self._translated(error, name) from error

    def _translated(self, error: Exception, name: str) -> ShoalError:
        place, text = self.place(name), str(error)
        line = text.partition("\n")[0].partition(" - Server returned")[0]
        if "NoSuchBucket" in text or isinstance(error, FileNotFoundError):
            return NotFound(f"{place}: there is no such bucket; create it, or correct the URI")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or any(sign in text for sign in _S3_DENIED):
            return InvalidArgument(f"{place}: no permission ({line}); live writes need to read, write, list and delete")
        return Unavailable(
            f"{place} cannot be reached: {line}; check the endpoint, the network and the credentials",
            retry_after_s=_RETRY_AFTER_S,
        )


def _open(storage: Storage) -> Store:
    parts = urlsplit(storage.uri)
    query, prefix = dict(parse_qsl(parts.query, keep_blank_values=True)), parts.path.strip("/") or None
    if parts.scheme == "s3":
        return _s3(parts.netloc, prefix, query)
    if parts.scheme in ("gs", "gcs"):
        return _gcs(parts.netloc, prefix, query)
    raise InvalidArgument(
        f"{storage.place()}: documents can be written to roots on this machine's disk, s3:// and gs://, not {parts.scheme}://"
    )


def _s3(bucket: str, prefix: str | None, query: dict[str, str]) -> S3Store:
    connection = s3_connection(bucket, query)
    options: dict[str, Any] = {"region": connection.region, **_profile()}
    if connection.endpoint is not None:
        options["aws_endpoint_url_s3"] = _with_scheme(connection.endpoint, connection.scheme)
    client = _client(options.get("aws_endpoint_url_s3"))
    return S3Store(bucket, prefix=prefix, client_options=client, retry_config=_RETRIES, **options)


def _gcs(bucket: str, prefix: str | None, query: dict[str, str]) -> GCSStore:
    if unknown := sorted(query.keys() - set(_GCS_OPTIONS)):
        raise InvalidArgument(
            f"gs://{bucket}: live writes know no option {', '.join(unknown)}; known are {_GCS_OPTIONS}"
        )
    endpoint, options = query.get("endpoint_override"), dict[str, Any]()
    if endpoint is not None:
        options["base_url"] = _with_scheme(endpoint, query.get("scheme"))
    user, _, bucket = bucket.rpartition("@")
    if user == "anonymous":
        options["skip_signature"] = True
    client = _client(options.get("base_url"))
    return GCSStore(bucket, prefix=prefix, client_options=client, retry_config=_RETRIES, **options)


def _client(endpoint: str | None) -> "ClientConfig":
    """How requests are made: by the proxy that the environment names for them, but never to this machine itself."""
    proxy = getproxies().get(urlsplit(endpoint).scheme if endpoint else "https")
    return _CLIENT if proxy is None else {**_CLIENT, "proxy_url": proxy, "proxy_excludes": no_proxy()}


def _with_scheme(endpoint: str, scheme: str | None) -> str:
    return endpoint if "://" in endpoint else f"{scheme or 'https'}://{endpoint}"


def _profile() -> dict[str, str]:
    """Keys of the profile of AWS that this process uses, where the environment has none; {} if there is no profile."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return {}
    path = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text("utf-8"))
    except (OSError, ValueError, configparser.Error):
        return {}
    name = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"
    profile = parser[name] if parser.has_section(name) else {}
    return {option: profile[option] for option in _PROFILE_OPTIONS if option in profile}
