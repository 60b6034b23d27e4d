"""Size, recall and time of the index kinds, each tuned as a build does it: `python -m benchmarks.indexes`.

Clustered vectors, tuned with one set of queries and measured with another, one query a time.
"""

import argparse
import tempfile
from pathlib import Path

import faiss
import numpy as np
from rich.console import Console

from benchmarks.support.clustered import BLOCK, TOP_K, clustered, one_by_one, recall
from benchmarks.support.report import Figure, report
from shoal.capacity.synthetic import DIM
from shoal.indexes import exact_path, index_kind, kinds
from shoal.indexing.recall import ExactSearch, Tuning, attempt
from shoal.records import FloatArray
from shoal.settings import IndexSettings

TRAINED_ON = 60_000


def main() -> None:
    """Build every kind, tune it, and report it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=100, help="queries to tune with, and as many to measure with")
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--kinds", nargs="+", default=kinds())
    parser.add_argument("--threads", type=int, default=2, help="threads that train and fill; one searches")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    faiss.omp_set_num_threads(options.threads)
    vectors, queries, _ = clustered(options.passages, 2 * options.queries)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kinds:
            settings = IndexSettings(index_kind=kind, recall_target=options.target)
            path = Path(folder) / f"{kind}.faiss"
            tuned, unseen = queries[: options.queries], queries[options.queries :]
            figures += measure(path, settings, vectors, tuned, unseen, options.threads)
    title = f"Index kinds, {options.passages:,} clustered vectors of {DIM}, one search thread"
    report(title, figures, options.json)


def measure(
    path: Path, settings: IndexSettings, vectors: FloatArray, tuned: FloatArray, unseen: FloatArray, threads: int
) -> list[Figure]:
    """Build one kind, tune it with some queries, and measure it with others."""
    kind, name = index_kind(settings.index_kind), settings.index_kind
    trained = kind.train(vectors[:TRAINED_ON], settings, threads)
    exact = ExactSearch(tuned)
    blocks = [(None, vectors[at : at + BLOCK]) for at in range(0, len(vectors), BLOCK)]
    kind.build((block for _, block in exact.tee(blocks)), DIM, path, trained, threads)
    tuning = Tuning()
    tuning.add(attempt(lambda: kind.open(path, settings, 1), exact))
    info = tuning.describe(settings)
    for point in info.curve:
        Console(width=120).print(f"{name} {point.search}: {point.recall:.4f} in {point.latency_ms:.3f} ms")

    index = kind.open(path, settings.model_copy(update={"index_search": info.search}), 1)
    found = [index.search(unseen[number : number + 1], TOP_K) for number in range(len(unseen))]
    reached = recall(found, unseen @ vectors.T)
    figures = [Figure(f"{name}: index", path.stat().st_size / len(vectors), "bytes a vector")]
    if kind.EXACT:
        figures.append(
            Figure(f"{name}: mapped float16", exact_path(path).stat().st_size / len(vectors), "bytes a vector")
        )
    # Other queries than those that it was tuned with: the target holds on average, within what a sample tells.
    slack = 2 * float(np.sqrt(settings.recall_target * (1 - settings.recall_target) / len(unseen)))
    goal = settings.recall_target - slack
    return [
        *figures,
        Figure(
            f"{name}: recall@{TOP_K} with {info.search or 'nothing to tune'}",
            reached,
            "",
            f">= {goal:.3f}",
            reached >= goal,
        ),
        Figure(f"{name}: one query", one_by_one(unseen, lambda query: index.search(query, TOP_K)), "ms"),
    ]


if __name__ == "__main__":
    main()
