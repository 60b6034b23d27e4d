"""`ivf`: the plain vectors in lists, of which a query looks through those that are nearest to it."""

from shoal.indexes._auto import lists
from shoal.indexes._composed import Composed

_KIND = Composed(lambda dim, sample: f"IVF{lists(sample)},Flat", "nprobe=32", exact=False)

TRAINED, EXACT, NEEDS_GPU = True, False, False
check, precision, train, build, open = _KIND.check, _KIND.precision, _KIND.train, _KIND.build, _KIND.open
