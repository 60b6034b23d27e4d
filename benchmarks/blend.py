"""What a learned blend gains on queries that it was not fitted to: `python -m benchmarks.blend [--dataset DIR ...]`.

Every collection is indexed and its queries are asked once. A blend is fitted to one half of them, by the steps of
`jobs.train_blend`, and orders the other half, then the other way round. Where a collection has training queries, one
that was fitted to these orders the test queries too. nDCG@10 comes from ir-measures. Encoding takes minutes a
collection: --cache keeps the vectors for the next run.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.support.corpora import BM25, build, keep
from benchmarks.support.report import Figure, report
from shoal.encoders import TokenEncoder, load_encoder
from shoal.evaluation.asking import LocalAsker
from shoal.evaluation.dataset import Dataset, read_dataset
from shoal.evaluation.measures import main_by_query, paired_p_value
from shoal.index_root.storage import Storage
from shoal.lexical.analyzer import Analyzer
from shoal.rerankers.late_interaction import LateInteraction
from shoal.search.blend_features import FEATURES
from shoal.search.blend_model import Forest
from shoal.search.learned_blend import add_trees
from shoal.settings import EMBEDDED_ENCODER, BlendTrainingSettings, EncoderSettings, ServeSettings
from shoal.system.machine import usable_cores
from shoal.training.blend import JudgedCandidates, fit_blend
from shoal.training.blend_candidates import ask_judged

Ordered = dict[str, list[str]]
"""Ids of the candidates by query, best first."""


def main() -> None:
    """Measure all collections, and print what blends gain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("SHOAL_DATA", "../shared/data")) / "beir"
    parser.add_argument("--dataset", type=Path, nargs="+", default=[data / name for name in BM25])
    parser.add_argument("--queries", type=int, help="ask only this many queries of each, sampled with a fixed seed")
    parser.add_argument("--top-k", type=int, default=50, help="candidates that a blend orders")
    parser.add_argument("--leaves", type=int, default=8, help="leaves of a tree")
    parser.add_argument("--seed", type=int, default=0, help="of the halves, and of fitting")
    parser.add_argument("--dtype", default="auto", help="precision of the encoder")
    parser.add_argument("--cache", type=Path, help="folder that keeps vectors (3 GB for all collections)")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    table = Table("judged queries", "learned from", "nDCG@10", "gain", "p", "fitting, CPU s", title="Learned blends")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        for place in options.dataset:
            for name, learned, before, gain, p_value, seconds in measure(place, options, Path(folder)):
                row = (name, str(learned), f"{before:.4f}", f"{gain:+.4f}", f"{p_value:.4f}", f"{seconds:.0f}")
                print(*row, file=sys.stderr, flush=True)
                table.add_row(*row)
                figures.append(Figure(f"{name}: nDCG@10 gained", gain, ""))
    Console().print(table)
    report(f"Learned blends over {EMBEDDED_ENCODER}, {options.threads} threads", figures, options.json)


Row = tuple[str, int, float, float, float, float]


def measure(place: Path, options: argparse.Namespace, folder: Path) -> list[Row]:
    """Index a collection, ask its queries, and fit blends to parts of them."""
    dataset = read_dataset(str(place)).sample(options.queries)
    settings = BlendTrainingSettings(index="index", dataset=str(place), output="blend.json", top_k=options.top_k)
    encoder = load_encoder(EncoderSettings(encoder=EMBEDDED_ENCODER, dtype=options.dtype, threads=options.threads))
    assert isinstance(encoder, TokenEncoder)
    kept = keep(place, dataset, encoder, options.cache or folder / "vectors")
    root = Storage(str(folder / place.name))
    manifest = build(place, root, kept, argparse.Namespace(encoder=EMBEDDED_ENCODER, threads=options.threads))
    assert manifest.lexical is not None
    analyzer, serve = Analyzer(manifest.lexical.settings), ServeSettings(index=root.uri)
    others: list[JudgedCandidates] = []
    with LocalAsker(root, manifest, kept, LateInteraction(kept, 0), serve, settings.timeout_ms) as asker:
        started = time.process_time()
        judged = ask_judged(asker, settings, analyzer, dataset)
        tell_cost(place.name, "asking a query", started, len(judged))
        if any((place / "qrels" / name).exists() for name in ("train.tsv", "train.tsv.gz")):
            train = read_dataset(str(place), "train")
            others = ask_judged(asker, settings, analyzer, train)
    half = np.random.default_rng(options.seed).permutation(len(judged)) % 2
    parts = [[each for each, side in zip(judged, half, strict=True) if side == wanted] for wanted in (0, 1)]
    started = time.process_time()
    after = order(parts[0], parts[1], dataset, options) | order(parts[1], parts[0], dataset, options)
    rows = [row(place.name, judged, len(parts[0]), after, dataset, time.process_time() - started)]
    if others:
        started = time.process_time()
        after = order(others, judged, train, options)
        name = f"{place.name}, by its training queries"
        rows.append(row(name, judged, len(others), after, dataset, time.process_time() - started))
    return rows


def order(
    learned: Sequence[JudgedCandidates],
    judged: Sequence[JudgedCandidates],
    dataset: Dataset,
    options: argparse.Namespace,
) -> Ordered:
    """Order queries by a blend that was fitted to others."""
    fitted = fit_blend(learned, dataset, options.leaves, options.seed)
    if fitted is None:
        return ordered(judged, [each.blended for each in judged])
    print(
        f"  {len(fitted.trees)} trees, weight {fitted.weight:g}, cross-validation {fitted.gain:+.4f}",
        f"(p {fitted.p_value:.4f})",
        file=sys.stderr,
        flush=True,
    )
    forest = Forest(fitted.trees, FEATURES)
    started = time.process_time()
    scores = [add_trees(each.blended.astype(float), forest.predict(each.features), fitted.weight) for each in judged]
    tell_cost("  ", "trees of a query", started, len(judged))
    return ordered(judged, scores)


def ordered(judged: Sequence[JudgedCandidates], scores: Sequence[np.ndarray]) -> Ordered:
    """Order the candidates of queries by scores, float32 (n,) each."""
    return {
        each.query: [each.ids[place] for place in np.argsort(-own, kind="stable")]
        for each, own in zip(judged, scores, strict=True)
    }


def row(
    name: str,
    judged: Sequence[JudgedCandidates],
    learned: int,
    after: Ordered,
    dataset: Dataset,
    seconds: float,
) -> Row:
    """Compare orders with that without a blend."""
    judgements = {each.query: dataset.judgements[each.query] for each in judged}
    before = main_by_query(ordered(judged, [each.blended for each in judged]), judgements)
    values = main_by_query(after, judgements)
    gain = float(np.mean([values[query] - before[query] for query in before]))
    return name, learned, float(np.mean(list(before.values()))), gain, paired_p_value(values, before), seconds


def tell_cost(name: str, what: str, started: float, count: int) -> None:
    """Say how much processor time something took since a moment of `time.process_time`, for each of so many."""
    print(f"{name} {what}: {1000 * (time.process_time() - started) / count:.2f} ms CPU", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
