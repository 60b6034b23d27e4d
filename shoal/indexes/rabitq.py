"""`rabitq`: lists of rotated vectors with one bit for each dimension (Gao & Long 2024), and exact re-scoring."""

from shoal.indexes._auto import lists
from shoal.indexes._composed import Composed

_KIND = Composed(lambda dim, sample: f"RR{dim},IVF{lists(sample)},RaBitQ", "nprobe=32,refine=16", exact=True)

TRAINED, EXACT, NEEDS_GPU = True, True, False
check, precision, train, build, open = _KIND.check, _KIND.precision, _KIND.train, _KIND.build, _KIND.open
