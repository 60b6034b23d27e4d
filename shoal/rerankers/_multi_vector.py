"""Multi-vector models as rerankers: ColBERT, PyLate and whatever sentence-transformers loads as a MultiVectorEncoder.

    score(q, p) = mean over tokens t of q of ( max over tokens u of p of t . u )

MaxSim as in `late_interaction`, over the vectors of a model that was trained for it, with its own prompts, query
expansion and list of tokens that do not count; the mean instead of the sum, which orders alike, so that scores lie in
[-1, 1].
"""

from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from shoal.encoders import TextVectors
from shoal.encoders._multi_vector import MultiVectorModel, load_on_torch
from shoal.errors import InvalidArgument
from shoal.inference import models
from shoal.rerankers.late_interaction import LateInteraction
from shoal.settings import RerankerSettings

_NO_VECTOR = np.zeros(1, np.float32)
"""Stands for the vector of a text as a whole, which such a model has not."""


class MultiVectorTokens:
    """Implements `TokenVectors` by a multi-vector model."""

    def __init__(self, model: MultiVectorModel) -> None:
        self._model = model

    def encode_query_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
        """Encode queries, in input order."""
        return [TextVectors(_NO_VECTOR, tokens) for tokens in self._model.encode(texts, are_queries=True)]

    def encode_passage_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
        """Encode passages, in input order."""
        return [TextVectors(_NO_VECTOR, tokens) for tokens in self._model.encode(texts, are_queries=False)]


def load(model: str, settings: RerankerSettings) -> LateInteraction:
    """Load a model by local path or hub name, on torch.

    Raises ModelUnavailable when it is not to be had, InvalidArgument for a backend, device or precision that it or this
    machine lacks.
    """
    if settings.backend not in ("auto", "torch"):
        raise InvalidArgument(
            f"backend={settings.backend}: a multi-vector model is computed by torch; set backend to auto",
            param="backend",
        )
    loaded = load_on_torch(models.resolve(model).fetch(), settings, settings.threads)
    threadpool_limits(settings.threads, user_api="blas")
    tokens = MultiVectorTokens(MultiVectorModel(loaded, settings.threads))
    return LateInteraction(tokens, settings.token_cache_bytes, name=model, dense_weight=0.0)
