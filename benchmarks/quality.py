"""How well each stage ranks: `python -m benchmarks.quality [--dataset BEIR_DIR] [--reranker NAME ...]`.

Stage one is exact search over the encoder's vectors; stage two reranks its top k with the rerankers that users run.
nDCG@10 comes from ir-measures; goals are the reference values of the default models on the data sets that have them.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import ir_measures
import numpy as np

from benchmarks.beir import read_jsonl, read_qrels
from benchmarks.report import Figure, report
from shoal.encoders import load_encoder
from shoal.records import FloatArray
from shoal.rerankers import Reranker, load_reranker
from shoal.settings import EMBEDDED_ENCODER, EncoderSettings, RerankerSettings

TOLERANCE = 0.003
LATENCY_CANDIDATES = 25
LATENCY_QUERIES = 11
# nDCG@10 over the dense top 50 with the embedded encoder, all judged queries.
REFERENCE = {
    ("scifact", "dense"): 0.645,
    ("scifact", "late_interaction"): 0.710,
    ("cranfield", "dense"): 0.508,
    ("cranfield", "late_interaction"): 0.540,
}


def main() -> None:
    """Rank the judged queries with each stage and report it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("SHOAL_DATA", "../shared/data"))
    parser.add_argument("--dataset", type=Path, default=data / "beir" / "scifact")
    parser.add_argument("--encoder", default=EMBEDDED_ENCODER)
    parser.add_argument("--reranker", nargs="+", default=["late_interaction"])
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument("--queries", type=int, help="judge only this many queries, sampled with a fixed seed")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    qrels = read_qrels(options.dataset / "qrels" / "test.tsv")
    corpus = read_jsonl(options.dataset / "corpus.jsonl.gz")
    texts = [f"{row.get('title', '')} {row['text']}".strip() for row in corpus]
    judged = {judgement.query_id for judgement in qrels}
    queries = {
        row["_id"]: row["text"] for row in read_jsonl(options.dataset / "queries.jsonl.gz") if row["_id"] in judged
    }
    if options.queries and options.queries < len(queries):
        sample = np.random.default_rng(0).choice(sorted(queries), options.queries, replace=False)
        queries = {query: queries[query] for query in sample.tolist()}
        qrels = [judgement for judgement in qrels if judgement.query_id in queries]

    encoder = load_encoder(EncoderSettings(encoder=options.encoder, threads=options.threads))
    scores = encoder.encode_queries(list(queries.values())) @ encoder.encode_passages(texts).T
    top = np.argsort(-scores, axis=1, kind="stable")[:, : options.top_k]

    def figure(stage: str, ranked: FloatArray) -> Figure:
        run = [
            ir_measures.ScoredDoc(query, corpus[row]["_id"], float(score))
            for query, rows, line in zip(queries, top, ranked, strict=True)
            for row, score in zip(rows, line, strict=True)
        ]
        ndcg = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]
        known = options.encoder == EMBEDDED_ENCODER and options.top_k == 50 and not options.queries
        goal = REFERENCE.get((options.dataset.name, stage)) if known else None
        if goal is None:
            return Figure(f"{stage}: nDCG@10", ndcg, "")
        return Figure(f"{stage}: nDCG@10", ndcg, "", f"{goal} ± {TOLERANCE}", abs(ndcg - goal) <= TOLERANCE)

    figures = [figure("dense", np.take_along_axis(scores, top, axis=1))]
    pairs = [(query, texts[row]) for query, rows in zip(queries.values(), top, strict=True) for row in rows]
    for name in options.reranker:
        settings = RerankerSettings(
            reranker=name, encoder=options.encoder, threads=options.threads, token_cache_bytes=0
        )
        reranker = load_reranker(settings)
        latency = median_ms(reranker, pairs, options.top_k)
        figures.append(figure(name, reranker.score_pairs(pairs).reshape(top.shape)))
        figures.append(Figure(f"{name}: {LATENCY_CANDIDATES} candidates", latency, "ms"))
    title = f"Quality on {options.dataset.name}, {len(queries)} queries, top {options.top_k} of {options.encoder}"
    report(f"{title}, {options.threads} threads", figures, options.json)


def median_ms(reranker: Reranker, pairs: list[tuple[str, str]], top_k: int) -> float:
    """Time single queries with their first candidates, none of which is cached."""
    times = []
    for start in range(0, min(len(pairs), LATENCY_QUERIES * top_k), top_k):
        started = time.perf_counter()
        reranker.score_pairs(pairs[start : start + min(top_k, LATENCY_CANDIDATES)])
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


if __name__ == "__main__":
    main()
