"""What a learned blend knows of the candidates of a query: their scores, ranks and texts, as numbers.

All of it comes from the candidates themselves. How much a word of the query says, for one, is counted among them
(`_idf`), so that nothing has to be asked of the corpus.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from shoal.records import FloatArray

Numbers = NDArray[np.float64]
WINDOW = 20
"""Words of a stretch of text in which the words of a query are looked for together."""
_SAME = 1e-9
"""Standard deviation below which numbers count as equal."""
_BY_SCORE = ("{0}", "{0}_z", "{0}_gap", "{0}_log_rank")
"""Features of a score: itself, its z-score among the candidates, its distance from the best, the logarithm of its
rank."""
_COMPARED_TEXTS = ("idf_share", "window_share", "closeness", "pairs", "length", "density")
"""Features of a text that are given as z-scores among the candidates as well."""


@dataclass(frozen=True, slots=True)
class CandidateScores:
    """The scores of the n candidates of a query, float64 (n,) each; higher is better.

    dense: cosine. lexical: BM25, as a share of the highest that the query has in the index. stage_one: the fused score.
    rerank: what the second stage gave. blended: what orders an answer without a learned blend.
    """

    dense: Numbers
    lexical: Numbers
    stage_one: Numbers
    rerank: Numbers
    blended: Numbers


SCORES = tuple(field.name for field in fields(CandidateScores))
"""Names of the scores."""


@dataclass(frozen=True, slots=True)
class _TextFeatures:
    """How the n texts go with a query, float64 (n,) each.

    idf_share: share of the idf of the query's terms that a text holds. term_share: share of these terms.
    window_share: the greatest share of their idf within WINDOW terms. closeness: terms that a text holds of the query,
    by the terms of the shortest stretch that has all of these; 0 for less than two. pairs: log(1 + x) of the places
    where two terms stand side by side as in the query. length: log(1 + x) of its terms. first_match: where the first
    term of the query stands, as a share of the text; 1 without one. rarest_term: 1 if it holds the term with the
    highest idf. density: share of its terms that are some of the query's.
    """

    idf_share: Numbers
    term_share: Numbers
    window_share: Numbers
    closeness: Numbers
    pairs: Numbers
    length: Numbers
    first_match: Numbers
    rarest_term: Numbers
    density: Numbers


_TEXTS = tuple(field.name for field in fields(_TextFeatures))
"""Names of the features of a text."""
_QUERIES = ("query_terms", "dense_spread", "lexical_spread", "rerank_spread", "dense_best", "rerank_best")
"""Features that all candidates of a query have in common: its terms, standard deviations and greatest scores."""
FEATURES = (
    *(pattern.format(name) for name in SCORES for pattern in _BY_SCORE),
    "best_log_rank",
    *_TEXTS,
    *(f"{name}_z" for name in _COMPARED_TEXTS),
    *_QUERIES,
)
"""Names of all features, in their order."""
MONOTONE = {
    **{f"{name}_z": 1 for name in (*SCORES, "idf_share", "window_share", "closeness", "pairs")},
    **{f"{name}_log_rank": -1 for name in (*SCORES, "best")},
}
"""Features with which a score may only rise (1) or only fall (-1), all else being equal."""


def compute_features(scores: CandidateScores, query: Sequence[str], passages: Sequence[Sequence[str]]) -> FloatArray:
    """Return float32 (n, len(FEATURES)), all finite.

    Args:
        scores: Of n candidates.
        query: Terms of the query, in their order.
        passages: Terms of each of the n passages, in their order.
    """
    by_name: dict[str, Numbers] = {}
    for name in SCORES:
        values = np.asarray(getattr(scores, name), np.float64)
        best = values.max(initial=-np.inf)
        by_name |= {
            name: values,
            f"{name}_z": z_scores(values),
            f"{name}_gap": values - best,
            f"{name}_log_rank": np.log(_ranks(values)),
        }
    ranks = [by_name[f"{name}_log_rank"] for name in ("dense", "lexical", "rerank")]
    by_name["best_log_rank"] = np.minimum.reduce(ranks)
    texts = _text_features(query, passages)
    for name in _TEXTS:
        by_name[name] = getattr(texts, name)
    by_name |= {f"{name}_z": z_scores(by_name[name]) for name in _COMPARED_TEXTS}
    whole = {
        "query_terms": float(len(query)),
        **{f"{name}_spread": float(by_name[name].std()) if len(passages) else 0.0 for name in SCORES},
        **{f"{name}_best": float(by_name[name].max(initial=0.0)) for name in SCORES},
    }
    by_name |= {name: np.full(len(passages), whole[name]) for name in _QUERIES}
    return np.stack([by_name[name] for name in FEATURES], axis=1).astype(np.float32)


def z_scores(values: Numbers) -> Numbers:
    """Return how many standard deviations each of n numbers lies above their mean; 0 for all where they are equal."""
    deviation = float(values.std()) if len(values) else 0.0
    return (values - values.mean()) / deviation if deviation > _SAME else np.zeros(len(values))


def _ranks(values: Numbers) -> Numbers:
    """Ranks from 1, best first; equal values in the order in which they stand."""
    ranks = np.empty(len(values))
    ranks[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
    return ranks


def _text_features(query: Sequence[str], passages: Sequence[Sequence[str]]) -> _TextFeatures:
    numbers = {term: number for number, term in enumerate(dict.fromkeys(query))}
    pairs = set(pairwise(query))
    # Place and number of each term of the query, by passage.
    matches = [
        [(place, numbers[term]) for place, term in enumerate(passage) if term in numbers] for passage in passages
    ]
    held = [{number for _, number in match} for match in matches]
    idf = _idf(len(numbers), held)
    total, rarest = float(idf.sum()) or 1.0, int(idf.argmax()) if len(idf) else -1
    rows = []
    for passage, match, terms in zip(passages, matches, held, strict=True):
        length = max(len(passage), 1)
        rows.append(
            (
                sum(idf[number] for number in sorted(terms)) / total,
                len(terms) / max(len(numbers), 1),
                _best_window(match, idf) / total,
                len(terms) / _shortest_stretch(match, len(terms)) if len(terms) > 1 else 0.0,
                np.log1p(sum(pair in pairs for pair in pairwise(passage))),
                np.log1p(len(passage)),
                match[0][0] / length if match else 1.0,
                float(rarest in terms),
                len(match) / length,
            )
        )
    columns = np.array(rows, np.float64).reshape(len(passages), len(_TEXTS)).T
    return _TextFeatures(*columns)


def _idf(count: int, held: Sequence[set[int]]) -> Numbers:
    """The idf of so many terms among n passages, by which of them each holds: log(1 + (n - f + 0.5) / (f + 0.5)).

    f is how many passages hold a term. One that none holds has 0: it tells no candidate from another.
    """
    frequencies = np.zeros(count)
    for numbers in held:
        frequencies[list(numbers)] += 1
    idf = np.log1p((len(held) - frequencies + 0.5) / (frequencies + 0.5))
    return np.where(frequencies > 0, idf, 0.0)


def _best_window(match: Sequence[tuple[int, int]], idf: Numbers) -> float:
    """The greatest sum of the idf of distinct terms within WINDOW terms."""
    weights, counts = idf.tolist(), dict[int, int]()
    best = current = 0.0
    first = 0
    for place, number in match:
        if not counts.get(number):
            current += weights[number]
        counts[number] = counts.get(number, 0) + 1
        while place - match[first][0] >= WINDOW:
            left = match[first][1]
            counts[left] -= 1
            if not counts[left]:
                current -= weights[left]
            first += 1
        best = max(best, current)
    return best


def _shortest_stretch(match: Sequence[tuple[int, int]], distinct: int) -> int:
    """The terms of the shortest stretch that has each of so many distinct terms."""
    counts: dict[int, int] = {}
    shortest, first = match[-1][0] - match[0][0] + 1, 0
    for place, number in match:
        counts[number] = counts.get(number, 0) + 1
        while len(counts) == distinct:
            shortest = min(shortest, place - match[first][0] + 1)
            left = match[first][1]
            counts[left] -= 1
            if not counts[left]:
                del counts[left]
            first += 1
    return shortest
