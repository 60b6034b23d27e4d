"""The numbers of BM25, computed in one way wherever they are needed, so that equal statistics give equal bits.

`shoal.lexical` has the formula.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.records import FloatArray


@dataclass(frozen=True, slots=True)
class TermStatistics:
    """What the corpus says of the terms of one query.

    passages: of the corpus.
    length: sum of their lengths in terms.
    terms: those of the query in their order, repeated as they are.
    frequencies: in how many passages of the corpus each of them occurs.
    weights: what the score of each counts, 1 for a word as it was typed; None if all were.
    """

    passages: int
    length: int
    terms: tuple[str, ...]
    frequencies: tuple[int, ...]
    weights: tuple[float, ...] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return TermStatistics, (self.passages, self.length, self.terms, self.frequencies, self.weights)

    @property
    def mean_length(self) -> float:
        """Terms of a passage, on average; 0 without passages."""
        return self.length / self.passages if self.passages else 0.0


def inverse_frequencies(passages: int, frequencies: NDArray[np.int64]) -> FloatArray:
    """Weigh terms that occur in so many of all passages, int64 (n,); returns float32 (n,)."""
    # As bm25s does it: rounded before it is multiplied.
    weights: FloatArray = np.log(1 + (passages - frequencies + 0.5) / (frequencies + 0.5)).astype(np.float32)
    return weights


def length_norms(lengths: NDArray[np.integer[Any]], mean_length: float, k1: float, b: float) -> NDArray[np.float64]:
    """What is added to a count in the denominator, for passages of so many terms, (n,); returns float64 (n,)."""
    norms: NDArray[np.float64] = (k1 * ((1 - b) + b * lengths / mean_length)).astype(np.float64, copy=False)
    return norms


def term_scores(
    weights: FloatArray | np.float32, counts: NDArray[np.integer[Any]], norms: NDArray[np.float64]
) -> FloatArray:
    """Score terms by their weights, (n,) or one for all, counts (n,) and norms (n,); returns float32 (n,)."""
    scores: FloatArray = (weights * (counts / (norms + counts))).astype(np.float32)
    return scores
