"""An index that is opened in this process, measured by benchmarks.in_process: opened.py MEASURE INDEX FOLDER.

Imports little before it measures, as `vector_stores` does.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.vector_stores import TOP_K, Ask, measured, memory

DEADLINE_MS = 60_000
"""Of a search, in milliseconds: none shall fail on a busy machine."""


def measure_texts(index: str, folder: Path, **settings: str) -> dict[str, float]:
    """Open an index, ask, and ask again; the second time stage one has the vectors of the queries at hand."""
    texts = json.loads((folder / "queries.json").read_text())
    started, before = time.perf_counter(), time.process_time()
    import shoal

    with shoal.open(index, **settings) as opened:
        opened_at = time.perf_counter()
        opened.search(texts[0], timeout_ms=DEADLINE_MS)
        first, cpu = time.perf_counter(), time.process_time()
        passes = []
        for _ in range(2):
            times = []
            for text in texts:
                begun = time.perf_counter()
                opened.search(text, top_n=TOP_K, timeout_ms=DEADLINE_MS)
                times.append(1000 * (time.perf_counter() - begun))
            passes.append(times)
        fresh, remembered = passes
        return {
            "import and open": opened_at - started,
            "first answer": first - started,
            "first answer, CPU": cpu - before,
            "p50": float(np.percentile(fresh, 50)),
            "p99": float(np.percentile(fresh, 99)),
            "p50, remembered": float(np.percentile(remembered, 50)),
            "p99, remembered": float(np.percentile(remembered, 99)),
            "memory": memory("VmRSS"),
            "memory, own": memory("RssAnon"),
        }


def measure_vectors(index: str, folder: Path) -> dict[str, float]:
    """Measure an index without an encoder, as `vector_stores` measures others."""

    def open_index(_: Path) -> Ask:
        import shoal

        opened = shoal.open(index)

        def ask(vector: Any) -> list[str]:
            answer = opened.search(vector=vector, top_n=TOP_K, mode="dense", rerank=False, timeout_ms=DEADLINE_MS)
            return [result.id for result in answer.results]

        return ask

    return measured(open_index, folder)


def main(measure: str, index: str, folder: Path) -> None:
    """Measure, and print it as JSON."""
    if measure == "weight":
        from benchmarks.support.weight import weigh

        text = json.loads((folder / "queries.json").read_text())[0]
        print(json.dumps(weigh(index, text, {"reranker": "none"})))
    elif measure == "vectors":
        print(json.dumps(measure_vectors(index, folder)))
    else:
        settings = {"dense": {"reranker": "none"}, "reranked": {}}[measure]
        print(json.dumps(measure_texts(index, folder, **settings)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
