"""Entries of the log: what was written to an index while it was served, each a file that is never changed.

An entry holds whole documents with their vectors, terms and token codes, so that who reads it needs no model, no
analyser and no version. FORMAT.md describes the file: an Arrow IPC stream, a signature if there is a key, a checksum.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from shoal.errors import CorruptIndex, InvalidArgument
from shoal.index_root import signatures
from shoal.index_root.document_write import (
    DOCUMENT_SCHEMA,
    DocumentWrite,
    RetiredState,
    WrittenPassage,
    from_batch,
    to_batch,
)

__all__ = [
    "DocumentWrite",
    "LogEntry",
    "LoggedRequest",
    "RetiredState",
    "WrittenPassage",
    "decode_entry",
    "encode_entry",
]

ENTRY_FORMAT = 1
"""The version of FORMAT.md's entries that are written."""
MOST_ENTRY_BYTES = 2**28
"""Bytes of an entry, at most: it is read into memory."""
_PURPOSE = "log entry"
"""What a signature of an entry is for."""
_METADATA_KEY = b"shoal"
"""Key of the schema's metadata under which the header lies."""
_CHECKSUM_BYTES = len("sha256:") + 64 + 1
"""Bytes of the last line of an entry, which holds its checksum."""
_SIGNED = re.compile(rb"hmac-sha256:[0-9a-f]{64}\n\Z")
"""The line before the last one of a signed entry. The Arrow stream before it ends in a byte that is 0."""

_DAMAGE = (pa.ArrowException, ValueError, KeyError, RecursionError, OSError, MemoryError)
"""What is raised where a stream is not as it was written."""


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request that an entry answers.

    key: its Idempotency-Key, or None.
    first, count: its documents are these of the entry.
    answer: the body that was answered, and is answered again to the same key.
    """

    key: str | None
    body_digest: str
    first: int
    count: int
    answer: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class LogEntry:
    """One entry. Of several writes of a document the one at the greatest position, and last within it, is valid.

    nonce: of the attempt to append it, by which its writer knows it again.
    written_at: seconds since 1970, by the clock of the writer; for people.
    encoder, codec, analyzer: digests of what made the vectors, codes and terms; None where there are none.
    index_version: the version beside which it was made, which held the earlier states of documents that the log had not
    written before; None if that is not known.
    """

    position: int
    nonce: str
    written_at: float
    encoder: str
    codec: str | None
    analyzer: str | None
    requests: tuple[LoggedRequest, ...]
    documents: tuple[DocumentWrite, ...]
    index_version: str | None = None


class _Request(BaseModel):
    model_config = ConfigDict(defer_build=True, extra="forbid", strict=True)

    key: str | None
    body_digest: str
    first: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(ge=0)]
    answer: dict[str, Any]


class _Header(BaseModel):
    """What the metadata of the schema says, as JSON."""

    model_config = ConfigDict(defer_build=True, extra="forbid", strict=True)

    format: int
    position: Annotated[int, Field(ge=1, lt=2**63)]
    nonce: str
    written_at: Annotated[float, Field(allow_inf_nan=False)]
    encoder: str
    codec: str | None
    analyzer: str | None
    dim: Annotated[int, Field(ge=0)]
    """Numbers of a vector; 0 where there is none."""
    width: Annotated[int, Field(ge=0)]
    """Bytes of the codes of a token; 0 where there are none."""
    index_version: str | None = None
    requests: list[_Request]


def encode_entry(entry: LogEntry) -> bytes:
    """Return the file of an entry, signed where this process has a key.

    Raises InvalidArgument for one that is larger than a reader accepts, and ValueError where vectors or codes do not
    have one shape, requests do not fit, or something is no valid Unicode.
    """
    batch, dim, width = to_batch(entry.documents)
    sink = pa.BufferOutputStream()
    schema = DOCUMENT_SCHEMA.with_metadata({_METADATA_KEY: _header(entry, dim, width)})
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch)
    stream: bytes = sink.getvalue().to_pybytes()
    data = _framed(stream)
    if len(data) > MOST_ENTRY_BYTES:
        raise InvalidArgument(
            f"{len(entry.documents)} documents take {len(data)} bytes of the log, and {MOST_ENTRY_BYTES} are the most "
            "at once; write fewer at once"
        )
    return data


def decode_entry(data: bytes, place: str) -> LogEntry:
    """Read the file of an entry; `place` names it in errors.

    Raises CorruptIndex when a single byte differs from what `encode_entry` wrote, the format is a newer one, or this
    process has a key and the entry is not signed with it.
    """
    try:
        stream, signature = _verified(data)
    except ValueError as error:
        raise _damaged(place, error) from error
    signatures.check(_PURPOSE, stream, signature, place)
    try:
        return _from_stream(stream)
    except _DAMAGE as error:
        raise _damaged(place, error) from error


def with_signature(data: bytes, place: str) -> bytes | None:
    """Sign the file of an entry with the key of this process; None where it is signed with one of its keys already.

    Raises CorruptIndex for what is no entry as it was written.
    """
    try:
        stream, signature = _verified(data)
        _from_stream(stream)
    except _DAMAGE as error:
        raise _damaged(place, error) from error
    try:
        signatures.check(_PURPOSE, stream, signature, place)
    except CorruptIndex:
        return _framed(stream)
    return None


def _damaged(place: str, error: Exception) -> CorruptIndex:
    return CorruptIndex(
        f"{place} is not an entry of the log as it was written ({error}); restore this file: what was written after it "
        "is not served before"
    )


def _framed(stream: bytes) -> bytes:
    """Return an Arrow stream with its signature, where this process has a key, and the checksum of both."""
    signature = signatures.sign(_PURPOSE, stream)
    body = stream if signature is None else stream + f"{signature}\n".encode()
    return body + _checksum(body)


def _checksum(body: bytes) -> bytes:
    return f"sha256:{hashlib.sha256(body).hexdigest()}\n".encode()


def _verified(data: bytes) -> tuple[bytes, str | None]:
    """Return the Arrow stream of an entry and its signature. Raises ValueError unless its checksum is right."""
    if len(data) > MOST_ENTRY_BYTES:
        raise ValueError(f"it has more than {MOST_ENTRY_BYTES} bytes")
    body = data[:-_CHECKSUM_BYTES]
    if data[-_CHECKSUM_BYTES:] != _checksum(body):
        raise ValueError("its checksum is another")
    signed = _SIGNED.search(body, max(0, len(body) - len("hmac-sha256:") - 65))
    return (body, None) if signed is None else (body[: signed.start()], signed[0].decode().strip())


def _header(entry: LogEntry, dim: int, width: int) -> bytes:
    """Return the header as JSON. Raises ValueError (of pydantic) for one that no reader would accept."""
    requests = [
        _Request(key=each.key, body_digest=each.body_digest, first=each.first, count=each.count, answer=each.answer)
        for each in entry.requests
    ]
    _check_requests(requests, len(entry.documents))
    header = _Header(
        format=ENTRY_FORMAT,
        position=entry.position,
        nonce=entry.nonce,
        written_at=entry.written_at,
        encoder=entry.encoder,
        codec=entry.codec,
        analyzer=entry.analyzer,
        dim=dim,
        width=width,
        index_version=entry.index_version,
        requests=requests,
    )
    return json.dumps(header.model_dump(), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _check_requests(requests: Sequence[_Request], documents: int) -> None:
    if any(request.first + request.count > documents for request in requests):
        raise ValueError(f"a request has documents beyond the {documents} of the entry")


def _from_stream(stream: bytes) -> LogEntry:
    """Read an Arrow stream. Raises ValueError, or what Arrow raises, for one that `encode_entry` does not make."""
    buffer = pa.py_buffer(stream)
    reader = pa.ipc.open_stream(buffer)
    if not reader.schema.equals(DOCUMENT_SCHEMA):
        raise ValueError("it has other columns")
    header = _Header.model_validate_json(reader.schema.metadata[_METADATA_KEY])
    if header.format != ENTRY_FORMAT:
        raise ValueError(f"it has format {header.format}, this Shoal reads {ENTRY_FORMAT}; use the one that wrote it")
    batch = next(reader, None)
    if batch is None:
        raise ValueError("it has no record batch")
    documents = from_batch(batch, buffer, header.dim, header.width)
    if next(reader, None) is not None:
        raise ValueError("it has several record batches")
    _check_requests(header.requests, len(documents))
    return LogEntry(
        position=header.position,
        nonce=header.nonce,
        written_at=header.written_at,
        encoder=header.encoder,
        codec=header.codec,
        analyzer=header.analyzer,
        requests=tuple(LoggedRequest(**request.model_dump()) for request in header.requests),
        documents=documents,
        index_version=header.index_version,
    )
