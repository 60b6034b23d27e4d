"""How fast models compute, against sentence-transformers in float32: `python -m benchmarks.inference [--quality]`.

Passages, queries and pairs are those of a BEIR data set. The sides alternate, and each figure is the median over the
rounds. The cross-encoder is the encoder's own network under a head with random weights, which costs as much as a
trained one. `--quality` encodes whole data sets and compares nDCG@10; `--build` runs the build job on one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np

from benchmarks.support.beir import read_jsonl, read_qrels
from benchmarks.support.report import Figure, report, tell
from shoal.encoders import load_encoder
from shoal.inference import models
from shoal.records import FloatArray
from shoal.rerankers import load_reranker
from shoal.settings import EMBEDDED_ENCODER, EncoderSettings, RerankerSettings
from shoal.system.machine import usable_cores
from shoal.testing.models import save_cross_encoder

CANDIDATES = 25
MFLOP_PER_TOKEN = 23.5
"""Of all-MiniLM-L6-v2 at the length of scifact's passages: six layers of 3.54, and attention."""
CPU_DTYPES = ("float32", "bfloat16", "int8")


def main() -> None:
    """Time both sides in turns and report the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("SHOAL_DATA", "../shared/data")) / "beir"
    parser.add_argument("--dataset", type=Path, default=data / "scifact", help="whose texts are timed")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passages", type=int, default=256, help="sampled passages of one round")
    parser.add_argument("--queries", type=int, default=100, help="sampled queries of one round")
    parser.add_argument(
        "--quality", type=Path, nargs="*", help="data sets to rank; scifact and cranfield if none named"
    )
    parser.add_argument("--build", action="store_true", help="run the build job on the data set, too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    passages, queries = read_texts(options.dataset)
    random = np.random.default_rng(0)
    sample = [passages[row] for row in random.choice(len(passages), options.passages, replace=False)]
    asked = [queries[row] for row in random.choice(len(queries), options.queries, replace=False)]
    parts: list[Callable[[], list[Figure]]] = [
        lambda: start(options.threads, options.rounds),
        lambda: speed(sample, asked, options.threads, options.rounds),
    ]
    if options.build:
        parts.append(lambda: build(options.dataset, passages, options.threads))
    if options.quality is not None:
        for dataset in options.quality or [data / "scifact", data / "cranfield"]:
            parts.append(lambda dataset=dataset: quality(dataset, options.threads))
    figures: list[Figure] = []
    for part in parts:
        known = part()
        tell(known)
        figures += known
    report(
        f"Inference with {EMBEDDED_ENCODER} on {options.dataset.name}, {options.threads} threads", figures, options.json
    )


def speed(passages: list[str], queries: list[str], threads: int, rounds: int) -> list[Figure]:
    """Time passages, single queries and pairs on every backend and precision, in turns."""
    import torch
    from sentence_transformers import CrossEncoder, SentenceTransformer

    torch.set_num_threads(threads)
    reference = SentenceTransformer(str(models.resolve(EMBEDDED_ENCODER).fetch()), device="cpu")
    encoders = {
        dtype: load_encoder(EncoderSettings(dtype=dtype, device="cpu", threads=threads)) for dtype in CPU_DTYPES
    }
    with tempfile.TemporaryDirectory() as folder:
        cross_encoder = str(save_cross_encoder(Path(folder)))
        predict = CrossEncoder(cross_encoder, device="cpu").predict
        cross = {
            dtype: load_reranker(RerankerSettings(reranker=cross_encoder, dtype=dtype, device="cpu", threads=threads))
            for dtype in CPU_DTYPES
        }
    late = {
        backend: load_reranker(
            RerankerSettings(backend=backend, dtype=dtype, device="cpu", threads=threads, token_cache_bytes=0)
        )
        for backend, dtype in (("torch", "float32"), ("auto", "auto"))
    }
    few = queries[:4]
    pairs = [
        (query, passage) for number, query in enumerate(few) for passage in passages[CANDIDATES * number :][:CANDIDATES]
    ]
    candidates = pairs[:CANDIDATES]
    work: dict[str, Callable[[], Any]] = {
        "passages reference": lambda: reference.encode(passages, normalize_embeddings=True),
        "queries reference": lambda: [reference.encode([query], normalize_embeddings=True) for query in queries],
        "pairs reference": lambda: predict(pairs),
        "late torch": lambda: late["torch"].score_pairs(candidates),
        "late auto": lambda: late["auto"].score_pairs(candidates),
    }
    for dtype in CPU_DTYPES:
        work[f"passages {dtype}"] = lambda dtype=dtype: encoders[dtype].encode_passages(passages)
        work[f"queries {dtype}"] = lambda dtype=dtype: [encoders[dtype].encode_queries([query]) for query in queries]
        work[f"pairs {dtype}"] = lambda dtype=dtype: cross[dtype].score_pairs(pairs)
    for run in work.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in work}
    peaks = []
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}")
        peaks.append(matrix_peak(threads))
        for name, run in work.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)

    tokens = sum(map(len, reference.tokenizer(passages, truncation=True)["input_ids"]))
    return speed_figures(seconds, statistics.median(peaks), len(passages), tokens, len(queries))


def speed_figures(
    seconds: dict[str, list[float]], peak: float, passages: int, tokens: int, queries: int
) -> list[Figure]:
    """Rates and ratios of what was timed, by name; peak: of bfloat16 matrix products, in GFLOP/s."""

    def ratio(name: str, other: str) -> float:
        """Median over the rounds of how many times faster `name` is: what ran in one round shared its conditions."""
        return statistics.median(b / a for a, b in zip(seconds[name], seconds[other], strict=True))

    rate = {name: statistics.median(times) for name, times in seconds.items()}
    figures = [Figure("peak of bfloat16 matrix products", peak, "GFLOP/s")]
    for dtype in ("reference", *CPU_DTYPES):
        figures.append(Figure(f"passages, {dtype}", passages / rate[f"passages {dtype}"], "passages/s"))
    figures += [
        Figure("passages, bfloat16: tokens", tokens / rate["passages bfloat16"], "tokens/s"),
        Figure(
            "passages, bfloat16: share of the peak",
            tokens / rate["passages bfloat16"] * MFLOP_PER_TOKEN / 1000 / peak,
            "",
        ),
    ]
    for what, dtype, goal in (
        ("passages", "bfloat16", 2.3),
        ("passages", "int8", 3.0),
        ("pairs", "bfloat16", 2.3),
        ("pairs", "int8", 3.0),
    ):
        value = ratio(f"{what} {dtype}", f"{what} reference")
        figures.append(Figure(f"{what}, {dtype} against the reference", value, "x", f">= {goal}", value >= goal))
    for dtype in ("reference", *CPU_DTYPES):
        figures.append(Figure(f"one query, {dtype}", 1000 * rate[f"queries {dtype}"] / queries, "ms"))
    share = 1 / ratio("queries bfloat16", "queries reference")
    figures.append(Figure("one query, bfloat16 against the reference", share, "x", "<= 0.3", share <= 0.3))
    figures.append(Figure("late interaction of 25 candidates, torch float32", 1000 * rate["late torch"], "ms"))
    figures.append(Figure("late interaction of 25 candidates, default", 1000 * rate["late auto"], "ms"))
    share = 1 / ratio("late auto", "late torch")
    figures.append(Figure("late interaction, default against torch float32", share, "x", "<= 0.5", share <= 0.5))
    return figures


def start(threads: int, rounds: int) -> list[Figure]:
    """Time fresh processes until they have a vector, on torch and on a model that was converted before."""
    program = f"""
import resource, sys
from shoal.encoders import load_encoder
from shoal.settings import EncoderSettings
load_encoder(EncoderSettings(backend=sys.argv[1], device="cpu", threads={threads})).encode_queries(["red fish"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    seconds: dict[str, list[float]] = {"torch": [], "openvino": []}
    memory: dict[str, int] = {}
    for number in range(rounds + 1):
        for backend in seconds:
            started = time.perf_counter()
            command = [sys.executable, "-c", program, backend]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            if number:  # the first one converts the model, and reads the libraries from the disk
                seconds[backend].append(time.perf_counter() - started)
            memory[backend] = int(done.stdout)
    return [
        figure
        for backend, times in seconds.items()
        for figure in (
            Figure(f"a process until its first vector, {backend}", statistics.median(times), "s"),
            Figure(f"its memory, {backend}", memory[backend] / 1024, "MiB"),
        )
    ]


def matrix_peak(threads: int) -> float:
    """GFLOP/s of a large bfloat16 matrix product in torch."""
    import torch

    torch.set_num_threads(threads)
    left, right = torch.ones(4096, 1536, dtype=torch.bfloat16), torch.ones(1536, 1536, dtype=torch.bfloat16)
    left @ right
    started = time.perf_counter()
    for _ in range(10):
        left @ right
    return 10 * 2 * 4096 * 1536 * 1536 / (time.perf_counter() - started) / 1e9


def build(dataset: Path, passages: list[str], threads: int) -> list[Figure]:
    """Compare the build job, end to end, with the bare backend on the same texts."""
    figures, shares = [], []
    for workers, each in ((threads, 1), (1, threads)):
        with tempfile.TemporaryDirectory() as folder:
            command = ["--source", str(dataset), "--index", folder, "--workers", str(workers), "--threads", str(each)]
            done = subprocess.run(
                [sys.executable, "-m", "jobs.build_index", *command, "--json"], check=True, stdout=subprocess.PIPE
            )
        built = json.loads(done.stdout)
        encoder = load_encoder(EncoderSettings(threads=threads))
        started = time.perf_counter()
        encoder.encode_passages(passages)
        bare = len(passages) / (time.perf_counter() - started)
        name = f"build, {workers} x {each} threads"
        figures += [
            Figure(f"{name}: end to end", built["passages_per_s"], "passages/s"),
            Figure(f"{name}: bare backend", bare, "passages/s"),
            Figure(f"{name}: least share of its time that a worker encoded", built["busy"][0], ""),
        ]
        shares.append(built["passages_per_s"] / bare)
    best = max(shares)
    return [*figures, Figure("build, end to end against the bare backend", best, "x", ">= 0.9", best >= 0.9)]


def quality(dataset: Path, threads: int) -> list[Figure]:
    """NDCG@10 of exact search in each precision."""
    corpus = read_jsonl(dataset / "corpus.jsonl.gz")
    passages, _ = read_texts(dataset)
    qrels = read_qrels(dataset / "qrels" / "test.tsv")
    judged = {judgement.query_id for judgement in qrels}
    queries = {row["_id"]: row["text"] for row in read_jsonl(dataset / "queries.jsonl.gz") if row["_id"] in judged}

    def ndcg(scores: FloatArray) -> float:
        top = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        run = [
            ir_measures.ScoredDoc(query, corpus[row]["_id"], float(line[row]))
            for query, rows, line in zip(queries, top, scores, strict=True)
            for row in rows
        ]
        value: float = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]
        return value

    figures, exact = [], 0.0
    for dtype in CPU_DTYPES:
        encoder = load_encoder(EncoderSettings(dtype=dtype, device="cpu", threads=threads))
        value = ndcg(encoder.encode_queries(list(queries.values())) @ encoder.encode_passages(passages).T)
        name = f"{dataset.name}, {dtype}: nDCG@10"
        if dtype == "float32":
            exact = value
            figures.append(Figure(name, value, ""))
        else:
            met = abs(value - exact) <= 0.002
            figures.append(Figure(name, value, "", f"{exact:.4f} ± 0.002", met))
    return figures


def read_texts(dataset: Path) -> tuple[list[str], list[str]]:
    """Passages as they are indexed, and queries."""
    corpus = read_jsonl(dataset / "corpus.jsonl.gz")
    passages = [f"{row.get('title', '')} {row['text']}".strip() for row in corpus]
    return passages, [row["text"] for row in read_jsonl(dataset / "queries.jsonl.gz")]


if __name__ == "__main__":
    main()
