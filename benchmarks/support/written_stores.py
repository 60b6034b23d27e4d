"""Stores in the process that passages are written to, as `benchmarks.write_peers` asks. Imports nothing of Shoal.

Run by a Python that has them: written_stores.py chromadb|qdrant-edge FOLDER SEED. Commands come on standard input, one
a line: `write COUNT BATCH`, `search COUNT` or `beside COUNT BATCH`, and each is answered by a line of JSON.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

DIM = 384
"""Numbers of a vector: those of all-MiniLM-L6-v2."""
WORDS = [f"w{number}" for number in range(5000)]
"""What texts are made of, each word as rare as it stands late."""
TOP_K = 10
PAUSE_S = 0.1
"""Seconds between two batches of the stream that searches run beside."""


class Store(Protocol):
    """What is measured."""

    def write(self, numbers: list[int], texts: list[str], vectors: Any) -> None:
        """Write passages durably, as far as the store promises that."""
        ...

    def search(self, vector: Any) -> list[Any]:
        """Find the nearest passages, with their texts."""
        ...


class Chroma:
    """A collection of chromadb on the disk."""

    def __init__(self, folder: Path) -> None:
        import chromadb

        client = chromadb.PersistentClient(str(folder), chromadb.Settings(anonymized_telemetry=False))
        configuration = {"hnsw:space": "ip"}
        self._collection = client.get_or_create_collection("passages", metadata=configuration, embedding_function=None)

    def write(self, numbers: list[int], texts: list[str], vectors: Any) -> None:
        """Upsert."""
        self._collection.upsert(ids=[f"p{number}" for number in numbers], documents=texts, embeddings=vectors)

    def search(self, vector: Any) -> list[Any]:
        """Query."""
        found = self._collection.query(query_embeddings=[vector], n_results=TOP_K, include=["documents", "distances"])
        return list(found["ids"][0])


class QdrantEdge:
    """A shard of Qdrant Edge."""

    def __init__(self, folder: Path) -> None:
        import qdrant_edge

        folder.mkdir(parents=True)
        parameters = qdrant_edge.EdgeVectorParams(size=DIM, distance=qdrant_edge.Distance.Dot)
        self._edge = qdrant_edge
        self._shard = qdrant_edge.EdgeShard.create(str(folder), qdrant_edge.EdgeConfig(vectors={"v": parameters}))

    def write(self, numbers: list[int], texts: list[str], vectors: Any) -> None:
        """Upsert: written to its log before it returns."""
        points = [
            self._edge.Point(number, {"v": vector}, {"text": text})
            for number, text, vector in zip(numbers, texts, vectors.tolist(), strict=True)
        ]
        self._shard.update(self._edge.UpdateOperation.upsert_points(points))

    def search(self, vector: Any) -> list[Any]:
        """Query."""
        query = self._edge.Query.Nearest(vector.tolist(), using="v")
        return list(self._shard.query(self._edge.QueryRequest(query=query, limit=TOP_K, with_payload=True)))


def made(seed: int) -> Iterator[tuple[str, Any]]:
    """Make texts of thirty words and vectors of length 1 without end."""
    random = np.random.default_rng(seed)
    while True:
        words = (random.pareto(1.0, 30) * 10).astype(int) % len(WORDS)
        vector = random.standard_normal(DIM).astype(np.float32)
        yield " ".join(WORDS[word] for word in words), vector / np.linalg.norm(vector)


class Work:
    """The same work for every store."""

    def __init__(self, store: Store, seed: int) -> None:
        self._store = store
        self._source = made(seed)
        self._written = 0
        self._queries = np.random.default_rng(seed + 1)

    def write(self, count: int, batch: int) -> dict[str, Any]:
        """Write passages in batches; seconds of each batch and of the processor."""
        seconds, cpu = [], time.process_time()
        for _ in range(count // batch):
            seconds.append(self._write_batch(batch))
        return {"seconds": seconds, "cpu": time.process_time() - cpu}

    def _write_batch(self, batch: int) -> float:
        passages = [next(self._source) for _ in range(batch)]
        numbers = list(range(self._written, self._written + batch))
        self._written += batch
        texts, vectors = [text for text, _ in passages], np.array([vector for _, vector in passages])
        began = time.perf_counter()
        self._store.write(numbers, texts, vectors)
        return time.perf_counter() - began

    def search(self, count: int) -> dict[str, Any]:
        """Seconds of searches, one after another, and of the processor."""
        seconds, cpu = [], time.process_time()
        for _ in range(count):
            vector = self._queries.standard_normal(DIM).astype(np.float32)
            vector /= np.linalg.norm(vector)
            began = time.perf_counter()
            found = self._store.search(vector)
            seconds.append(time.perf_counter() - began)
            if len(found) != TOP_K:
                raise SystemExit(f"a search found {len(found)} passages")
        return {"seconds": seconds, "cpu": time.process_time() - cpu}

    def beside(self, count: int, batch: int) -> dict[str, Any]:
        """Seconds of searches while another thread writes a batch every tenth of a second."""
        ended, written = threading.Event(), 0

        def stream() -> None:
            nonlocal written
            while not ended.wait(PAUSE_S):
                self._write_batch(batch)
                written += batch

        thread = threading.Thread(target=stream)
        thread.start()
        began = time.perf_counter()
        try:
            answer = self.search(count)
        finally:
            ended.set()
            thread.join()
        return {**answer, "written": written, "took": time.perf_counter() - began}


def run(open_store: Callable[[], Store], seed: int) -> None:
    """Answer commands until there are no more."""
    work = Work(open_store(), seed)
    for line in sys.stdin:
        name, *numbers = line.split()
        print(json.dumps(getattr(work, name)(*map(int, numbers))), flush=True)


if __name__ == "__main__":
    STORES: dict[str, Callable[[Path], Store]] = {"chromadb": Chroma, "qdrant-edge": QdrantEdge}
    run(lambda: STORES[sys.argv[1]](Path(sys.argv[2])), int(sys.argv[3]))
