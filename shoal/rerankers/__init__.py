"""Rerankers score (query, passage) pairs. One reranker is one file here; the file name is its config key.

A reranker module defines `load(model: str, settings: RerankerSettings) -> Reranker`.
"""

from typing import TYPE_CHECKING, Protocol

from shoal.records import FloatArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.settings import RerankerSettings


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


def load_reranker(settings: "RerankerSettings") -> Reranker:
    """Load the reranker that the settings name.

    Raises ModelUnavailable when the model cannot be loaded, InvalidArgument when the kind does not exist.
    """
    raise NotImplementedError
