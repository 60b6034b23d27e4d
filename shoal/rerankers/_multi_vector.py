"""Multi-vector models as rerankers: ColBERT, PyLate and whatever sentence-transformers loads as a MultiVectorEncoder.

    score(q, p) = mean over tokens t of q of ( max over tokens u of p of t . u )

MaxSim as in `late_interaction`, over the vectors of a model that was trained for it, with its own prompts, query
expansion and list of tokens that do not count; the mean instead of the sum, which orders alike, so that scores lie in
[-1, 1].
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from shoal.encoders import TextVectors
from shoal.errors import InvalidArgument
from shoal.inference import models
from shoal.inference.placement import place
from shoal.records import FloatArray
from shoal.rerankers.late_interaction import LateInteraction
from shoal.settings import RerankerSettings

if TYPE_CHECKING:
    import torch
    from sentence_transformers import MultiVectorEncoder

_BATCH = 32
"""Texts of one forward pass; those of similar length share one."""
_NO_VECTOR = np.zeros(1, np.float32)
"""Stands for the vector of a text as a whole, which such a model has not."""


class MultiVectorTokens:
    """Implements `TokenVectors` by a model of sentence-transformers. threads: CPU threads."""

    def __init__(self, model: "MultiVectorEncoder", threads: int) -> None:
        self._model = model.eval()
        self._threads = threads

    def encode_query_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
        """Encode queries, in input order."""
        return self._encode(texts, are_queries=True)

    def encode_passage_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
        """Encode passages, in input order."""
        return self._encode(texts, are_queries=False)

    def _encode(self, texts: Sequence[str], *, are_queries: bool) -> list[TextVectors]:
        import torch

        if not texts:
            return []
        torch.set_num_threads(self._threads)  # for each calling thread
        # Half a surrogate pair would make the tokenizer refuse the whole batch.
        read = [text.encode("utf-8", "replace").decode() for text in texts]
        if are_queries:
            made = self._model.encode_query(read, batch_size=_BATCH, show_progress_bar=False)
        else:
            made = self._model.encode_document(read, batch_size=_BATCH, show_progress_bar=False)
        return [TextVectors(_NO_VECTOR, _tokens(tensor)) for tensor in made]


def _tokens(made: "torch.Tensor") -> FloatArray:
    tokens: FloatArray = made.float().cpu().numpy()
    # A passage of nothing but tokens that do not count is like none.
    return tokens if len(tokens) else np.zeros((1, tokens.shape[-1]), np.float32)


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
    from shoal.inference.torch_network import load_multi_vector

    placement = place(settings.model_copy(update={"backend": "torch"}))
    folder = models.resolve(model).fetch()
    if settings.dtype == "auto" and placement.dtype == "float16" and models.trained_dtype(folder) == "bfloat16":
        placement = replace(placement, dtype="bfloat16")
    threadpool_limits(settings.threads, user_api="blas")
    tokens = MultiVectorTokens(load_multi_vector(folder, placement, settings.threads), settings.threads)
    return LateInteraction(tokens, settings.token_cache_bytes, name=model, dense_weight=0.0)
