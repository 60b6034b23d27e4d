"""What rows of one shard are grouped by: the values of a metadata field, and digests of their texts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shoal.filters import Value

if TYPE_CHECKING:
    from shoal.shard.live import LiveShard
    from shoal.shard.reader import Shard

_DIGEST_BYTES = 16
"""Bytes of the digest of a text: of a billion texts no two different ones have the same."""


@dataclass(frozen=True, slots=True)
class RowKeys:
    """The keys of some rows, in their order.

    values: of a field, None where a row has none, a timestamp in microseconds since 1970; None if no field was named.
    texts: digests of title and text; None if they were not asked for.
    """

    values: list[Value | None] | None
    texts: list[bytes] | None


@dataclass(frozen=True, slots=True)
class ReadKeys:
    """Asks a shard for the values of a field, unless None, and for the texts of rows."""

    rows: Sequence[int]
    field: str | None
    texts: bool

    def answer(self, shard: "Shard | LiveShard") -> RowKeys:
        """Read them in an opened shard. Raises InvalidArgument for a version without metadata, or a row outside."""
        rows = shard.inside(self.rows)
        values = None
        if self.field is not None:
            values = shard.values_of(self.field, rows)
        texts = [self._digest(shard, row) for row in np.asarray(rows).tolist()] if self.texts else None
        return RowKeys(values, texts)

    def _digest(self, shard: "Shard | LiveShard", row: int) -> bytes:
        return hashlib.blake2b(shard.content(row).encode(), digest_size=_DIGEST_BYTES).digest()
