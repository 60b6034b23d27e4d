"""What `shoal plan` says of an answer, beside what a server on this machine takes for it.

    python -m benchmarks.planned [--constants FILE] [--passages 3000] [--qps 4] [--json FILE]

The constants are those that `shoal plan --calibrate` kept. The server is as a plan takes it: encoder and shards in
processes of their own, nothing remembered; but all of them share the cores of this machine. Queries are asked by one
client, one after the other, then others at moments that do not depend on the answers (a Poisson process). Both stages
are only asked the first way, because a reranker keeps cores busy that a plan takes for the shards'.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.support.report import Figure, report
from benchmarks.support.servers import SHARDS, docstrings, shoal, spread
from shoal.capacity.constants import Constants
from shoal.capacity.planner import Capacity, plan
from shoal.settings import CapacitySettings

TOP_K = 25
CLIENTS = 64
WARM_UP = 20
APART = 1.5
"""How many times as large, or as small, as what was measured a plan may be."""
OPTIONS = ["--retriever-replicas=1", "--encoder-replicas=1", "--query-cache=0", "--token-cache-bytes=0"]


def main() -> None:
    """Build, serve, ask and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--constants", default=CapacitySettings.model_fields["constants"].default)
    parser.add_argument("--passages", type=int, default=3000, help="size of the corpus, docstrings in two shards")
    parser.add_argument("--queries", type=int, default=200, help="queries of each kind")
    parser.add_argument("--qps", type=float, default=4.0, help="rate of the queries that do not wait for answers")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    constants = Constants.read(Path(options.constants).expanduser())

    figures = []
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        index, texts = docstrings(Path(folder), options.passages, None)
        queries = spread(texts, 2 * options.queries + WARM_UP)
        with shoal(index, OPTIONS) as server:
            for query in queries[:WARM_UP]:
                server.ask(query, rerank=True)
            first, second = queries[WARM_UP::2], queries[WARM_UP + 1 :: 2]
            stage_one, both = (planned(constants, texts, rerank, options.qps) for rerank in (False, True))
            for name, outcome, measured, wait in (
                ("stage one, one client", stage_one, one_by_one(server.ask, first), False),
                (f"stage one, {options.qps:g}/s", stage_one, spaced(server.ask, second, options.qps), True),
                ("both stages, one client", both, one_by_one(partial(server.ask, rerank=True), first), False),
            ):
                figures += compared(name, outcome, measured, wait)
    report(f"Planned and measured, {options.passages:,} passages, {SHARDS} shards", figures, options.json)


def planned(constants: Constants, texts: list[str], rerank: bool, qps: float) -> Capacity:
    """What a plan says of hybrid queries to this index, on nodes of as many cores as this machine gives a model."""
    size = sum(len(text.encode()) for text in texts) / len(texts)
    asked = CapacitySettings(
        passages=len(texts), dim=constants.search_dim, qps=qps, passage_bytes=size, top_k=TOP_K,
        rerank_top_k=TOP_K if rerank else 0, shards=SHARDS, all_in_memory=True, min_replicas=1, node_cores=2,
    )  # fmt: skip
    first = plan(asked, constants)
    busy = qps * (constants.hop_ms + first.search_ms) / 1000
    return plan(asked.model_copy(update={"utilisation": min(0.95, max(0.01, busy))}), constants)


def one_by_one(ask: Callable[[str], object], queries: list[str]) -> np.ndarray:
    """Milliseconds of each answer, float64 (n,)."""
    taken = []
    for query in queries:
        began = time.perf_counter()
        ask(query)
        taken.append(1000 * (time.perf_counter() - began))
    return np.array(taken)


def spaced(ask: Callable[[str], object], queries: list[str], qps: float) -> np.ndarray:
    """Milliseconds from the moment that each query was due, float64 (n,)."""
    chance, due, waiting = random.Random(1), time.perf_counter(), []

    def one(query: str, due: float) -> float:
        ask(query)
        return 1000 * (time.perf_counter() - due)

    with ThreadPoolExecutor(CLIENTS) as pool:
        for query in queries:
            due += chance.expovariate(qps)
            time.sleep(max(0.0, due - time.perf_counter()))
            waiting.append(pool.submit(one, query, due))
        return np.array([each.result() for each in waiting])


def compared(name: str, outcome: Capacity, measured: np.ndarray, wait: bool) -> list[Figure]:
    """Median and 99th percentile, planned and measured. wait: whether a query may find others before it."""
    figures = []
    p99 = outcome.p99_ms - (0 if wait else outcome.p99.wait)
    for what, percentile, said in (("p50", 50, outcome.median_ms), ("p99", 99, p99)):
        found = float(np.percentile(measured, percentile))
        fits = 1 / APART <= said / found <= APART
        figures += [
            Figure(f"{name}: {what} measured", found, "ms"),
            Figure(f"{name}: {what} planned", said, "ms", f"within {APART} times", fits),
        ]
    return figures


if __name__ == "__main__":
    main()
