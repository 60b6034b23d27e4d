"""`ivf_sq8`: lists of vectors with one byte for each dimension, and exact re-scoring."""

from shoal.indexes._auto import lists
from shoal.indexes._composed import Composed

_KIND = Composed(lambda dim, sample: f"IVF{lists(sample)},SQ8", "nprobe=32,refine=2", exact=True)

TRAINED, EXACT, NEEDS_GPU = True, True, False
check, precision, train, build, open = _KIND.check, _KIND.precision, _KIND.train, _KIND.build, _KIND.open
