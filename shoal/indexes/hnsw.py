"""`hnsw`: a graph over the plain vectors: the fastest to search, the slowest to build, and the largest."""

from shoal.indexes._composed import Composed

_KIND = Composed(lambda dim, sample: "HNSW32,Flat", "efSearch=64", exact=False)

TRAINED, EXACT, NEEDS_GPU = True, False, False
check, precision, train, build, open = _KIND.check, _KIND.precision, _KIND.train, _KIND.build, _KIND.open
