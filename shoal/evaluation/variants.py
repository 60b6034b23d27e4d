"""Variants of ranking: what `shoal eval --recommend` tries, and how one search gives the rankings of all of them.

A query is searched once, by every retriever, and its candidates are scored once by each second stage. What is left of a
variant is arithmetic, done by the functions of the server itself (`shoal.search.fusion`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from shoal.evaluation.runs import DEPTH
from shoal.modes import RETRIEVERS_OF, Mode, retrievers_of
from shoal.records import Candidate, Rerank, RowRef
from shoal.search.fusion import blend, fuse
from shoal.search.rerank_stage import best_first
from shoal.settings import FusionSettings, ServeSettings

LEXICAL_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
"""Shares of the words in weighted fusion that are tried."""
RRF_KS = (10, 60)
"""Constants of reciprocal rank fusion that are tried."""
WINDOWS = (50, 100, 200)
"""Candidates of each retriever that are tried."""
DEPTHS = (12, 25, 50)
"""Candidates of the second stage that are tried."""
DENSE_WEIGHTS = (0.0, 0.25, 0.5)
"""What is tried to be added to a rerank score for each unit of cosine similarity."""
RERANK_LEXICAL_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
"""What is tried to be added to a rerank score for the best BM25 score."""
SERVED_TOP_K: int = ServeSettings.model_fields["top_k"].default
"""Candidates of the second stage unless a request names another number."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of ranking.

    rerank: the second stage, False for none. top_k: candidates that it orders. options: those of fusing and blending.
    """

    mode: Mode
    rerank: Rerank
    top_k: int
    options: FusionSettings

    @property
    def is_fused(self) -> bool:
        """Whether several retrievers find its candidates."""
        return len(RETRIEVERS_OF[self.mode]) > 1

    def values(self) -> dict[str, str | int | float]:
        """What distinguishes it from other variants of its stage, by option."""
        options, values = self.options, dict[str, str | int | float](mode=self.mode)
        if self.is_fused:
            values["window"] = options.window
            values["fusion"] = options.fusion
            values |= (
                {"rrf_k": options.rrf_k} if options.fusion == "rrf" else {"lexical_weight": options.lexical_weight}
            )
        if self.rerank:
            values["top_k"] = self.top_k
            weights = options.model_dump(include={"rerank_dense_weight", "rerank_lexical_weight"}, exclude_none=True)
            values |= weights if self.is_fused else {}
        return values

    def arguments(self, default_mode: Mode) -> list[str]:
        """The options of `shoal serve` that make it the server's way to rank; what a server does anyway is left out.

        Args:
            default_mode: How a server searches the index that is not told otherwise.
        """
        defaults = {name: field.default for name, field in ServeSettings.model_fields.items()} | {"mode": default_mode}
        changed = {name: value for name, value in self.values().items() if value != defaults[name]}
        return [text for name, value in changed.items() for text in (f"--{name.replace('_', '-')}", str(value))]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was found for one query.

    rankings: by retriever, its best passages, with the scores that the other retrievers give them.
    scores: by second stage, what it gives the passages that it was asked about.
    """

    rankings: Mapping[str, Sequence[Candidate]]
    scores: dict[Rerank, dict[RowRef, float]] = field(default_factory=dict)


def first_stage(recorded: Recorded, variant: Variant) -> Sequence[Candidate]:
    """The candidates of a variant in stage-one order."""
    if not variant.is_fused:
        return recorded.rankings[variant.mode]
    window = variant.options.window
    cut = {name: recorded.rankings[name][:window] for name in retrievers_of(variant.mode, recorded.rankings)}
    return fuse(cut, variant.options, max(DEPTH, variant.top_k))


def ranking(recorded: Recorded, variant: Variant, kind: str) -> list[str]:
    """The ids that a variant returns, best first; what its second stage does not order follows in stage-one order.

    Args:
        recorded: What was found for a query, with the scores of the variant's candidates if it has a second stage.
        variant: How to rank it.
        kind: Of the second stage, which decides weights that are not set.
    """
    candidates = first_stage(recorded, variant)
    if not variant.rerank:
        return [candidate.id for candidate in candidates]
    read, rest = candidates[: variant.top_k], candidates[variant.top_k :]
    known = recorded.scores[variant.rerank]
    scores = np.array([known[candidate.ref] for candidate in read], np.float32)
    if variant.is_fused and len(read):
        best = max((candidate.score for candidate in recorded.rankings["lexical"][:1]), default=0.0)
        scores = blend(scores, read, variant.options, best, kind)
    order = best_first(len(read), scores)
    return [*(read[place].id for place in order), *(candidate.id for candidate in rest)]


def stage_one_variants(modes: Sequence[Mode], baseline: Variant) -> list[Variant]:
    """Variants without a second stage; that of the baseline is the first."""
    fusions = [
        *({"fusion": "weighted", "lexical_weight": weight} for weight in LEXICAL_WEIGHTS),
        *({"fusion": "rrf", "rrf_k": constant} for constant in RRF_KS),
    ]
    tried = [Variant(baseline.mode, False, baseline.top_k, baseline.options)]
    for mode in modes:
        if len(RETRIEVERS_OF[mode]) == 1:
            tried.append(Variant(mode, False, baseline.top_k, baseline.options))
            continue
        tried += [
            Variant(mode, False, baseline.top_k, baseline.options.model_copy(update={"window": window, **fusion}))
            for window in WINDOWS
            for fusion in fusions
        ]
    return list(dict.fromkeys(tried))


def stage_two_variants(first: Sequence[Variant], rerank: Rerank, baseline: Variant, most: int) -> list[Variant]:
    """Variants with a second stage over given ones without; those of the baseline's options come first.

    Args:
        first: Without a second stage.
        rerank: Which second stage.
        baseline: How a server ranks that is not told otherwise.
        most: Candidates that the second stage orders at most.
    """
    depths = [depth for depth in DEPTHS if depth <= most] or [most]
    weights = [
        {"rerank_dense_weight": dense, "rerank_lexical_weight": lexical}
        for dense in DENSE_WEIGHTS
        for lexical in RERANK_LEXICAL_WEIGHTS
    ]
    tried = [Variant(baseline.mode, rerank, min(baseline.top_k, most), baseline.options)]
    for variant in first:
        for depth in depths:
            options = [variant.options]
            if variant.is_fused:
                options += [variant.options.model_copy(update=pair) for pair in weights]
            tried += [Variant(variant.mode, rerank, depth, each) for each in options]
    return list(dict.fromkeys(tried))
