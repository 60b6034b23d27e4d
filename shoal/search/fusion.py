"""Fusing what several retrievers found for one query, by vectors and by words, into one ranking.

`weighted` is a convex combination of the scores, which stand on different scales and are brought to [0, 1] by the
least and the greatest of the query's candidates (min-max; Bruch, Gai & Ingber 2023, "An Analysis of Fusion Functions
for Hybrid Retrieval"): (1 - w) * dense + w * lexical; with a learned sparse model, which has the share s, it is
(1 - s) * ((1 - w) * dense + w * lexical) + s * sparse. Every candidate has the scores of all retrievers, whichever
found it; a retriever that is not named here weighs as much as the dense one.

`rrf` is reciprocal rank fusion (Cormack, Clarke & Büttcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and
individual Rank Learning Methods"): each list gives a passage 1 / (k + its rank in it); theirs is k = 60. It needs no
weight, and gives the weaker list as much say as the stronger one: on two of the README's five collections it falls
behind vectors alone by more than 0.01 nDCG@10, where `weighted` with w = 0.3 is ahead of both on all five.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shoal.fingerprint import Fingerprint
from shoal.records import Candidate, FloatArray, RowRef
from shoal.rerankers import MULTI_VECTOR
from shoal.settings import FusionSettings

Scores = NDArray[np.float64]
_LATE = "late"
"""The kind of scores by token vectors of the encoder that the shards hold."""
_WEIGHTS = {"late_interaction": (0.25, 0.2), _LATE: (0.25, 0.2)}
"""Dense and lexical weight by kind of reranker, from the flat top of those tried on the collections of the README."""


def fuse(
    rankings: Mapping[str, Sequence[Candidate]], settings: FusionSettings, depth: int = sys.maxsize
) -> list[Candidate]:
    """Fuse the rankings of several retrievers; returns the first `depth` passages, equal scores ordered by id.

    Every passage of any of them counts once, with the scores of all retrievers and the ranks of those that found it.
    """
    candidates: dict[RowRef, Candidate] = {}
    for name, ranking in rankings.items():
        for candidate in ranking:
            known = candidates.get(candidate.ref)
            if known is None:
                candidates[candidate.ref] = candidate
                continue
            # The score that a retriever gave itself, not the one that was filled in, is what its rank goes by.
            candidates[candidate.ref] = replace(
                known,
                scores={**known.scores, name: candidate.scores[name]},
                ranks={**known.ranks, name: candidate.ranks[name]},
            )
    union = list(candidates.values())
    fused_scores = _FUSIONS[settings.fusion](union, tuple(rankings), settings)
    places = _at_least(fused_scores, depth)
    entries = zip(fused_scores[places].tolist(), map(union.__getitem__, places), strict=True)
    best = sorted(entries, key=lambda entry: (-entry[0], entry[1].id))[:depth]
    return [replace(candidate, score=score, rank=rank) for rank, (score, candidate) in enumerate(best, 1)]


def _at_least(scores: Scores, count: int) -> list[int]:
    """The places of the `count` highest scores, and of those that equal the last of them."""
    if len(scores) <= count:
        return list(range(len(scores)))
    places: list[int] = np.flatnonzero(
        scores >= np.partition(scores, len(scores) - count)[len(scores) - count]
    ).tolist()
    return places


def late_kind(encoder: Fingerprint | None) -> str:
    """What kind of reranker gives scores by the token vectors that shards hold, by the encoder of their index."""
    return _LATE if encoder is None or encoder.late is None else MULTI_VECTOR


def blend(
    scores: FloatArray,
    candidates: Sequence[Candidate],
    settings: FusionSettings,
    max_lexical_score: float,
    kind: str,
) -> FloatArray:
    """Combine rerank scores with what stage one knows of the same candidates; returns float32 (n,).

        blended = rerank + dense weight * cosine + lexical weight * BM25 / max_lexical_score

    A cross-encoder has read all this and more, and a multi-vector model was trained to rank alone. The encoder's own
    tokens have not seen which words are rare, and the mean of their similarities wants some more of the whole.

    Args:
        scores: float32 (n,), those of the reranker.
        candidates: N, each with a dense and a lexical score.
        settings: The weights, if they are set.
        max_lexical_score: The highest BM25 score that the query has in the index.
        kind: Of the reranker that gave the scores, which decides weights that are not set.
    """
    dense_default, lexical_default = _WEIGHTS.get(kind, (0.0, 0.0))
    dense = dense_default if settings.rerank_dense_weight is None else settings.rerank_dense_weight
    lexical = lexical_default if settings.rerank_lexical_weight is None else settings.rerank_lexical_weight
    cosine = np.array([candidate.scores["dense"] for candidate in candidates], np.float32)
    bm25 = np.array([candidate.scores["lexical"] for candidate in candidates], np.float32)
    blended: FloatArray = scores + dense * cosine + (lexical * bm25 / max_lexical_score if max_lexical_score > 0 else 0)
    return blended


def scaled(scores: Scores) -> Scores:
    """Bring scores, float64 (n,), to [0, 1] by their least and greatest; all are 0 where these are equal."""
    least, greatest = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 0.0)
    return (scores - least) / (greatest - least) if greatest > least else np.zeros_like(scores)


def _rrf(candidates: Sequence[Candidate], retrievers: Sequence[str], settings: FusionSettings) -> Scores:
    def share(candidate: Candidate, name: str) -> float:
        return 1 / (settings.rrf_k + candidate.ranks[name]) if name in candidate.ranks else 0.0

    return np.array([sum(share(candidate, name) for name in retrievers) for candidate in candidates])


def _weighted(candidates: Sequence[Candidate], retrievers: Sequence[str], settings: FusionSettings) -> Scores:
    fused = np.zeros(len(candidates))
    others = 1 - settings.sparse_weight if "sparse" in retrievers else 1.0
    weights = {
        "dense": others * (1 - settings.lexical_weight),
        "lexical": others * settings.lexical_weight,
        "sparse": settings.sparse_weight,
    }
    for name in retrievers:
        fused += weights.get(name, weights["dense"]) * scaled(
            np.array([candidate.scores[name] for candidate in candidates], np.float64)
        )
    return fused


_FUSIONS: dict[str, Callable[[Sequence[Candidate], Sequence[str], FusionSettings], Scores]] = {
    "rrf": _rrf,
    "weighted": _weighted,
}
"""How rankings are fused, by the name in the settings."""
