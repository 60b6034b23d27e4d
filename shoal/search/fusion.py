"""Fusing what a hybrid query found by vectors and by words into one ranking.

`weighted` is a convex combination of the scores, which stand on different scales and are brought to [0, 1] by the
least and the greatest of the query's candidates (min-max; Bruch, Gai & Ingber 2023, "An Analysis of Fusion Functions
for Hybrid Retrieval"): (1 - w) * dense + w * lexical. Every candidate has both scores, found in both ways or in one.

`rrf` is reciprocal rank fusion (Cormack, Clarke & Büttcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and
individual Rank Learning Methods"): each list gives a passage 1 / (k + its rank in it); theirs is k = 60. It needs no
weight, and gives the weaker list as much say as the stronger one: on two of the README's five collections it falls
behind vectors alone by more than 0.01 nDCG@10, where `weighted` with w = 0.3 is ahead of both on all five.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shoal.records import Candidate, FloatArray
from shoal.settings import FusionSettings, ServeSettings

Scores = NDArray[np.float64]
_WEIGHTS = {"late_interaction": (0.25, 0.2), "late": (0.25, 0.2)}
"""Dense and lexical weight by kind of reranker, from the flat top of those tried on the collections of the README."""


def fuse(dense: Sequence[Candidate], lexical: Sequence[Candidate], settings: FusionSettings) -> list[Candidate]:
    """Fuse two rankings into one, best first, equal scores ordered by id; every passage of either is in it once.

    Each candidate has both scores, and the rank of each list that it is in.
    """
    candidates = {candidate.id: candidate for candidate in dense}
    for candidate in lexical:
        both = candidates.get(candidate.id)
        if both is None:
            candidates[candidate.id] = candidate
        else:
            # The score that a way of searching gave itself, not the one that was filled in, is what its rank goes by.
            candidates[candidate.id] = replace(
                both, lexical_score=candidate.lexical_score, lexical_rank=candidate.lexical_rank
            )
    union = list(candidates.values())
    scores = _FUSIONS[settings.fusion](union, settings).tolist()
    order = sorted(zip(scores, union, strict=True), key=lambda entry: (-entry[0], entry[1].id))
    return [replace(candidate, score=score, rank=rank) for rank, (score, candidate) in enumerate(order, 1)]


def blend(
    scores: FloatArray,
    candidates: Sequence[Candidate],
    settings: ServeSettings,
    greatest: float,
    kind: str,
) -> FloatArray:
    """Combine rerank scores, float32 (n,), with what stage one knows of the same candidates; returns float32 (n,).

        blended = rerank + dense weight * cosine + lexical weight * BM25 / greatest

    greatest: the highest BM25 score that the query has in the index. kind: of the reranker that gave the scores. A
    cross-encoder has read all this and more; late interaction has not seen which words are rare, and the mean of its
    token similarities wants some more of the whole.
    """
    dense_default, lexical_default = _WEIGHTS.get(kind, (0.0, 0.0))
    dense = dense_default if settings.rerank_dense_weight is None else settings.rerank_dense_weight
    lexical = lexical_default if settings.rerank_lexical_weight is None else settings.rerank_lexical_weight
    cosine = np.array([candidate.dense_score for candidate in candidates], np.float32)
    words = np.array([candidate.lexical_score for candidate in candidates], np.float32)
    blended: FloatArray = scores + dense * cosine + (lexical * words / greatest if greatest > 0 else 0)
    return blended


def scaled(scores: Scores) -> Scores:
    """Bring scores, float64 (n,), to [0, 1] by their least and greatest; all are 0 where these are equal."""
    least, greatest = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 0.0)
    return (scores - least) / (greatest - least) if greatest > least else np.zeros_like(scores)


def _rrf(candidates: Sequence[Candidate], settings: FusionSettings) -> Scores:
    def share(rank: int | None) -> float:
        return 0.0 if rank is None else 1 / (settings.rrf_k + rank)

    return np.array([share(candidate.dense_rank) + share(candidate.lexical_rank) for candidate in candidates])


def _weighted(candidates: Sequence[Candidate], settings: FusionSettings) -> Scores:
    dense = scaled(np.array([candidate.dense_score for candidate in candidates], np.float64))
    lexical = scaled(np.array([candidate.lexical_score for candidate in candidates], np.float64))
    return (1 - settings.lexical_weight) * dense + settings.lexical_weight * lexical


_FUSIONS: dict[str, Callable[[Sequence[Candidate], FusionSettings], Scores]] = {"rrf": _rrf, "weighted": _weighted}
