"""How relevant the results of a search are, from 0 to 1, for clients that expect that."""

import numpy as np

from shoal.records import FloatArray, ScoreScale, SearchAnswer, relevance_of


def relevance_of_results(answer: SearchAnswer, scale: ScoreScale | None) -> FloatArray:
    """Return, float32 (n,), how relevant the results are from 0 to 1.

    That is what the reranker says, or if it has not read them, the score of stage one: a cosine, that of the fusion,
    or BM25 b as b / (1 + b).

    Args:
        answer: Of a search.
        scale: Where the scores of the reranker lie.
    """
    if answer.reranked:  # what a shortlist kept from the reranker has no score of its
        return relevance_of(_array([result.rerank_score or 0.0 for result in answer.results]), scale)
    scores = _array([result.retrieval_score for result in answer.results])
    return scores / (1 + scores) if answer.mode == "lexical" else relevance_of(scores, "cosine")


def _array(scores: list[float]) -> FloatArray:
    return np.array(scores, dtype=np.float32)
