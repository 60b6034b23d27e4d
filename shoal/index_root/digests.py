"""Digests of the ids of records: they decide the shard of a record, and find it there."""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.uint64]


def document_digests(documents: Iterable[str]) -> Digests:
    """Digests of record ids, uint64 (n,): the first 8 bytes of BLAKE2b, little endian.

    Modulo the number of shards, a digest is the number of the shard that holds the record.
    """
    data = b"".join([hashlib.blake2b(document.encode(), digest_size=8).digest() for document in documents])
    return np.frombuffer(data, "<u8").astype(np.uint64, copy=False)
