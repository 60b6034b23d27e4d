"""Digests of the ids of records, which decide the shard of a record and find it there, and of what reduces tokens."""

import hashlib
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.uint64]


def document_digests(documents: Iterable[str]) -> Digests:
    """Digests of record ids, uint64 (n,): the first 8 bytes of BLAKE2b, little endian.

    Modulo the number of shards, a digest is the number of the shard that holds the record.
    """
    data = b"".join([hashlib.blake2b(document.encode(), digest_size=8).digest() for document in documents])
    return np.frombuffer(data, "<u8").astype(np.uint64, copy=False)


def reduction_bytes(projection: NDArray[np.floating[Any]], bits: int) -> bytes:
    """Serialise what token vectors are reduced with (`shoal.late.codec`): its SHA-256 names it in entries of the log.

    Args:
        projection: float32 (dims, hidden + 2), as a shard keeps it.
        bits: Of a component.
    """
    file = io.BytesIO()
    axes = np.ascontiguousarray(projection[:, :-2])
    np.savez(file, axes=axes, means=projection[:, -2].copy(), steps=projection[:, -1].copy(), bits=np.int64(bits))
    return file.getvalue()
