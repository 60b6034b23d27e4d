"""Could reranking stop early? A simulation over recorded scores: `python -m benchmarks.adaptive [--dataset DIR ...]`.

Every collection is searched and reranked once, by the server's pipeline over the best 50. What that recorded is then
ranked again as if stage two had read the candidates in waves, in stage-one order, and had stopped when none of the rest
could plausibly enter the top 10 any more:

    reach(c) = what stage one adds to c's score + w . x(c) + mean over those read of (rerank score - w . x) + margin
    stop when the greatest reach of the rest <= the tenth best score of those read

x is cosine and BM25 / its maximum, w least squares over scores centred by query, the margin a quantile of what these
leave unexplained. Both are learned on the other collections, or on the other half of the queries, never on what is
judged. Each margin is compared with the fixed depth that reads as many pairs of that collection. docs/rerankers.md has
the outcome.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.support.corpora import BM25
from benchmarks.support.report import Figure, report
from benchmarks.support.scored import DEPTHS, MODES, Scored, Scores, record
from shoal.evaluation.dataset import Dataset, read_dataset
from shoal.evaluation.measures import MAIN, judge, paired_p_value
from shoal.evaluation.runs import Run
from shoal.modes import Mode
from shoal.system.machine import usable_cores

FIXED = (12, 20, 25, 30)
QUANTILES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
TOP_N = 10
LOSS = 0.002
"""What halving the pairs may cost."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What stage one tells of a rerank score: the weights of its features, float64 (2,), and the sorted residuals."""

    weights: Scores
    residuals: Scores


@dataclass(frozen=True, slots=True)
class Outcome:
    """One way of reranking in one collection: pairs read for each query, and nDCG@10 by query."""

    pairs: float
    by_query: dict[str, float]


@dataclass(frozen=True, slots=True)
class Compared:
    """One margin over all collections, and the fixed depth of as many pairs in each."""

    name: str
    adaptive: list[Outcome]
    fixed: list[Outcome]

    @property
    def pairs(self) -> float:
        """Pairs that adaptive depth reads for each query, mean of the collections."""
        return statistics.mean(one.pairs for one in self.adaptive)

    @property
    def advantage(self) -> float:
        """What adaptive depth has in nDCG@10 over a fixed one, mean of the collections."""
        return statistics.mean(map(mean_of, self.adaptive)) - statistics.mean(map(mean_of, self.fixed))

    @property
    def p_value(self) -> float:
        """Of the advantage, over all queries."""
        return paired_p_value(pooled(self.adaptive), pooled(self.fixed))


def main() -> None:
    """Record all collections, simulate every margin, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("SHOAL_DATA", "../shared/data")) / "beir"
    parser.add_argument("--dataset", type=Path, nargs="+", default=[data / name for name in BM25], help="two or more")
    parser.add_argument("--queries", type=int, default=500, help="ask at most so many of each, sampled by a fixed seed")
    parser.add_argument("--first", type=int, default=12, help=f"candidates of the first wave, at least {TOP_N}")
    parser.add_argument("--step", type=int, default=6, help="candidates of every further wave")
    parser.add_argument("--dtype", default="float32", help="precision of the encoder")
    parser.add_argument("--cache", type=Path, help="folder that keeps vectors (3 GB for all collections)")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.first < TOP_N or options.step < 1 or len(options.dataset) < 2:
        parser.error(f"--first is at least {TOP_N}, --step at least 1, and --dataset names two or more collections")

    datasets = [read_dataset(str(place)).sample(options.queries) for place in options.dataset]
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        recorded = [
            record(place, dataset, options, Path(folder))
            for place, dataset in zip(options.dataset, datasets, strict=True)
        ]
    figures = []
    for mode in MODES:
        for depth in DEPTHS:
            queries = [{query: one.cut(depth) for query, one in found[mode].items()} for found in recorded]
            figures += simulate(mode, depth, datasets, queries, options)
    report(f"Adaptive depth, waves of {options.first} and {options.step}", figures, options.json)


def calibrate(queries: Iterable[Scored]) -> Calibration:
    """Learn what stage one tells of rerank scores; what a query's candidates have in common is left out of it."""
    features, scores = [], []
    for one in queries:
        if one.ids:
            features.append(one.features - one.features.mean(axis=0))
            scores.append(one.rerank - one.rerank.mean())
    told, wanted = np.concatenate(features), np.concatenate(scores)
    weights = np.linalg.lstsq(told, wanted)[0]
    return Calibration(weights, np.sort(wanted - told @ weights))


def adaptive_depth(one: Scored, weights: Scores, margin: float, first: int, step: int) -> int:
    """How many candidates are read, in waves, before the rest is given up. first >= TOP_N."""
    expected = one.features @ weights
    reachable = expected + one.final - one.rerank
    depth = min(first, len(one.ids))
    while depth < len(one.ids):
        offset = float(np.mean(one.rerank[:depth] - expected[:depth]))
        last = np.sort(one.final[:depth])[-TOP_N]
        if reachable[depth:].max() + offset + margin <= last:
            break
        depth = min(depth + step, len(one.ids))
    return depth


def needed_depth(one: Scored) -> int:
    """The least depth that gives the same top 10 as the whole: what somebody who knew the scores would read."""
    return int(np.argsort(-one.final, kind="stable")[:TOP_N].max(initial=-1)) + 1


def ranking(one: Scored, depth: int) -> list[str]:
    """The ids of the top 10 if so many candidates are reranked, the others following in stage-one order."""
    order = [*np.argsort(-one.final[:depth], kind="stable"), *range(depth, len(one.ids))]
    return [one.ids[place] for place in order[:TOP_N]]


def simulate(
    mode: Mode,
    depth: int,
    datasets: Sequence[Dataset],
    recorded: Sequence[dict[str, Scored]],
    options: argparse.Namespace,
) -> list[Figure]:
    """Rank what was recorded by fixed and by adaptive depths; print one table, return its figures."""
    title = f"{mode}, best {depth}"

    def outcome(place: int, depths: dict[str, int]) -> Outcome:
        queries = recorded[place]
        run = Run("run", {query: ranking(one, depths[query]) for query, one in queries.items()})
        [row] = judge([run], datasets[place].judgements)
        pairs = [min(depths[query], len(one.ids)) for query, one in queries.items()]
        return Outcome(statistics.mean(pairs), row.by_query)

    def fixed(place: int, count: int) -> Outcome:
        return outcome(place, dict.fromkeys(recorded[place], count))

    def adaptive(place: int, calibrations: Sequence[Calibration], quantile: float) -> Outcome:
        """Query i is read by calibration i modulo their number."""
        depths = {}
        for number, (query, one) in enumerate(recorded[place].items()):
            known = calibrations[number % len(calibrations)]
            margin = float(np.quantile(known.residuals, quantile))
            depths[query] = adaptive_depth(one, known.weights, margin, options.first, options.step)
        return outcome(place, depths)

    places = range(len(recorded))
    learned = {
        "other collections": [
            [calibrate(one for other in places if other != place for one in recorded[other].values())]
            for place in places
        ],
        "other half": [
            [calibrate(list(recorded[place].values())[1 - half :: 2]) for half in (0, 1)] for place in places
        ],
    }
    whole = [fixed(place, depth) for place in places]
    shallow = {count: [fixed(place, count) for place in places] for count in FIXED if count < depth}
    margins = []
    for source, calibrations in learned.items():
        for quantile in QUANTILES:
            found = [adaptive(place, calibrations[place], quantile) for place in places]
            twins = [fixed(place, round(one.pairs)) for place, one in zip(places, found, strict=True)]
            margins.append(Compared(f"{source}, {quantile:.0%}", found, twins))
    show(title, [dataset.name for dataset in datasets], whole, shallow, margins)

    needed = statistics.mean(statistics.mean(needed_depth(one) for one in queries.values()) for queries in recorded)
    figures = [Figure(f"{title}: depth that the same top {TOP_N} needs", needed, "pairs")]
    return figures + compared_figures(mode, depth, whole, shallow, margins)


def compared_figures(
    mode: Mode,
    depth: int,
    whole: Sequence[Outcome],
    shallow: dict[int, list[Outcome]],
    margins: Sequence[Compared],
) -> list[Figure]:
    """What fixed depths lose, and what the best margin that halves the pairs does."""
    title = f"{mode}, best {depth}"
    figures = []
    for count, outcomes in shallow.items():
        lost = change(outcomes, whole)
        halves = mode == "hybrid" and 2 * count == depth
        goal, met = (f">= -{LOSS}", lost >= -LOSS) if halves else ("", None)
        figures.append(Figure(f"{title}: the first {count}", lost, MAIN, goal, met))
    halving = [one for one in margins if one.pairs <= depth / 2]
    if halving:
        best = max(halving, key=lambda one: change(one.adaptive, whole))
        figures += [
            Figure(f"{title}: best margin that halves the pairs", change(best.adaptive, whole), MAIN),
            Figure(f"{title}: the same over a fixed depth of as many", best.advantage, MAIN),
        ]
    return figures


def mean_of(outcome: Outcome) -> float:
    """nDCG@10 of a collection."""
    return statistics.mean(outcome.by_query.values())


def change(outcomes: Sequence[Outcome], whole: Sequence[Outcome]) -> float:
    """What is lost (less than 0) in nDCG@10 against reading everything, mean of the collections."""
    return statistics.mean(map(mean_of, outcomes)) - statistics.mean(map(mean_of, whole))


def pooled(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The values of all queries of all collections."""
    return {
        f"{place} {query}": value for place, outcome in enumerate(outcomes) for query, value in outcome.by_query.items()
    }


def show(
    title: str,
    names: Sequence[str],
    whole: Sequence[Outcome],
    shallow: dict[int, list[Outcome]],
    margins: Sequence[Compared],
) -> None:
    """Print one table that can be pasted into Markdown: changes of nDCG@10, with the pairs read for each query."""
    table = Table(box=None, pad_edge=False)
    for heading in (title, *names, "mean", "fixed, as many pairs", "p"):
        table.add_column(f"| {heading}")
    table.add_column("|")
    full = [mean_of(one) for one in whole]
    table.add_row(
        "| all: nDCG@10", *(f"| {value:.4f}" for value in full), f"| {statistics.mean(full):.4f}", "|", "|", "|"
    )

    def cells(outcomes: Sequence[Outcome]) -> list[str]:
        changes = [(change([one], [base]), one.pairs) for one, base in zip(outcomes, whole, strict=True)]
        changes.append((change(outcomes, whole), statistics.mean(one.pairs for one in outcomes)))
        return [f"| {lost:+.4f} ({pairs:.1f})" for lost, pairs in changes]

    for count, outcomes in shallow.items():
        table.add_row(f"| the first {count}", *cells(outcomes), "|", "|", "|")
    for one in margins:
        twin = change(one.fixed, whole)
        table.add_row(f"| {one.name}", *cells(one.adaptive), f"| {twin:+.4f}", f"| {one.p_value:.2g}", "|")
    Console(width=220).print(table)


if __name__ == "__main__":
    main()
