"""A deterministic sample of vectors from all over the corpus, for training and for measuring recall."""

import numpy as np
from numpy.typing import NDArray

from shoal.index_root.storage import Storage
from shoal.indexing.units import UnitFile, vectors_of
from shoal.records import FloatArray

MAX_UNITS = 4096
"""Most unit files that one sample of vectors reads: beyond that many, more of them add nothing but input."""


def stratified(total: int, count: int, seed: int) -> NDArray[np.int64]:
    """Choose min(count, total) of range(total): one at random from each of `count` equal strata. int64, ascending."""
    count = min(count, total)
    if count == 0:
        return np.zeros(0, np.int64)
    borders = np.arange(count + 1, dtype=np.int64) * total // count
    return np.random.default_rng(seed).integers(borders[:-1], borders[1:])


def sample_vectors(
    storage: Storage, plan_hash: str, passages: NDArray[np.int64], shards: int, dim: int, count: int, seed: int
) -> FloatArray:
    """Return float32 (min(count, total), dim): vectors of passages spread evenly over the units.

    Memory: the sample and one unit.

    Args:
        passages: int64 (units,), passages of each unit.
    """
    filled = np.flatnonzero(passages)
    total = int(passages.sum())
    enough = max(MAX_UNITS, 2 * count * len(filled) // max(total, 1))
    units = filled[stratified(len(filled), enough, seed)]
    ends = np.cumsum(passages[units])
    chosen = stratified(int(ends[-1]) if len(units) else 0, count, seed)
    sample = np.empty((len(chosen), dim), np.float32)
    for unit, stop, size in zip(units.tolist(), ends.tolist(), passages[units].tolist(), strict=True):
        low, high = np.searchsorted(chosen, (stop - size, stop))
        if low < high:
            _copy_rows(storage, plan_hash, unit, shards, chosen[low:high] - (stop - size), sample[low:high])
    return sample


def _copy_rows(
    storage: Storage, plan_hash: str, unit: int, shards: int, rows: NDArray[np.int64], target: FloatArray
) -> None:
    """Copy vectors of ascending rows of a unit, counted over its shards, into `target`, float32 (len(rows), dim)."""
    with UnitFile(storage, plan_hash, unit, ["vector"]) as file:
        start = 0
        for shard in range(shards):
            vectors = vectors_of(file.shard(shard))
            low, high = np.searchsorted(rows, (start, start + len(vectors)))
            target[low:high] = vectors[rows[low:high] - start]
            start += len(vectors)
