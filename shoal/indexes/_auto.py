"""`index_kind auto`: the kind for a corpus, by its size, its dimensions and a memory budget.

1. `flat` up to 50,000 passages a shard if it fits: exact, and a query takes a few milliseconds.
2. Else the first of `ivf_sq8`, `ivf_pq` and `rabitq` that fits: the more a vector is compressed, the more candidates
   have to be compared exactly, with vectors that are read from disk where memory has no room for them.
3. `rabitq` if none fits: nothing is smaller.

Whatever is planned before there is an index goes by the sizes that stand here.
"""

from math import sqrt

AUTO = "auto"
"""The name by which the kind is chosen for the corpus."""
CHOICES = ("flat", "ivf_sq8", "ivf_pq", "rabitq")
"""The kinds that are chosen from, the least compressed first."""
FLAT_ROWS = 50_000
"""Passages of a shard up to which exact search is quick enough."""
_ID_BYTES, _LINK_BYTES = 8, 270
_VECTORS_A_LIST = 39
"""Training vectors for each list of an IVF index, at least: FAISS warns of fewer."""
_PQ_DIMENSIONS = (4, 5, 6, 7, 3, 2, 1)
"""Dimensions of one code of `ivf_pq`, the most wanted first."""


def choose(passages: int, shards: int, dim: int, memory_bytes: float) -> str:
    """Choose the kind for so many passages of all shards together. Pure arithmetic: equal plans choose alike."""
    kinds = CHOICES[passages > FLAT_ROWS * shards :]
    return next((kind for kind in kinds if passages * code_bytes(kind, dim) <= memory_bytes), kinds[-1])


def code_bytes(kind: str, dim: int) -> float:
    """Bytes of one vector in an index, without the lists' centres and the exact vector beside it.

    A FAISS factory string is taken for an index of plain vectors, which few of them exceed.
    """
    sizes = {
        "hnsw": 4 * dim + _LINK_BYTES,
        "cagra": 4 * dim + _LINK_BYTES,
        "ivf": 4 * dim + _ID_BYTES,
        "ivf_sq8": dim + _ID_BYTES,
        "ivf_pq": dim / pq_dimensions(dim) + _ID_BYTES,
        # A bit for each dimension, and two factors of its own.
        "rabitq": dim / 8 + 8 + _ID_BYTES,
    }
    return sizes.get(kind, 4 * dim)


def compressed(kind: str) -> bool:
    """Whether a kind keeps the vectors in float16 as well, for exact comparison."""
    return kind in ("ivf_sq8", "ivf_pq", "rabitq")


def pq_dimensions(dim: int) -> int:
    """Dimensions of a vector that share a byte of a product-quantised code, the first number that divides them all."""
    return next(share for share in _PQ_DIMENSIONS if dim % share == 0)


def lists(sample: int) -> int:
    """Lists of an IVF index that is trained on so many vectors: the power of two up to 4 times their root.

    The sample bounds the number: with 262,144 vectors, the default of train_passages, 2048.
    """
    wanted: int = min(round(4 * sqrt(sample)), sample // _VECTORS_A_LIST)
    return 1 << max(0, wanted.bit_length() - 1)
