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
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.support.corpora import BM25, build, keep, median_ms
from benchmarks.support.report import Figure, report
from shoal.encoders import Encoder, TokenEncoder, load_encoder
from shoal.evaluation.asking import LocalAsker, ask_all, ask_planned, planned
from shoal.evaluation.dataset import Dataset, read_dataset
from shoal.evaluation.evaluate import with_the_rest
from shoal.evaluation.measures import Row, judge
from shoal.evaluation.runs import DEPTH
from shoal.index_root.storage import Storage
from shoal.rerankers import Reranker, load_reranker
from shoal.rerankers.late_interaction import LateInteraction
from shoal.settings import (
    EMBEDDED_ENCODER,
    EncoderSettings,
    EvaluateSettings,
    RerankerSettings,
    ServeSettings,
)
from shoal.system.machine import usable_cores

LATENCY_CANDIDATES = 25
MODES = ("dense", "lexical", "hybrid")
STAGES = [*MODES, "rrf", *(f"{mode}+rerank" for mode in MODES)]
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
    parser.add_argument(
        "--passage-tokens",
        type=int,
        default=0,
        help="tokens read of a passage in windows; 0, as in the reference: none",
    )
    parser.add_argument("--reranker", default="late_interaction")
    parser.add_argument("--top-k", type=int, default=50, help="candidates that stage two orders")
    parser.add_argument("--queries", type=int, help="ask only this many queries of each, sampled with a fixed seed")
    parser.add_argument("--cache", type=Path, help="folder that keeps vectors (3 GB for all collections)")
    parser.add_argument("--latency", action="store_true", help="time the reranker too, over texts it has not read")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    encoder = load_encoder(
        EncoderSettings(
            encoder=options.encoder,
            dtype=options.dtype,
            threads=options.threads,
            passage_tokens=options.passage_tokens,
        )
    )
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


if __name__ == "__main__":
    main()
