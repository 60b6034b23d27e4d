"""A deterministic, weightless reranker: how much of the query's words a passage holds.

    score(q, p) = sum over words w of q of weight(w) * saturation(w, p)  /  sum over words w of q of weight(w)
    saturation(w, p) = n / (n + 0.5 + length(p) / 200),  n = how often w occurs in p, length in words

The damping by frequency and length is that of BM25 (Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework")
with fixed constants. There are no corpus statistics here, so the length of a word, at most 12 characters, stands in for
its rarity. Scores lie in [0, 1). For tests and trials. Words are runs of letters and digits, whatever their case.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from shoal.records import FloatArray
from shoal.settings import RerankerSettings

_WORD = re.compile(r"[^\W_]+")
"""What counts as a word here."""
_LONGEST = 12
"""Characters of a word that are compared."""


class OverlapReranker:
    """Implements the Reranker protocol."""

    def name(self) -> str:
        """Name the reranker for /v1/index and for people."""
        return "overlap"

    def score(self, query: str, passages: Sequence[str]) -> FloatArray:
        """Return float32 (n,), higher is better, in input order."""
        weights = {word: min(len(word), _LONGEST) for word in _words(query)}
        return np.array([_score(weights, passage) for passage in passages], dtype=np.float32)

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """Return float32 (n,) in input order."""
        return np.array([self.score(query, [passage])[0] for query, passage in pairs], dtype=np.float32)

    def count_tokens(self, pairs: Sequence[tuple[str, str]]) -> int:
        """Count the words of these pairs."""
        return sum(len(_words(query)) + len(_words(passage)) for query, passage in pairs)


def load(model: str, settings: RerankerSettings) -> OverlapReranker:
    """Load the reranker; there is nothing to configure."""
    return OverlapReranker()


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _score(weights: dict[str, int], passage: str) -> float:
    words = _words(passage)
    counts = Counter(words)
    damping = 0.5 + len(words) / 200
    found = sum(weight * counts[word] / (counts[word] + damping) for word, weight in weights.items())
    return found / max(1, sum(weights.values()))
