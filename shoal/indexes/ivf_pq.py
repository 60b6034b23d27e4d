"""`ivf_pq`: lists of product-quantised vectors, one byte for every four dimensions, and exact re-scoring."""

from shoal.indexes._composed import Composed, lists

_DIMENSIONS = (4, 5, 6, 7, 3, 2, 1)
"""Dimensions that share a byte, the first number that divides them all."""


def _describe(dim: int, sample: int) -> str:
    share = next(share for share in _DIMENSIONS if dim % share == 0)
    return f"IVF{lists(sample)},PQ{dim // share}"


_KIND = Composed(_describe, "nprobe=32,refine=16", exact=True)

TRAINED, EXACT = True, True
check, train, build, open = _KIND.check, _KIND.train, _KIND.build, _KIND.open
