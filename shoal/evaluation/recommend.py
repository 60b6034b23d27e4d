"""Which options of ranking are best for given queries: `shoal eval --recommend`.

Whoever chooses the best of many variants by the queries that they are then measured with finds too much: part of the
gain is chance. So the gain is also measured by cross-validation (Stone 1974, "Cross-validatory choice and assessment of
statistical predictions"): the queries are split into parts, and each part is answered by the variant that is best on
the others. What is told to be sure is that difference, by Fisher's randomization test
(`shoal.evaluation.measures.paired_p_value`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from shoal.errors import InvalidArgument
from shoal.evaluation.asking import LocalAsker, open_asker, planned
from shoal.evaluation.dataset import Dataset
from shoal.evaluation.evaluate import judged_queries
from shoal.evaluation.measures import main_by_query, paired_p_value
from shoal.evaluation.variants import (
    SERVED_TOP_K,
    WINDOWS,
    Recorded,
    Variant,
    first_stage,
    ranking,
    stage_one_variants,
    stage_two_variants,
)
from shoal.modes import Mode
from shoal.records import Rerank
from shoal.search.request_plan import LATE_INTERACTION
from shoal.settings import FusionSettings, RecommendSettings

T = TypeVar("T")
QUERIES = 500
"""Queries that are asked unless another number is wanted: each keeps a quarter of a megabyte until the end."""
FOLDS = 5
"""Parts of the queries in cross-validation."""
SURE = 0.05
"""p-value below which a difference is taken for more than chance."""
_SEED = 0
"""How queries are dealt to parts."""
_STAGES: Mapping[Rerank, str] = {False: "stage one", True: "reranked", "late": "stored tokens"}
"""What each second stage is called."""

Values = dict[Variant, dict[str, float]]
"""nDCG@10 by variant and query."""
Progress = Callable[[Iterable[T], str], Iterable[T]]
"""Shows how far a loop is: hands its items through; told how many there are by the sequence, and what they are."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The best of the variants of one stage.

    stage: what they have in common. tried: how many they are.
    before, after: nDCG@10 of what a server does that is not told otherwise, and of the best.
    p_value: of their difference.
    held_out, held_out_p: the difference in cross-validation, and its p-value.
    values: the options of the best. arguments: what `shoal serve` has to be told; empty unless it is surely better.
    rerank: the second stage.
    """

    stage: str
    tried: int
    before: float
    after: float
    p_value: float
    held_out: float
    held_out_p: float
    values: dict[str, str | int | float]
    arguments: list[str]
    rerank: Rerank

    @property
    def is_sure(self) -> bool:
        """Whether the best is better than what a server does anyway, by more than chance."""
        return self.held_out > 0 and self.held_out_p < SURE


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What is best for some queries. are_made: whether the queries were made from passages of the index."""

    dataset: str
    queries: int
    are_made: bool
    choices: list[Choice]

    @property
    def winner(self) -> Choice:
        """The stage that ranks best, by what it would be served with; the cheaper one of equals."""
        return max(self.choices, key=lambda choice: choice.after if choice.is_sure else choice.before)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        choices = [asdict(choice) | {"is_sure": choice.is_sure} for choice in self.choices]
        winner = self.winner
        return {
            "dataset": self.dataset,
            "queries": self.queries,
            "made_from_passages": self.are_made,
            "choices": choices,
            "winner": winner.stage,
            "arguments": winner.arguments,
            "rerank": winner.rerank,
        }


def unwatched(items: Iterable[T], what: str) -> Iterable[T]:
    """Show nothing; a Progress."""
    return items


def recommend(settings: RecommendSettings, progress: Progress[str] = unwatched) -> Recommendation:
    """Try variants of ranking on judged queries over an index in this process.

    Args:
        settings: Options of ranking among them are the baseline.
        progress: Shows how far it is.

    Raises:
        InvalidArgument: There is no index here, or nothing to ask it, and what opening the index raises.
    """
    if settings.index is None or settings.url is not None:
        raise InvalidArgument("recommend searches an index in this process: give --index ROOT alone", param="index")
    if settings.shortlist is not None:
        raise InvalidArgument("recommend does not try shortlists; leave shortlist out", param="shortlist")
    if settings.blend is not None:
        raise InvalidArgument("recommend does not try learned blends; leave blend out", param="blend")
    dataset = judged_queries(settings).sample(settings.queries or QUERIES)
    with open_asker(settings) as asker:
        assert isinstance(asker, LocalAsker)
        choices = _Trial(asker, dataset, settings, progress).choices()
    return Recommendation(dataset.name, len(dataset.queries), settings.dataset is None, choices)


class _Trial:
    """Variants of ranking, tried on the queries of a dataset."""

    def __init__(
        self, asker: LocalAsker, dataset: Dataset, settings: RecommendSettings, progress: Progress[str]
    ) -> None:
        self._asker, self._dataset, self._progress = asker, dataset, progress
        # The server's reranker compares stored token vectors where there are some.
        is_stored = asker.late and settings.stored_tokens and settings.reranker == LATE_INTERACTION
        stored: Rerank = "late" if is_stored else True
        stages = dict.fromkeys(stored if stage is True else stage for _, stage in planned(settings, asker))
        self._second_stages: list[Rerank] = [stage for stage in stages if stage and stage != "blend"]
        self._has_stored = asker.late
        self._most = settings.top_k
        self._modes: Sequence[Mode] = settings.modes or asker.modes
        self._default_mode: Mode = "hybrid" if "hybrid" in asker.modes else asker.modes[0]
        mode = self._default_mode if self._default_mode in self._modes else self._modes[0]
        top_k = settings.top_k if "top_k" in settings.model_fields_set else SERVED_TOP_K
        self._baseline = Variant(mode, False, top_k, settings.part(FusionSettings))
        self._reranker = settings.reranker
        self._recorded: dict[str, Recorded] = {}

    def choices(self) -> list[Choice]:
        """Choose for stage one alone and for each second stage."""
        window = max(*WINDOWS, self._baseline.options.window)
        for query in self._progress(list(self._dataset.queries), "searching"):
            text = self._dataset.queries[query]
            self._recorded[query] = Recorded(
                {
                    name: found
                    for mode in self._asked()
                    for name, found in self._asker.retrieve(text, mode, window).items()
                }
            )
        first = self._measure(stage_one_variants(self._modes, self._baseline))
        choices = [self._choose(first, False)]
        for rerank in self._second_stages:
            # Only over the default mode, or those that were named: reading passages is what takes time.
            modes = {self._baseline.mode} if set(self._modes) == set(self._asker.modes) else set(self._modes)
            best = [_best({v: values for v, values in first.items() if v.mode == mode}) for mode in self._modes]
            over = [self._baseline, *(variant for variant in best if variant.mode in modes)]
            self._score(list(dict.fromkeys(over)), rerank)
            tried = stage_two_variants(list(dict.fromkeys(over)), rerank, self._baseline, self._most)
            choices.append(self._choose(self._measure(tried), rerank))
        return choices

    def _asked(self) -> Sequence[Mode]:
        """The modes that ask every retriever of the modes that are tried."""
        fused = "hybrid" in self._asker.modes and (len(self._modes) > 1 or "hybrid" in self._modes)
        return ["hybrid"] if fused else self._modes

    def _measure(self, variants: Sequence[Variant]) -> Values:
        kind = self._asker.late_kind if variants[0].rerank == "late" else self._asker.reranker_kind or ""
        return {
            variant: main_by_query(
                {query: ranking(recorded, variant, kind) for query, recorded in self._recorded.items()},
                self._dataset.judgements,
            )
            for variant in variants
        }

    def _score(self, over: Sequence[Variant], rerank: Rerank) -> None:
        """Let a second stage score the candidates that it may have to order, each once."""
        for query in self._progress(list(self._dataset.queries), _STAGES[rerank]):
            recorded = self._recorded[query]
            wanted = {
                candidate.ref: candidate
                for variant in over
                for candidate in first_stage(recorded, variant)[: self._most]
            }
            candidates = list(wanted.values())
            scores = self._asker.score(self._dataset.queries[query], candidates, rerank) if candidates else np.zeros(0)
            recorded.scores[rerank] = dict(zip(wanted, scores.tolist(), strict=True))

    def _choose(self, values: Values, rerank: Rerank) -> Choice:
        baseline, best = next(iter(values)), _best(values)
        before, after = values[baseline], values[best]
        held_out = _held_out(values)
        gain = float(np.mean([held_out[query] - before[query] for query in before]))
        choice = Choice(
            stage=_STAGES[rerank],
            tried=len(values),
            before=float(np.mean(list(before.values()))),
            after=float(np.mean(list(after.values()))),
            p_value=paired_p_value(after, before),
            held_out=gain,
            held_out_p=paired_p_value(held_out, before),
            values=best.values(),
            arguments=[],
            rerank=rerank,
        )
        served = best if choice.is_sure else baseline
        arguments = [*self._reranker_arguments(rerank), *served.arguments(self._default_mode)]
        return replace(choice, arguments=arguments)

    def _reranker_arguments(self, rerank: Rerank) -> list[str]:
        """What makes a server rerank so that is asked for `rerank: true`."""
        name = self._reranker if rerank is True else LATE_INTERACTION if rerank else "none"
        reads = rerank is True and name == LATE_INTERACTION and self._has_stored
        chosen = [] if name == LATE_INTERACTION else ["--reranker", name]
        return [*chosen, *(["--no-stored-tokens"] if reads else [])]


def _best(values: Values) -> Variant:
    """The variant with the highest mean; of equal ones that which was tried first."""
    return max(values, key=lambda variant: float(np.mean(list(values[variant].values()))))


def _held_out(values: Values) -> dict[str, float]:
    """By query, the value of the variant that is best on the queries of the other parts."""
    queries = list(next(iter(values.values())))
    table: NDArray[np.float64] = np.array([[by_query[query] for query in queries] for by_query in values.values()])
    parts = np.random.default_rng(_SEED).permutation(len(queries)) % FOLDS
    held_out = np.empty(len(queries))
    for part in range(FOLDS):
        others = table[:, parts != part]
        best = int(np.argmax(others.mean(axis=1))) if others.shape[1] else 0
        held_out[parts == part] = table[best, parts == part]
    return dict(zip(queries, held_out.tolist(), strict=True))
