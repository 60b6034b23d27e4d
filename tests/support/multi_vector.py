"""A multi-vector model without weights, in the place of those that take seconds to load."""

from collections.abc import Sequence

import numpy as np
import pytest

from shoal.encoders.hashing import HashingEncoder
from shoal.fingerprint import LateFingerprint
from shoal.records import FloatArray

DIMENSIONS = 32
"""Numbers of the vector of a token."""
SKIPPED = "about"
"""A word of passages that does not count."""


class WordVectors:
    """Implements what is used of `MultiVectorModel`: a token is a word, and a query has one more, which stands for all.

    texts: what it was asked for.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._words = HashingEncoder(DIMENSIONS, 512)
        self.fingerprint = LateFingerprint(
            model="words",
            weights="sha256:words",
            dimensions=DIMENSIONS,
            modules="words",
            query_prompt="",
            passage_prompt="",
            query_length=64,
            passage_length=512,
            expansion="",
        )

    def encode(self, texts: Sequence[str], *, are_queries: bool) -> list[FloatArray]:
        self.texts += texts
        read = texts if are_queries else [" ".join(text.replace(SKIPPED, "").split()) for text in texts]
        made = self._words.encode_passage_tokens(read)
        if are_queries:
            return [np.concatenate([text.tokens, text.vector[None]]).astype(np.float32) for text in made]
        return [text.tokens.astype(np.float32) for text in made]

    def scores(self, query: str, passages: Sequence[str]) -> FloatArray:
        """MaxSim of a query and passages, averaged, float32 (n,)."""
        (asked,) = self.encode([query], are_queries=True)
        scores = [(asked @ tokens.T).max(axis=1).mean() for tokens in self.encode(passages, are_queries=False)]
        return np.array(scores, np.float32)


@pytest.fixture
def word_vectors(monkeypatch: pytest.MonkeyPatch) -> WordVectors:
    """The model that all encoders get which are loaded with `late_encoder`."""
    model = WordVectors()
    monkeypatch.setattr("shoal.encoders._multi_vector.load", lambda name, settings: (model, model.fingerprint))
    return model
