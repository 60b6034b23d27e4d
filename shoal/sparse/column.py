"""How the terms of passages lie in the files of a running build."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from shoal.records import TermWeights

COLUMN = pa.field("sparse", pa.large_binary(), nullable=False)
"""Column of a unit file: the terms of a passage, one after the other, each an ENTRY."""
ENTRY = np.dtype([("term", "<i4"), ("weight", "<f2")])
"""A term and its weight."""
_GREATEST = np.float32(np.finfo(np.float16).max)
"""The greatest weight that can be kept."""


def column_of(passages: Sequence[TermWeights]) -> pa.LargeBinaryArray:
    """The column of passages with these terms; weights that round to 0 are left out."""
    return pa.array([_entries(passage).tobytes() for passage in passages], COLUMN.type)


def _entries(passage: TermWeights) -> np.ndarray:
    weights = np.clip(passage.weights, -_GREATEST, _GREATEST).astype(np.float16)
    kept = np.flatnonzero(weights)
    entries = np.empty(len(kept), ENTRY)
    entries["term"], entries["weight"] = passage.terms[kept], weights[kept]
    return entries
