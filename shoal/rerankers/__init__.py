"""Rerankers score (query, passage) pairs. One reranker is one file here; the file name is its config key.

A reranker module defines `load(model: str, settings: RerankerSettings) -> Reranker`. A module whose name begins with an
underscore is not named by its file.
"""

import importlib
import logging
import pkgutil
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from shoal.errors import InvalidArgument
from shoal.inference import models
from shoal.inference.names import is_remote
from shoal.records import FloatArray, ScoreScale, Span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.fingerprint import Fingerprint
    from shoal.settings import RerankerSettings

_log = logging.getLogger(__name__)
_MODELS = "cross_encoder"
"""The backend of whatever is named as a model rather than as a module here."""
REMOTE = "_remote"
"""The module that asks an endpoint."""
_WITH_TOKEN_VECTORS = frozenset({"late_interaction"})
"""The modules here whose rerankers are `SentenceScorer`."""
MULTI_VECTOR = "_multi_vector"
"""The module that computes models with a vector for each token."""
_SCALES: dict[str, ScoreScale] = {
    "overlap": "unit",
    REMOTE: "unit",
    "late_interaction": "cosine",
    MULTI_VECTOR: "cosine",
}
"""Where the scores of the modules here lie; those of others are taken for logits."""
_ACTIVATIONS: dict[str, ScoreScale] = {"Sigmoid": "unit", "Tanh": "cosine", "Identity": "logit"}
"""Where the scores of a cross-encoder lie, by the last function that it computes."""


class Reranker(Protocol):
    """Not safe for concurrent calls; every owner has its own."""

    def score(self, query: str, passages: "Sequence[str]") -> FloatArray:
        """Return float32 (n,), higher is better, in input order."""
        ...

    def score_pairs(self, pairs: "Sequence[tuple[str, str]]") -> FloatArray:
        """Return float32 (n,) for (query, passage) pairs of any queries, in input order; one batch for many callers."""
        ...

    def name(self) -> str:
        """Name the reranker for /v1/index and for people."""
        ...


@runtime_checkable
class DeadlineReranker(Reranker, Protocol):
    """A reranker that waits instead of computing: it needs no thread, and is safe for concurrent calls."""

    async def score_until(self, query: str, passages: "Sequence[str]", deadline: float) -> FloatArray:
        """As `score`, by a deadline of `time.monotonic`.

        Raises DeadlineExceeded, Unavailable, Overloaded, or ShoalError for another failure.
        """
        ...


@runtime_checkable
class PairTokenCounter(Reranker, Protocol):
    """A reranker that also tells how much it reads."""

    def count_tokens(self, pairs: "Sequence[tuple[str, str]]") -> int:
        """Count the tokens that scoring these pairs reads, what is cut left out."""
        ...


@runtime_checkable
class SentenceScorer(Reranker, Protocol):
    """A reranker that also tells what in a passage matches a query, by the vectors of its tokens."""

    def score_sentences(
        self, query: str, passages: "Sequence[str]", sentences: "Sequence[Sequence[Span]]"
    ) -> "list[FloatArray | None]":
        """Return, float32 (s_i,) for each of n passages, how well each of its sentences matches the query.

        Args:
            query: What was asked.
            passages: N.
            sentences: Where those of each passage lie in it, in their order.

        Returns:
            Higher is better, -inf for a sentence that is not read; None for a passage where that is not known.
        """
        ...


def rerankers() -> list[str]:
    """Names that the setting `reranker` takes besides models: the files of this folder."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if not name.startswith("_"))


def kind_of(reranker: str) -> str:
    """Name the file of this folder that computes what the setting `reranker` names; `_remote` for an endpoint.

    A name that is no file of this folder is a model: an encoder trained for late interaction, which then reads the
    passages instead of the encoder of the index, a multi-vector model, or else a cross-encoder.

    Raises ModelUnavailable.
    """
    if is_remote(reranker):
        return REMOTE
    if reranker in rerankers():
        return reranker
    if (trained := models.trained_kind(reranker)) is not None:
        return trained
    return MULTI_VECTOR if models.is_multi_vector(models.resolve(reranker).fetch()) else _MODELS


def kind_over(reranker: str, encoder: "Fingerprint") -> str:
    """As `kind_of`, over an index with this encoder: token vectors of a multi-vector model rank as such a model does.

    Raises ModelUnavailable.
    """
    if reranker in _WITH_TOKEN_VECTORS and encoder.late is not None:
        return MULTI_VECTOR
    return kind_of(reranker)


def scores_sentences(kind: str) -> bool:
    """Whether rerankers of a kind (`kind_of`) are `SentenceScorer`."""
    return kind in _WITH_TOKEN_VECTORS


def scale_of(reranker: str) -> ScoreScale:
    """Say where the scores of what the setting `reranker` names lie. Raises as `kind_of`."""
    kind = kind_of(reranker)
    if kind != _MODELS:
        return _SCALES.get(kind, "logit")
    return _ACTIVATIONS.get(models.activation(models.resolve(reranker).fetch()).rpartition(".")[2], "logit")


def load_reranker(settings: "RerankerSettings") -> Reranker:
    """Load the reranker that the settings name.

    Raises ModelUnavailable when the model cannot be loaded, InvalidArgument for `none`, which is not a reranker.
    """
    if settings.reranker == "none":
        raise InvalidArgument("reranker=none: there is nothing to load", param="reranker")
    kind = kind_of(settings.reranker)
    if kind == "late_interaction" and settings.reranker != kind:
        settings = settings.model_copy(update={"encoder": settings.reranker})
    reranker: Reranker = importlib.import_module(f"{__name__}.{kind}").load(settings.reranker, settings)
    _log.info("reranker %s, %d threads", reranker.name(), settings.threads)
    return reranker
