"""A learned sparse model without weights, in the place of those that take seconds to load."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np
import pytest

from shoal.fingerprint import SparseFingerprint
from shoal.records import TermWeights

DIMENSIONS = 50
"""Terms that it knows."""


class WordWeights:
    """Implements what is used of `SparseModel`: terms are words by their checksum, heavier the more often they occur.

    texts: what it was asked for.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.fingerprint = SparseFingerprint(
            model="words",
            weights="sha256:words",
            dimensions=DIMENSIONS,
            modules="words",
            query_prompt="",
            passage_prompt="",
            max_length=512,
            max_terms=None,
        )

    def encode(self, texts: Sequence[str], *, are_queries: bool) -> list[TermWeights]:
        self.texts += texts
        return [self._weigh(text, 1.0 if are_queries else 0.7) for text in texts]

    def _weigh(self, text: str, factor: float) -> TermWeights:
        numbers = [crc32(word.encode()) % DIMENSIONS for word in text.split()]
        terms, counts = np.unique(np.array(numbers, np.int32), return_counts=True)
        return TermWeights(terms, (factor * np.log1p(counts)).astype(np.float32))


@pytest.fixture
def word_weights(monkeypatch: pytest.MonkeyPatch) -> WordWeights:
    """The model that all encoders get which are loaded with `sparse_encoder`."""
    model = WordWeights()
    monkeypatch.setattr("shoal.encoders._sparse.load", lambda name, settings: model)
    return model
