"""Other stores of vectors in the process, measured as `benchmarks.in_process` does. Imports nothing of Shoal.

Run by a Python that has them: vector_stores.py chromadb|lancedb FOLDER build|ask
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TOP_K = 10
BLOCK = 2000
"""Passages that are added at once."""
Ask = Callable[[Any], list[str]]


def chromadb_collection(folder: Path) -> Any:
    """Open the collection."""
    chromadb = importlib.import_module("chromadb")
    settings = chromadb.Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(str(folder / "chroma"), settings)
    return client.get_or_create_collection("passages", metadata={"hnsw:space": "ip"}, embedding_function=None)


def chromadb_build(folder: Path, ids: list[str], documents: list[str], vectors: Any) -> None:
    """Add everything to a collection."""
    collection = chromadb_collection(folder)
    for start in range(0, len(ids), BLOCK):
        part = slice(start, start + BLOCK)
        collection.add(ids=ids[part], documents=documents[part], embeddings=vectors[part])


def chromadb_open(folder: Path) -> Ask:
    """Return what finds the nearest passages, with their texts."""
    collection = chromadb_collection(folder)

    def ask(vector: Any) -> list[str]:
        found = collection.query(query_embeddings=[vector], n_results=TOP_K, include=["documents", "distances"])
        return list(found["ids"][0])

    return ask


def lancedb_build(folder: Path, ids: list[str], documents: list[str], vectors: Any) -> None:
    """Add everything to a table, without an index: at this size it searches all vectors, as a flat index does."""
    lancedb = importlib.import_module("lancedb")
    rows = [
        {"id": id_, "text": text, "vector": vector} for id_, text, vector in zip(ids, documents, vectors, strict=True)
    ]
    lancedb.connect(str(folder / "lance")).create_table("passages", rows)


def lancedb_open(folder: Path) -> Ask:
    """Return what finds the nearest passages, with their texts."""
    table = importlib.import_module("lancedb").connect(str(folder / "lance")).open_table("passages")

    def ask(vector: Any) -> list[str]:
        return [row["id"] for row in table.search(vector).metric("dot").limit(TOP_K).to_list()]

    return ask


def measured(open_store: Callable[[Path], Ask], folder: Path) -> dict[str, float]:
    """Open a store and ask it with each vector of queries.npy.

    Seconds from before its import, milliseconds of a search, MiB, and what share of the exact answers it gives.
    """
    queries = np.load(folder / "queries.npy")
    started, before = time.perf_counter(), time.process_time()
    ask = open_store(folder)
    opened = time.perf_counter()
    ask(queries[0])
    first, cpu = time.perf_counter(), time.process_time()
    times, answers = [], []
    for query in queries:
        begun = time.perf_counter()
        answers.append(ask(query))
        times.append(1000 * (time.perf_counter() - begun))
    spent = time.process_time() - cpu
    return {
        "import and open": opened - started,
        "first answer": first - started,
        "first answer, CPU": cpu - before,
        "p50": float(np.percentile(times, 50)),
        "p99": float(np.percentile(times, 99)),
        "CPU of a search": 1000 * spent / len(queries),
        "memory": memory("VmRSS"),
        "memory, own": memory("RssAnon"),
        "exact answers": exact_share(folder, queries, answers),
    }


def memory(name: str) -> float:
    """Resident memory of this process in MiB: VmRSS with mapped files, RssAnon without."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


def exact_share(folder: Path, queries: Any, answers: list[list[str]]) -> float:
    """What share of the nearest passages was found, by an exact search."""
    ids = np.array(json.loads((folder / "passages.json").read_text())["ids"])
    nearest = np.argsort(-(queries @ np.load(folder / "vectors.npy").T), axis=1)[:, :TOP_K]
    shares = [len(set(answer) & set(ids[rows])) / TOP_K for answer, rows in zip(answers, nearest, strict=True)]
    return float(np.mean(shares))


def main(peer: str, folder: Path, action: str) -> None:
    """Build, or open and ask."""
    if action == "build":
        passages = json.loads((folder / "passages.json").read_text())
        build = globals()[f"{peer}_build"]
        build(folder, passages["ids"], passages["documents"], np.load(folder / "vectors.npy"))
        print("null")
        return
    print(json.dumps(measured(globals()[f"{peer}_open"], folder)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
