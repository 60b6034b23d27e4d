"""Judged collections: their reference values, and how they are encoded and indexed in this process."""

import argparse
import statistics
import time
from pathlib import Path
from typing import Literal

from benchmarks.support.beir import read_jsonl
from benchmarks.support.vectors import KeptEncoder
from shoal.encoders import Encoder, TokenEncoder
from shoal.evaluation.dataset import Dataset, read_dataset
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexing.commits import Tally
from shoal.indexing.embed import embed_unit
from shoal.indexing.plan import make_plan
from shoal.indexing.spool import spool
from shoal.indexing.stages import publish_units
from shoal.indexing.tokens import read_codec, train_codec
from shoal.rerankers import Reranker
from shoal.settings import (
    BuildSettings,
)

# nDCG@10 of all judged queries: BM25 with k1 1.5, b 0.75 and an English stemmer; the embedded encoder by exact search.
BM25 = {"scifact": 0.686, "cranfield": 0.519, "stackexchange-5sites": 0.495, "hotpotqa-500": 0.784, "boolq-dev": 0.868}
SHARDS = 3
"""Of an index that a benchmark builds."""
LATENCY_QUERIES = 11


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
        tally.add_commit(done)
    return publish_units(plan, root, tally, options.threads, 0)


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
