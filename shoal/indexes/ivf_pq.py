"""`ivf_pq`: lists of product-quantised vectors, one byte for every four dimensions, and exact re-scoring."""

from shoal.indexes._auto import lists, pq_dimensions
from shoal.indexes._composed import Composed

# np: no polysemous training, which takes some 3 s of a core for each byte of a code (measured) and serves a search by
# Hamming distances that this kind does not make.
_KIND = Composed(
    lambda dim, sample: f"IVF{lists(sample)},PQ{dim // pq_dimensions(dim)}np", "nprobe=32,refine=16", exact=True
)

TRAINED, EXACT, NEEDS_GPU = True, True, False
check, precision, train, build, open = _KIND.check, _KIND.precision, _KIND.train, _KIND.build, _KIND.open
