"""What an index in the process takes: from open to the first answer, memory, and the time of a search.

    python -m benchmarks.in_process --index ROOT [--dataset DIR] [--queries 200] [--peers PYTHON] [--json FILE]

Every line is measured in a process of its own, with the model converted and the files read before. Queries are those of
the dataset. `--peers` names a Python that has chromadb and lancedb; both get the same vectors and texts, in folders of
their own, and are asked with vectors. Beside them stands a search by vectors whose query is remembered.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.beir import read_jsonl
from benchmarks.support.processes import resident_mib
from benchmarks.support.report import Figure, report, tell
from shoal.encoders import load_encoder
from shoal.index_root import versions
from shoal.index_root.storage import Storage
from shoal.serving.plan import plan_serving
from shoal.settings import ServeSettings
from shoal.shard.reader import Shard

FIRST_ANSWER_S = 2.0
"""Goal: seconds from `shoal.open` to the first answer."""
MEMORY_MIB = 250.0
"""Goal: resident memory after the queries, in MiB."""
PEERS = ("chromadb", "lancedb")
ROOT = Path(__file__).parents[1]


def main() -> None:
    """Measure, in a process for each line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("SHOAL_DATA", "../shared/data")) / "beir"
    parser.add_argument("--index", required=True, help="index root, local")
    parser.add_argument("--dataset", type=Path, default=data / "scifact", help="whose queries are asked")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--peers", help="a Python that has chromadb and lancedb")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--measure", choices=("reranked", "dense"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    texts = [row["text"] for row in read_jsonl(options.dataset / "queries.jsonl.gz")][: options.queries]
    if options.measure:
        print(json.dumps(measure(options.index, texts, options.measure)))
        return
    figures = []
    for name in ("reranked", "dense"):
        words = ["--index", options.index, "--dataset", str(options.dataset), "--queries", str(options.queries)]
        command = [sys.executable, "-m", "benchmarks.in_process", *words, "--measure", name]
        run(command)  # converts the model, and reads the files
        figures += shown(f"shoal, {name}", run(command), with_goals=True)
    if options.peers:
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
            export(options.index, texts, Path(folder))
            for peer in PEERS:
                command = [options.peers, str(ROOT / "benchmarks" / "support" / "vector_stores.py"), peer, folder]
                run([*command, "build"])
                figures += shown(peer, run([*command, "ask"]), with_goals=False)
    report("An index in the process", figures, options.json)


def measure(index: str, texts: list[str], name: str) -> dict[str, float]:
    """Open an index, ask, and ask again; the second time stage one has the vectors of the queries at hand."""
    started = time.perf_counter()
    import shoal

    settings: dict[str, str] = {} if name == "reranked" else {"reranker": "none"}
    with shoal.open(index, **settings) as opened:
        opened_at = time.perf_counter()
        opened.search(texts[0], timeout_ms=60_000)
        first, cpu = time.perf_counter(), time.process_time()
        passes = []
        for _ in range(2):
            times = []
            for text in texts:
                begun = time.perf_counter()
                opened.search(text, top_n=10, timeout_ms=60_000)
                times.append(1000 * (time.perf_counter() - begun))
            passes.append(times)
        fresh, remembered = passes
        return {
            "import and open": opened_at - started,
            "first answer": first - started,
            "first answer, CPU": cpu,
            "p50": float(np.percentile(fresh, 50)),
            "p99": float(np.percentile(fresh, 99)),
            "p50, remembered": float(np.percentile(remembered, 50)),
            "p99, remembered": float(np.percentile(remembered, 99)),
            "memory": resident_mib("VmRSS"),
            "memory, own": resident_mib("RssAnon"),
        }


def export(index: str, texts: list[str], folder: Path) -> None:
    """Write what others are given: vectors and texts of the passages, and vectors of the queries."""
    storage = Storage(index)
    manifest = versions.current_manifest(storage)
    ids: list[str] = []
    documents: list[str] = []
    vectors = []
    for entry in manifest.shards:
        shard = Shard.open(storage, manifest, entry.shard, cache=None, threads=1)
        for start in range(0, shard.count, 1000):
            fetched = shard.fetch(range(start, min(start + 1000, shard.count)), with_vectors=True)
            ids += [passage.id for passage in fetched.passages]
            documents += [passage.text for passage in fetched.passages]
            vectors.append(fetched.vectors)
        shard.close()
    encoder = load_encoder(plan_serving(ServeSettings(index=index, reranker="none")).encoder)
    np.save(folder / "vectors.npy", np.concatenate(vectors))
    np.save(folder / "queries.npy", encoder.encode_queries(texts))
    (folder / "passages.json").write_text(json.dumps({"ids": ids, "documents": documents}))


def shown(name: str, measured: dict[str, float], *, with_goals: bool) -> list[Figure]:
    """The figures of one process."""
    figures = []
    for figure, value in measured.items():
        unit = "MiB" if figure.startswith("memory") else "ms" if figure.startswith("p") else "s"
        goal = {"first answer": FIRST_ANSWER_S, "memory": MEMORY_MIB}.get(figure) if with_goals else None
        words, met = ("", None) if goal is None else (f"<= {goal:g}", value <= goal)
        figures.append(Figure(f"{name}: {figure}", value, unit, words, met))
    tell(figures)
    return figures


def run(command: list[str]) -> Any:
    """Run a process and return what it prints as JSON on its last line. Ends the program if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines else None


if __name__ == "__main__":
    main()
