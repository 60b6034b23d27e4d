"""How well each mode ranks, with and without stage two: `python -m benchmarks.quality [--dataset BEIR_DIR ...]`.

Every collection is indexed by the steps of the build job and searched by the server's pipeline in every mode, alone and
with the reranker over the best 50. nDCG@10 comes from ir-measures; BM25 and plain dense have reference values. Encoding
takes minutes a collection: --cache keeps the vectors for the next run.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from benchmarks.support.beir import read_jsonl
from benchmarks.support.report import Figure, report
from benchmarks.support.vectors import KeptEncoder
from shoal.encoders import Encoder, TokenEncoder, load_encoder
from shoal.evaluation.asking import LocalAsker, ask_all, ask_planned, planned
from shoal.evaluation.dataset import Dataset, read_dataset
from shoal.evaluation.evaluate import with_the_rest
from shoal.evaluation.measures import Row, judge
from shoal.evaluation.runs import DEPTH
from shoal.index_root import versions
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexing.commits import Tally
from shoal.indexing.embed import embed_unit
from shoal.indexing.lexical import describe_lexical, merge_shards
from shoal.indexing.plan import make_plan
from shoal.indexing.publish import field_types, make_manifest
from shoal.indexing.recall import Tuning
from shoal.indexing.sample import sample_vectors
from shoal.indexing.shards import count_shard, index_shard
from shoal.indexing.spool import spool
from shoal.indexing.tokens import read_codec, train_codec
from shoal.rerankers import Reranker, load_reranker
from shoal.rerankers.late_interaction import LateInteraction
from shoal.settings import (
    EMBEDDED_ENCODER,
    BuildSettings,
    EncoderSettings,
    EvaluateSettings,
    RerankerSettings,
    ServeSettings,
)
from shoal.system.machine import usable_cores

SHARDS = 3
LATENCY_CANDIDATES = 25
LATENCY_QUERIES = 11
STAGES = ["dense", "lexical", "rrf", "hybrid", "dense+rerank", "lexical+rerank", "hybrid+rerank"]
# nDCG@10 of all judged queries: BM25 with k1 1.5, b 0.75 and an English stemmer; the embedded encoder by exact search.
BM25 = {"scifact": 0.686, "cranfield": 0.519, "stackexchange-5sites": 0.495, "hotpotqa-500": 0.784, "boolq-dev": 0.868}
DENSE = {"scifact": 0.645, "cranfield": 0.508}
SCIFACT_HYBRID = 0.71


def main() -> None:
    """Measure all collections, print the table of all modes and the goals, and fail if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("SHOAL_DATA", "../shared/data")) / "beir"
    parser.add_argument("--dataset", type=Path, nargs="+", default=[data / name for name in BM25])
    parser.add_argument("--encoder", default=EMBEDDED_ENCODER)
    parser.add_argument(
        "--dtype", default="float32", help="precision of the models; the reference values are float32's"
    )
    parser.add_argument("--reranker", default="late_interaction")
    parser.add_argument("--top-k", type=int, default=50, help="candidates that stage two orders")
    parser.add_argument("--queries", type=int, help="ask only this many queries of each, sampled with a fixed seed")
    parser.add_argument("--cache", type=Path, help="folder that keeps vectors (3 GB for all collections)")
    parser.add_argument("--latency", action="store_true", help="time the reranker too, over texts it has not read")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    encoder = load_encoder(EncoderSettings(encoder=options.encoder, dtype=options.dtype, threads=options.threads))
    results: dict[str, dict[str, Row]] = {}
    whole: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        for place in options.dataset:
            dataset = read_dataset(str(place))
            if len(dataset.queries) <= (options.queries or len(dataset.queries)):
                whole.add(place.name)
            rows = measure(place, dataset.sample(options.queries), encoder, options, Path(folder))
            results[place.name] = {row.name: row for row in rows}
            line = ", ".join(f"{row.name} {row.values['nDCG@10']:.4f}" for row in rows)
            print(f"{place.name}: {line}", file=sys.stderr, flush=True)
    show(results)
    figures = [
        Figure(f"{collection}, {name}: nDCG@10", row.values["nDCG@10"], "")
        for collection, rows in results.items()
        for name, row in rows.items()
    ]
    if options.encoder == EMBEDDED_ENCODER:
        values = {name: {stage: row.values["nDCG@10"] for stage, row in rows.items()} for name, rows in results.items()}
        figures += goals(values, whole)
    if options.latency:
        latency = median_ms(load_reranker(reranker_settings(options)), options.dataset[0], LATENCY_CANDIDATES)
        figures.append(Figure(f"{options.reranker}: {LATENCY_CANDIDATES} candidates", latency, "ms"))
    title = f"Quality with {options.encoder} and {options.reranker} over the best {options.top_k}"
    report(f"{title}, {options.threads} threads", figures, options.json)


def measure(place: Path, dataset: Dataset, encoder: Encoder, options: argparse.Namespace, folder: Path) -> list[Row]:
    """Index one collection and ask its queries in every mode and stage."""
    reranker: Reranker
    if isinstance(encoder, TokenEncoder) and options.reranker == "late_interaction":
        encoder = keep(place, dataset, encoder, options.cache or folder / "vectors")
        reranker = LateInteraction(encoder, 0)
    else:
        reranker = load_reranker(reranker_settings(options))
    root = Storage(str(folder / place.name))
    manifest = build(place, root, encoder, options)
    serve = ServeSettings(index=root.uri, reranker=options.reranker)
    asked = EvaluateSettings(dataset=str(place), top_k=options.top_k)
    with LocalAsker(root, manifest, encoder, reranker, serve, asked.timeout_ms) as asker:
        runs = ask_planned(asker, dataset.queries, planned(asked, asker), asked.top_k)
    with LocalAsker(
        root, manifest, encoder, None, serve.model_copy(update={"fusion": "rrf"}), asked.timeout_ms
    ) as asker:
        run = ask_all(asker, dataset.queries, "hybrid", False, DEPTH)
    return judge([*with_the_rest(runs), replace(run, name="rrf")], dataset.judgements)


def keep(place: Path, dataset: Dataset, encoder: TokenEncoder, folder: Path) -> KeptEncoder:
    """Encode a collection once, or find what an earlier run has kept of it."""
    kept = KeptEncoder(encoder, folder)
    corpus = read_jsonl(place / "corpus.jsonl.gz")
    kept.prepare("query", list(dataset.queries.values()))
    kept.prepare("passage", [f"{row['title']} {row['text']}" if row.get("title") else row["text"] for row in corpus])
    return kept


def build(
    source: Path,
    root: Storage,
    encoder: Encoder,
    options: argparse.Namespace,
    late_interaction: Literal["none", "stored"] = "none",
) -> Manifest:
    """Take the steps of the build job, one after the other in this process."""
    settings = BuildSettings(
        source=str(source),
        index=root.uri,
        encoder=options.encoder,
        index_kind="flat",
        shards=SHARDS,
        threads=options.threads,
        late_interaction=late_interaction,
    )
    plan = spool(make_plan(settings, encoder.fingerprint()), root)
    tally = Tally(len(plan.units), plan.shards)
    codec = None
    if plan.stores_tokens:
        train_codec(plan, encoder, root)
        codec = read_codec(plan, root)
    for unit in plan.units:
        done = embed_unit(plan, unit, encoder, root, codec)
        tally.add_unit(done.unit, done.lines, done.rows, len(done.rejected), done.fields)
    fields = field_types(plan, tally)
    queries = sample_vectors(root, plan.hash, tally.passages, plan.shards, encoder.dim, 0, seed=2)
    for shard in range(plan.shards):
        count_shard(plan, shard, root)
    merge_shards(plan, root)
    commits = [index_shard(plan, shard, root, queries, options.threads, fields) for shard in range(plan.shards)]
    for commit in commits:
        tally.add_shard(commit)
    manifest = make_manifest(plan, tally, commits, Tuning().describe(plan.index), [], describe_lexical(plan, root))
    versions.publish(root, manifest)
    return manifest


def goals(results: dict[str, dict[str, float]], whole: set[str]) -> list[Figure]:
    """What must hold, by collection and stage. whole: the collections whose queries were all asked."""
    figures = []
    for reference, stage, tolerance in ((BM25, "lexical", 0.01), (DENSE, "dense", 0.003)):
        for name, expected in reference.items():
            if name in whole:
                value = results[name][stage]
                met = abs(value - expected) <= tolerance
                figures.append(Figure(f"{name}: {stage}", value, "", f"{expected} ± {tolerance}", met))
    if "scifact" in results:
        value = results["scifact"]["hybrid"]
        figures.append(Figure("scifact: hybrid", value, "", f">= {SCIFACT_HYBRID}", value >= SCIFACT_HYBRID))
    above = sum(rows["hybrid"] >= max(rows["dense"], rows["lexical"]) - 0.005 for rows in results.values())
    wanted = len(results) - 1 if len(results) == len(BM25) else 0
    goal = f">= {wanted} of {len(results)}" if wanted else ""
    met = above >= wanted if wanted else None
    figures.append(Figure("hybrid >= the better of dense and lexical - 0.005", above, "collections", goal, met))
    gains = [rows["hybrid+rerank"] - rows["rrf"] for rows in results.values()]
    mean, least = statistics.mean(gains), min(gains)
    figures.append(Figure("two stages over reciprocal rank fusion, mean", mean, "", ">= 0.01", mean >= 0.01))
    figures.append(Figure("two stages over reciprocal rank fusion, least", least, "", ">= -0.005", least >= -0.005))
    return figures


def show(results: dict[str, dict[str, Row]]) -> None:
    """Print nDCG@10 by collection and stage, as a table that can be pasted into Markdown."""
    lines = [(name, [rows[stage].values["nDCG@10"] for stage in STAGES]) for name, rows in results.items()]
    if len(lines) > 1:
        lines.append(
            ("mean", [statistics.mean(column) for column in zip(*(values for _, values in lines), strict=True)])
        )
    table = Table(box=None, pad_edge=False)
    for heading in ("| nDCG@10", *(f"| {stage}" for stage in STAGES), "|"):
        table.add_column(heading)
    for name, values in lines:
        table.add_row(f"| {name}", *(f"| {value:.3f}" for value in values), "|")
    Console(width=120).print(table)


def reranker_settings(options: argparse.Namespace) -> RerankerSettings:
    """The reranker that the options name."""
    return RerankerSettings(
        reranker=options.reranker,
        encoder=options.encoder,
        dtype=options.dtype,
        threads=options.threads,
        token_cache_bytes=0,
    )


def median_ms(reranker: Reranker, place: Path, candidates: int) -> float:
    """Time single queries with passages that the reranker has not read before."""
    queries = list(read_dataset(str(place)).queries.values())[:LATENCY_QUERIES]
    texts = [f"{row.get('title', '')} {row['text']}".strip() for row in read_jsonl(place / "corpus.jsonl.gz")]
    times = []
    for number, query in enumerate(queries):
        passages = texts[number * candidates : (number + 1) * candidates]
        started = time.perf_counter()
        reranker.score(query, passages)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


if __name__ == "__main__":
    main()
