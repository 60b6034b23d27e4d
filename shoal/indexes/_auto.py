"""`index_kind auto`: the kind for a corpus, by its size, its dimensions and a memory budget.

1. `flat` up to 50,000 passages a shard if it fits: exact, and a query takes a few milliseconds.
2. Else the first of `ivf_sq8`, `ivf_pq` and `rabitq` that fits: the more a vector is compressed, the more candidates
   have to be compared exactly, with vectors that are read from disk where memory has no room for them.
3. `rabitq` if none fits: nothing is smaller.
"""

AUTO = "auto"
FLAT_ROWS = 50_000
_ID_BYTES = 8


def choose(passages: int, shards: int, dim: int, memory_bytes: float) -> str:
    """Choose the kind for so many passages of all shards together. Pure arithmetic: equal plans choose alike."""
    sizes = {
        "flat": 4 * dim,
        "ivf_sq8": dim + _ID_BYTES,
        "ivf_pq": dim / 4 + _ID_BYTES,
        "rabitq": dim / 8 + 8 + _ID_BYTES,
    }
    if passages > FLAT_ROWS * shards:
        del sizes["flat"]
    return next((kind for kind, size in sizes.items() if passages * size <= memory_bytes), "rabitq")
