"""Synthetic vectors that lie in clusters, as those of texts do: to measure searches with where there is no corpus."""

import numpy as np

from shoal.records import FloatArray

DIM, CLUSTERS, SPREAD = 384, 2000, 0.4


class Centres:
    """The centres of the clusters; vectors lie around them in few directions."""

    def __init__(self, chance: np.random.Generator) -> None:
        self._centres = _normalised(chance.standard_normal((CLUSTERS, DIM), dtype=np.float32))
        self._directions = chance.standard_normal((64, DIM), dtype=np.float32) / np.sqrt(np.float32(64 * DIM))

    def around(self, clusters: np.ndarray, chance: np.random.Generator) -> FloatArray:
        """Return a unit vector of each of the clusters, float32 (n, dim)."""
        noise = chance.standard_normal((len(clusters), 64), dtype=np.float32) @ self._directions
        return _normalised(self._centres[clusters] + np.float32(SPREAD) * noise)


def _normalised(vectors: FloatArray) -> FloatArray:
    scaled: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled
