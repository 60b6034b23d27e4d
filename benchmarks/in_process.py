"""What an index in the process takes: from open to the first answer, memory, and the time of a search.

    python -m benchmarks.in_process [--index ROOT] [--passages 2000] [--queries 200] [--rounds 3] [--peers PYTHON]
        [--weight] [--dataset DIR] [--json FILE]

Every line is measured in processes of its own, in turns, with the model converted and the files read before; the
figure is the median of the rounds. Queries are those of the dataset; without `--index` its first passages are indexed.

`--peers` names a Python that has chromadb and lancedb. All three get the same vectors and texts, in folders of their
own, are given vectors of the queries, and load no model. Shoal shall be no slower than the faster of them.
`--weight` shows what each step of opening takes instead.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.beir import read_jsonl
from benchmarks.support.report import Figure, report, tell

FIRST_ANSWER_S = 2.0
"""Goal: seconds from `shoal.open` to the first answer."""
MEMORY_MIB = 250.0
"""Goal: resident memory after the queries of stage one, in MiB."""
PEERS = ("chromadb", "lancedb")
COMPARED = ("first answer", "first answer, CPU", "p50", "p99", "CPU of a search")
"""Figures in which Shoal shall be no slower than the faster of the others."""
WRITTEN = 20
"""Passages of one write: they are encoded before its deadline on a busy machine too."""
ROOT = Path(__file__).parents[1]

Measured = dict[str, float]


def main() -> None:
    """Measure, in processes for each line."""
    options = parsed()
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as temporary:
        folder = Path(temporary)
        index = options.index or str(build(folder / "index", options))
        (folder / "queries.json").write_text(json.dumps(texts_of(options)))
        if options.weight:
            report("Opening an index in the process, by step", weight(own("weight", index, folder)), options.json)
            return
        figures = []
        for name in ("dense", "reranked"):
            (measured,) = in_turns([own(name, index, folder)], options.rounds)
            figures += shown(f"shoal, {name}", measured, with_goals=name == "dense")
        if options.peers:
            figures += beside_peers(index, folder, options)
    report("An index in the process", figures, options.json)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("SHOAL_DATA", "../shared/data")) / "beir"
    parser.add_argument("--index", help="index root, local; without it one is built of the dataset")
    parser.add_argument("--passages", type=int, default=2000, help="of an index that is built")
    parser.add_argument("--dataset", type=Path, default=data / "scifact", help="whose queries are asked")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each line")
    parser.add_argument("--peers", help="a Python that has chromadb and lancedb")
    parser.add_argument("--weight", action="store_true", help="show what each step of opening takes")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    return parser.parse_args()


def texts_of(options: argparse.Namespace) -> list[str]:
    """The queries."""
    return [row["text"] for row in read_jsonl(options.dataset / "queries.jsonl.gz")][: options.queries]


def own(measure: str, index: str, folder: Path) -> list[str]:
    """The command that measures Shoal, with what lies in a folder."""
    return [sys.executable, "-m", "benchmarks.support.opened", measure, index, str(folder)]


def build(root: Path, options: argparse.Namespace) -> Path:
    """Index the first passages of the dataset, in this process."""
    from shoal.settings import CreateSettings

    rows = read_jsonl(options.dataset / "corpus.jsonl.gz")[: options.passages]
    tell(f"indexing {len(rows)} passages")
    passages = [{"id": row["_id"], "title": row.get("title") or None, "text": row["text"]} for row in rows]
    return written(root, CreateSettings(index=str(root), shards=2), passages)


def written(root: Path, settings: Any, passages: list[dict[str, Any]], batch_passages: int = WRITTEN) -> Path:
    """Make a version of passages, written so many at once."""
    import shoal
    from shoal.index_root.log import Log
    from shoal.index_root.storage import Storage
    from shoal.indexing.compaction import compact
    from shoal.indexing.empty import create_index
    from shoal.settings import CompactSettings

    create_index(settings)
    with shoal.open(root, reranker="none", write_timeout_ms=60_000) as index:
        index.upsert(passages, batch_passages=batch_passages)
    compact(CompactSettings(index=str(root)), Log.open(Storage(str(root))))
    return root


def beside_peers(index: str, folder: Path, options: argparse.Namespace) -> list[Figure]:
    """Measure Shoal and others with the same vectors."""
    export(index, texts_of(options), folder)
    stores = [options.peers, str(ROOT / "benchmarks" / "support" / "vector_stores.py")]
    for peer in PEERS:
        run([*stores, peer, str(folder), "build"])
    commands = [own("vectors", str(folder / "shoal"), folder), *([*stores, peer, str(folder), "ask"] for peer in PEERS)]
    ours, *others = in_turns(commands, options.rounds)
    figures = []
    for name, value in ours.items():
        best = min(other[name] for other in others)
        goal = (f"<= {best:.4g}", value <= best) if name in COMPARED else ("", None)
        figures.append(Figure(f"shoal, vectors: {name}", value, unit(name), *goal))
    tell(figures)
    for peer, measured in zip(PEERS, others, strict=True):
        figures += shown(peer, measured, with_goals=False)
    return figures


def export(index: str, texts: list[str], folder: Path) -> None:
    """Write what all are given, vectors and texts of the passages, and vectors of the queries; index it for Shoal."""
    from shoal.encoders import load_encoder
    from shoal.index_root import versions
    from shoal.index_root.storage import Storage
    from shoal.records import FloatArray
    from shoal.serving.plan import plan_serving
    from shoal.settings import CreateSettings, ServeSettings
    from shoal.shard.reader import Shard

    storage = Storage(index)
    manifest = versions.current_manifest(storage)
    ids: list[str] = []
    documents: list[str] = []
    vectors: list[FloatArray] = []
    for entry in manifest.shards:
        shard = Shard.open(storage, manifest, entry.shard, cache=None, threads=1)
        for start in range(0, shard.count, 1000):
            fetched = shard.fetch(range(start, min(start + 1000, shard.count)), with_vectors=True)
            ids += [passage.id for passage in fetched.passages]
            documents += [passage.text for passage in fetched.passages]
            assert fetched.vectors is not None
            vectors.append(fetched.vectors)
        shard.close()
    encoder = load_encoder(plan_serving(ServeSettings(index=index, reranker="none")).encoder)
    matrix: FloatArray = np.concatenate(vectors)
    np.save(folder / "vectors.npy", matrix)
    np.save(folder / "queries.npy", encoder.encode_queries(texts))
    (folder / "passages.json").write_text(json.dumps({"ids": ids, "documents": documents}))
    passages = [{"id": i, "text": t, "vector": v} for i, t, v in zip(ids, documents, matrix.tolist(), strict=True)]
    written(folder / "shoal", CreateSettings(index=str(folder / "shoal"), dimension=manifest.dim), passages, 200)


def in_turns(commands: list[list[str]], rounds: int) -> list[Measured]:
    """Run each command once to warm up, then all in turns; return the median of each figure."""
    for command in commands:
        run(command)  # converts the model, and reads the files
    runs: list[list[Measured]] = [[] for _ in commands]
    for _ in range(rounds):
        for done, command in zip(runs, commands, strict=True):
            done.append(run(command))
    return [{name: float(np.median([one[name] for one in done])) for name in done[0]} for done in runs]


def weight(command: list[str]) -> list[Figure]:
    """The figures of each step."""
    run(command)
    figures = []
    for name, (seconds, mib) in run(command).items():
        if not name.startswith("of it "):
            figures.append(Figure(f"{name}: CPU", seconds, "s"))
        figures.append(Figure(f"{name}: memory", mib, "MiB"))
    return figures


def shown(name: str, measured: Measured, *, with_goals: bool) -> list[Figure]:
    """The figures of one line."""
    figures = []
    for figure, value in measured.items():
        goal = {"first answer": FIRST_ANSWER_S, "memory": MEMORY_MIB}.get(figure) if with_goals else None
        words, met = ("", None) if goal is None else (f"<= {goal:g}", value <= goal)
        figures.append(Figure(f"{name}: {figure}", value, unit(figure), words, met))
    tell(figures)
    return figures


def unit(figure: str) -> str:
    """The unit of a figure."""
    if figure.startswith("memory"):
        return "MiB"
    if figure.startswith("exact"):
        return "of 1"
    return "ms" if figure.startswith(("p50", "p99", "CPU of")) else "s"


def run(command: list[str]) -> Any:
    """Run a process and return what it prints as JSON on its last line. Ends the program if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines else None


if __name__ == "__main__":
    main()
