"""Does training pay? `python -m benchmarks.train_reranker [--dataset BEIR_DIR] [--output DIR] [--kind ...]`.

Trains each kind of reranker on the training queries of a data set with the job that users run, then reranks the first
passages that the untrained encoder finds for the test queries, and compares with untrained late interaction query by
query: nDCG@10 from ir-measures, a paired t-test and a paired randomisation test. Run again with the same --output, it
goes on where it stopped, and a finished training is only measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.support.beir import read_jsonl, read_qrels
from benchmarks.support.report import Figure, report
from shoal.encoders import load_encoder
from shoal.rerankers import load_reranker
from shoal.settings import EMBEDDED_ENCODER, EncoderSettings, RerankerSettings
from shoal.system.machine import usable_cores

UNTRAINED = "late_interaction"
# What fits two cores: the first 128 tokens of a passage, all weights, minutes.
MAX_LENGTH = 128
OPTIONS = [f"--max-length={MAX_LENGTH}", "--negatives=5", "--dev-queries=48", "--evaluations=4"]
RECIPES = {
    "late_interaction": ["--epochs=2", "--learning-rate=5e-5"],
    "cross_encoder": ["--epochs=1", "--learning-rate=1e-4"],
}
HOURS = 1.0
SIGNIFICANT = 0.05
DRAWS = 100_000


def main() -> None:
    """Train, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("SHOAL_DATA", "../shared/data"))
    parser.add_argument("--dataset", type=Path, default=data / "beir" / "scifact")
    parser.add_argument("--kind", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--output", type=Path, help="folder of the results; default: a temporary one")
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--dtype", default="auto", help="precision of the measurement")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        output = options.output or Path(folder)
        output.mkdir(parents=True, exist_ok=True)
        trained = {kind: train(kind, options.dataset, output, options.threads) for kind in options.kind}
        figures = measure(options, trained)
    title = f"Rerankers trained on {options.dataset.name}, over the first {options.top_k} of {EMBEDDED_ENCODER}"
    report(f"{title}, {options.threads} threads", figures, options.json)


def train(kind: str, dataset: Path, output: Path, threads: int) -> dict[str, Any]:
    """Train one kind as a user would, or find it trained, and return what the job says."""
    command = [sys.executable, "-m", "jobs.train_reranker", "--json", f"--kind={kind}", f"--threads={threads}"]
    command += [f"--data={dataset}", f"--output={output / f'{dataset.name}-{kind}'}", *OPTIONS, *RECIPES[kind]]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def measure(options: argparse.Namespace, trained: dict[str, dict[str, Any]]) -> list[Figure]:
    """Rerank what the untrained encoder finds for the test queries with each of the rerankers."""
    qrels = read_qrels(options.dataset / "qrels" / "test.tsv")
    corpus = read_jsonl(options.dataset / "corpus.jsonl.gz")
    texts = [f"{row.get('title', '')} {row['text']}".strip() for row in corpus]
    judged = {judgement.query_id for judgement in qrels}
    queries = {
        row["_id"]: row["text"] for row in read_jsonl(options.dataset / "queries.jsonl.gz") if row["_id"] in judged
    }
    encoder = load_encoder(EncoderSettings(threads=options.threads, dtype=options.dtype))
    scores = encoder.encode_queries(list(queries.values())) @ encoder.encode_passages(texts).T
    top = np.argsort(-scores, axis=1, kind="stable")[:, : options.top_k]
    pairs = [(query, texts[row]) for query, rows in zip(queries.values(), top, strict=True) for row in rows]

    def ndcg(ranked: NDArray[Any]) -> NDArray[np.float64]:
        """The nDCG@10 of every query, float64 (q,)."""
        run = [
            ir_measures.ScoredDoc(query, corpus[row]["_id"], float(score))
            for query, rows, line in zip(queries, top, ranked, strict=True)
            for row, score in zip(rows, line, strict=True)
        ]
        found = {each.query_id: each.value for each in ir_measures.iter_calc([ir_measures.nDCG @ 10], qrels, run)}
        return np.array([found.get(query, 0.0) for query in queries])

    def reranked(name: str, max_length: int | None = None) -> NDArray[np.float64]:
        settings = RerankerSettings(
            reranker=name, max_length=max_length, threads=options.threads, dtype=options.dtype, token_cache_bytes=0
        )
        return ndcg(load_reranker(settings).score_pairs(pairs).reshape(top.shape))

    untrained = reranked(UNTRAINED)
    figures = [
        Figure("dense: nDCG@10", ndcg(np.take_along_axis(scores, top, axis=1)).mean(), ""),
        Figure("untrained late interaction: nDCG@10", untrained.mean(), ""),
    ]
    for kind, told in trained.items():
        # Late interaction reads a passage as the index does, a cross-encoder as much as it has learned to.
        length = MAX_LENGTH if kind == "cross_encoder" else None
        figures += compare(kind, told, reranked(told["output"], length), untrained)
    return figures


def compare(
    kind: str, told: dict[str, Any], values: NDArray[np.float64], untrained: NDArray[np.float64]
) -> list[Figure]:
    """What training has changed, with paired tests; goals are for late interaction only."""
    gain = values - untrained
    t_test = float(stats.ttest_rel(values, untrained).pvalue)
    chance = randomisation(gain)
    better = bool(gain.mean() > 0)
    goal = kind == "late_interaction"
    return [
        Figure(f"trained {kind}: nDCG@10", values.mean(), "", "> untrained" if goal else "", better if goal else None),
        Figure(f"trained {kind}: gain over untrained", gain.mean(), ""),
        Figure(f"trained {kind}: queries better", int((gain > 0).sum()), f"of {len(gain)}"),
        Figure(f"trained {kind}: queries worse", int((gain < 0).sum()), f"of {len(gain)}"),
        Figure(
            f"trained {kind}: paired t-test, p",
            t_test,
            "",
            f"< {SIGNIFICANT}" if goal else "",
            better and t_test < SIGNIFICANT if goal else None,
        ),
        Figure(f"trained {kind}: paired randomisation, p", chance, ""),
        Figure(f"trained {kind}: steps", told["steps"], f"best {told['best_step']}"),
        Figure(f"trained {kind}: wall time", told["hours"], "h", f"<= {HOURS:g}", told["hours"] <= HOURS),
        Figure(f"trained {kind}: CPU time", told["cpu_hours_of_one_worker"], "h"),
    ]


def randomisation(differences: NDArray[np.float64]) -> float:
    """Return the two-sided p of a mean difference when the sign of each is left to chance."""
    chance = np.random.default_rng(0)
    extreme = 0
    for _ in range(DRAWS // 1000):
        signs = chance.choice([-1.0, 1.0], (1000, len(differences)))
        extreme += int((np.abs((signs * differences).mean(axis=1)) >= abs(differences.mean()) - 1e-12).sum())
    return (extreme + 1) / (DRAWS + 1)


if __name__ == "__main__":
    main()
