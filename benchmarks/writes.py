"""What writing to an index that is served costs, over one index in this process and without HTTP, all in one run.

    python -m benchmarks.writes [--passages 10000] [--batch 100] [--requests 200] [--folder DIR] [--json FILE]
    python -m benchmarks.writes --passages 98000 --batch 500 --only-replay

Passages bring their vectors, so that no line holds the time of an encoder. Each line has a median and a 99th percentile
in milliseconds, or a rate:

* acknowledged: from the call until one passage is on disk; on a disk that is busy elsewhere most of it is fsync
* seen: from there until a search with its position is answered
* written: passages a second, in batches
* searches by vectors and words, alone and beside a stream of writes, over the index with all of its writes
* replay: seconds and memory of an index that opens with all of it in its log, in a process of its own, until a search
  has seen the last write; its goal is that of 100,000 passages in as many as there are

Nothing is refused because it is not compacted: the limits on that are raised where it takes it.
"""

import argparse
import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import shoal
from benchmarks.support.replay import replay
from benchmarks.support.report import Figure, report
from shoal.indexing.empty import create_index
from shoal.settings import CreateSettings

DIM = 384
"""Numbers of a vector: those of all-MiniLM-L6-v2."""
WORDS = [f"w{number}" for number in range(5000)]
"""What texts are made of, each word as rare as it stands late."""
SETTINGS: dict[str, Any] = {
    "reranker": "none",
    "timeout_ms": 60_000,
    "max_timeout_ms": 60_000,
    "max_backlog_rows": 10_000_000,
    "max_backlog_mib": 65_536,
}
"""Of an index that takes all writes."""
REPLAY_S = 20.0
"""Seconds that the replay of 100,000 passages may take."""


def main() -> None:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=10_000, help="written before searches are measured")
    parser.add_argument("--batch", type=int, default=100, help="passages of one request")
    parser.add_argument("--requests", type=int, default=200, help="single writes, and searches of each line")
    parser.add_argument("--only-replay", action="store_true", help="write the passages, and measure the replay alone")
    parser.add_argument("--folder", help="where the index lies; by default among the temporary files")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder) / "index"
        create_index(CreateSettings(index=str(root), encoder=f"hashing:{DIM}", shards=1, threads=1))
        figures = measure(root, options)
    report(f"Writes to one index, {options.passages:,} passages, {options.batch} a request", figures, options.json)


def measure(root: Path, options: argparse.Namespace) -> list[Figure]:
    """Write to an empty index, search it, and open it again."""
    source = made(np.random.default_rng(0))
    with shoal.open(root, **SETTINGS) as index:
        began = time.perf_counter()
        written = index.upsert(itertools.islice(source, options.passages), batch_passages=options.batch)
        figures = [Figure("written", options.passages / (time.perf_counter() - began), "1/s")]
        if not options.only_replay:
            figures += one_by_one(index, source, options)
            written = index.upsert([next(source)])
    replayed = replay(root, written.position, SETTINGS)
    goal = REPLAY_S * max(1, replayed["rows"] / 100_000)
    name = f"replay of {replayed['rows']:,.0f} passages"
    figures.append(Figure(name, replayed["seconds"], "s", f"<= {goal:.3g}", replayed["seconds"] <= goal))
    figures.append(Figure(f"{name}: of a processor", replayed["processor_s"], "s"))
    figures.append(Figure(f"{name}: memory", replayed["mib"], "MiB"))
    return figures


def one_by_one(index: shoal.Index, source: Iterator[dict[str, Any]], options: argparse.Namespace) -> list[Figure]:
    """Single writes, and searches alone and beside a stream of writes."""
    acknowledged, seen = [], []
    for _ in range(options.requests):
        began = time.perf_counter()
        position = index.upsert([next(source)]).position
        acknowledged.append(time.perf_counter() - began)
        index.search(WORDS[0], mode="lexical", top_n=1, min_position=position)
        seen.append(time.perf_counter() - began - acknowledged[-1])
    figures = percentiles("acknowledged", acknowledged) + percentiles("seen", seen)
    figures += percentiles("search, alone", searches(index, options.requests))
    with writing(index, source, options.batch):
        figures += percentiles("search, beside writes", searches(index, options.requests))
    return figures


def made(random: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Make passages of thirty words without end."""
    number = 0
    while True:
        words = (random.pareto(1.0, 30) * 10).astype(int) % len(WORDS)
        vector = random.standard_normal(DIM).astype(np.float32)
        yield {"id": f"p{number}", "text": " ".join(WORDS[word] for word in words), "vector": vector}
        number += 1


def searches(index: shoal.Index, requests: int) -> list[float]:
    """Seconds of searches by vectors and words, one after another."""
    taken = []
    for number in range(requests):
        began = time.perf_counter()
        index.search(f"{WORDS[number % 50]} {WORDS[100 + number]}", mode="hybrid", top_n=10)
        taken.append(time.perf_counter() - began)
    return taken


class writing:
    """Write batches one after another in a thread, for as long as the block lasts."""

    def __init__(self, index: shoal.Index, source: Iterator[dict[str, Any]], batch: int) -> None:
        self._ended = threading.Event()
        self._write: Callable[[], object] = lambda: index.upsert([next(source) for _ in range(batch)])
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.wait(0.1):
            self._write()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()


def percentiles(name: str, seconds: list[float]) -> list[Figure]:
    """Name the median and the 99th percentile of times."""
    median, last = 1000 * np.percentile(seconds, [50, 99])
    return [Figure(f"{name}: p50", median, "ms"), Figure(f"{name}: p99", last, "ms")]


if __name__ == "__main__":
    main()
