"""Judging runs: measures of ir-measures for every query, their means, and whether a difference is more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import ir_measures
import numpy as np
from ir_measures import RR, R, nDCG
from scipy.stats import permutation_test

from shoal.errors import InvalidArgument
from shoal.evaluation.dataset import Judgements
from shoal.evaluation.runs import Run

MEASURES = {"nDCG@10": nDCG @ 10, "MRR@10": RR @ 10, "Recall@25": R @ 25, "Recall@100": R @ 100}
"""What is measured, by the name under which it is shown."""
MAIN = "nDCG@10"
"""What runs are compared by."""
_MAIN_DEPTH = 10
"""Passages of a ranking that MAIN looks at."""
RESAMPLES = 9999
"""Random reassignments behind a p-value."""


@dataclass(frozen=True, slots=True)
class Row:
    """One judged run. `values`: the means over all judged queries; `by_query`: MAIN of each of them.

    all_by_query: every measure of each of them, by measure and query.
    difference, p_value: of MAIN against the baseline; None for the baseline itself.
    p50_ms, p95_ms: of the answers; None for a run that was read from a file.
    """

    name: str
    values: dict[str, float]
    by_query: dict[str, float]
    p50_ms: float | None
    p95_ms: float | None
    degraded: int
    difference: float | None = None
    p_value: float | None = None
    all_by_query: dict[str, dict[str, float]] = field(default_factory=dict)


def judge(runs: Sequence[Run], judgements: Judgements, baseline: str | None = None) -> list[Row]:
    """Judge runs and compare each with the baseline, by default the first; a query that a run lacks counts 0.

    Raises InvalidArgument for a baseline that is not among the runs, or two runs of one name.
    """
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise InvalidArgument(f"two runs have one name: {', '.join(sorted(names))}; rename a file", param="runs")
    baseline = baseline or names[0]
    if baseline not in names:
        raise InvalidArgument(f"the baseline {baseline!r} is not among {', '.join(names)}", param="baseline")
    measured = {run.name: _measured(run, judgements) for run in runs}
    base = measured[baseline][MAIN]
    rows = []
    for run in runs:
        by_measure = measured[run.name]
        latencies = list(run.latency_ms.values())
        compared = run.name != baseline
        own = by_measure[MAIN]
        rows.append(
            Row(
                run.name,
                {name: float(np.mean(list(values.values()))) for name, values in by_measure.items()},
                own,
                float(np.percentile(latencies, 50)) if latencies else None,
                float(np.percentile(latencies, 95)) if latencies else None,
                run.degraded,
                float(np.mean([own[query] - base[query] for query in base])) if compared else None,
                paired_p_value(own, base) if compared else None,
                by_measure,
            )
        )
    return rows


def paired_p_value(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Two-sided p-value of the mean difference over the same queries.

    Fisher's randomization test (Smucker, Allan & Carterette 2007, "A Comparison of Statistical Significance Tests for
    Information Retrieval Evaluation"): the two values of a query are exchanged at random, with a fixed seed.
    """
    differences = np.array([one[query] - other[query] for query in other])
    # Queries without a difference add nothing but time.
    changed = differences[differences != 0]
    if len(changed) < 2:
        return 1.0
    result = permutation_test(
        (changed, np.zeros_like(changed)),
        lambda a, b, axis: np.sum(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=256,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def main_by_query(rankings: Mapping[str, Sequence[str]], judgements: Judgements) -> dict[str, float]:
    """MAIN of every judged query; a query without a ranking counts 0. rankings: passage ids, best first."""
    ranked = {
        query: {passage: 1 / rank for rank, passage in enumerate(ranking[:_MAIN_DEPTH], 1)}
        for query, ranking in rankings.items()
    }
    values = dict.fromkeys(judgements, 0.0)
    for metric in ir_measures.iter_calc([MEASURES[MAIN]], judgements, ranked):
        values[metric.query_id] = metric.value
    return values


def _measured(run: Run, judgements: Judgements) -> dict[str, dict[str, float]]:
    """Values by measure and query, for every judged query."""
    # Measured by rank: equal scores would be ordered by the tool's own rule.
    ranked = {
        query: {passage: 1 / rank for rank, passage in enumerate(run.rankings.get(query, ()), 1)}
        for query in judgements
    }
    names = {measure: name for name, measure in MEASURES.items()}
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(judgements, 0.0) for name in MEASURES}
    for metric in ir_measures.iter_calc(list(names), judgements, ranked):
        values[names[metric.measure]][metric.query_id] = metric.value
    return values
