"""How wide fan-outs behave: the pipeline, the batcher and the second attempts, in virtual time over simulated shards.

    python -m benchmarks.simulate --output FOLDER [--widths 1,10,100,1000,2000] [--queries 400] [--json FILE]
                                  [--latencies FILE | --server URL]

Nothing of the search path is simulated but the replicas and their router, which like Serve's takes the less busy of
two replicas. A call takes a time drawn from --latencies; now and then a replica stalls, and what it works on and
what it is sent waits. The scenarios:

    plain       no second attempts
    hedged      second attempts, as the settings have them
    hung        hedged, and one replica of one shard never answers from the middle on
    silent      one replica a shard, and one shard never answers from the middle on
    waiting     silent without suspending it: what queries would wait for otherwise

--latencies names a file of milliseconds, one a line, as `explain` gives them for each shard; --server asks one
that runs, and keeps them in FOLDER/latencies.txt; the default is the distribution below. Plots go to
FOLDER/simulate.png.
"""

import argparse
import asyncio
import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks.support.report import Figure, report
from shoal.client.clients import Client
from shoal.records import FloatArray, Passage, SearchRequest
from shoal.search.pipeline import SearchPipeline
from shoal.search.served_version import ServedVersion
from shoal.settings import ServeSettings
from shoal.shard.messages import Fetched, Hits, ShardHits, ShardSearch
from shoal.testing.virtual_time import VirtualLoop

# By percent, in ms. Assumed, not measured: a median of 4 ms is what `explain` showed for one call of an index of 300
# passages on 2 cores, the rest is a plausible tail around it. Give --latencies for those of a server of your own.
QUANTILES = {0: 2.0, 5: 2.6, 25: 3.2, 50: 3.8, 75: 4.9, 90: 6.6, 95: 8.3, 99: 14.0, 99.9: 30.0, 100: 60.0}
SCENARIOS = ("plain", "hedged", "hung", "silent", "waiting")
STALL_SHARE = 0.005
"""Calls in whose course a replica stalls: a page fault on a busy disk, a neighbour that takes the core. Assumed."""
STALL_S = (0.05, 0.5)
FEWEST = 20
"""Queries of a run at least."""
PASSAGES = 100
"""Passages a shard."""
TIMEOUT_S = 10.0
ASKED = 2_000
"""Queries that a server is asked to measure its shards."""
LEARNT = 130
"""Queries before those that are counted, in which the pipeline learns how long calls take: it remembers 128 a shard."""


@dataclass
class Replica:
    """Works on any number of calls at once, as threads and a fast event loop do at a light load."""

    stalled_until: float = 0.0
    running: int = 0


@dataclass
class Simulated:
    """One shard, of several replicas behind a router."""

    replicas: list[Replica]
    latencies: FloatArray
    random: np.random.Generator
    calls: int = 0
    served: list[float] = field(default_factory=list)

    async def search(self, batch: ShardSearch, deadline: float) -> ShardHits:
        """Answer with one hit a query after a while."""
        self.calls += 1
        replica = self._route()
        replica.running += 1
        try:
            await self._work(replica)
        finally:
            replica.running -= 1
        many = len(batch.queries)
        scores = self.random.random((many, 1), np.float32)
        passage = Passage("p", "text")
        hits = Hits(scores, np.zeros((many, 1), np.int64), [["p"]] * many, [[passage]] * many)
        return ShardHits({"dense": hits})

    async def fetch(self, version: str, rows: Sequence[int], deadline: float, with_vectors: bool = False) -> Fetched:
        """Never needed: passages come with the hits."""
        raise NotImplementedError

    def _route(self) -> Replica:
        picks = self.random.permutation(len(self.replicas))[:2]
        return min((self.replicas[pick] for pick in picks), key=lambda replica: replica.running)

    async def _work(self, replica: Replica) -> None:
        now = asyncio.get_running_loop().time
        if self.random.random() < STALL_SHARE:
            replica.stalled_until = max(replica.stalled_until, now() + self.random.uniform(*STALL_S))
        await asyncio.sleep(float(self.random.choice(self.latencies)))
        await asyncio.sleep(max(0.0, replica.stalled_until - now()))


class Encoder:
    """Takes three milliseconds, as the embedded one does on two cores."""

    async def encode(self, queries: Sequence[str], deadline: float) -> FloatArray:
        """Return float32 (n, 1)."""
        await asyncio.sleep(0.003)
        return np.ones((len(queries), 1), np.float32)


@dataclass(frozen=True)
class Outcome:
    """What one run showed: latencies in milliseconds, the mean coverage, calls beyond one a query and shard."""

    p50: float
    p99: float
    coverage: float
    extra: float


def main() -> None:
    """Run all scenarios at all widths, plot and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the plot")
    parser.add_argument("--widths", default="1,10,100,1000,2000", help="numbers of shards")
    parser.add_argument("--queries", type=int, default=400, help="queries of one run")
    parser.add_argument("--calls", type=int, default=60_000, help="calls to shards of one run, which bound its queries")
    parser.add_argument("--percentiles", default="", help="compare these hedge_percentile at every width as well")
    parser.add_argument("--latencies", type=Path, help="measured latencies in ms, one a line")
    parser.add_argument("--server", help="URL of a server to measure them on")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    widths = [int(width) for width in options.widths.split(",")]
    options.output.mkdir(parents=True, exist_ok=True)
    if options.server:
        options.latencies = options.output / "latencies.txt"
        measure(options.server, options.latencies)
    latencies = measured(options.latencies)

    logging.disable(logging.WARNING)  # of shards that are silent on purpose
    queries = {width: max(FEWEST, min(options.queries, options.calls // width)) for width in widths}

    outcomes: dict[str, dict[int, Outcome]] = {}
    for scenario in SCENARIOS:
        outcomes[scenario] = {width: run(scenario, width, many, latencies) for width, many in queries.items()}
    for percentile in filter(None, options.percentiles.split(",")):
        outcomes[f"hedged at {percentile} %"] = {
            width: run("hedged", width, many, latencies, hedge_percentile=float(percentile))
            for width, many in queries.items()
        }
    plot(outcomes, options.output / "simulate.png")
    report(
        f"Simulated fan-out, {min(queries.values())} to {max(queries.values())} queries a run, "
        f"a stall in {STALL_SHARE:.1%} of calls",
        figures(outcomes),
        options.json,
    )


def measure(url: str, path: Path) -> None:
    """Ask a server, one query after another, and write how long its shards took, in ms, one a line."""
    with Client(url) as client, path.open("w") as file:
        for number in range(ASKED):
            answer = client.search(f"what is known about number {number}", mode="dense", rerank=False, explain=True)
            assert answer.explain is not None
            file.writelines(f"{shard['ms']:.3f}\n" for shard in answer.explain["shards"] if "ms" in shard)


def measured(path: Path | None) -> FloatArray:
    """Latencies in seconds to draw from: those of a file, or of QUANTILES with straight lines between them."""
    if path:
        milliseconds = np.loadtxt(path, ndmin=1)
    else:
        milliseconds = np.interp(np.linspace(0, 100, 10_001), list(QUANTILES), list(QUANTILES.values()))
    return np.asarray(milliseconds / 1000, np.float32)


def run(scenario: str, width: int, queries: int, latencies: FloatArray, **changes: object) -> Outcome:
    """Ask so many queries of a fan-out of so many shards, and return what came of it."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_run(scenario, width, queries, latencies, changes))


async def _run(scenario: str, width: int, queries: int, latencies: FloatArray, changes: dict[str, object]) -> Outcome:
    now = asyncio.get_running_loop().time
    random = np.random.default_rng(width)
    replicas = 1 if scenario in ("silent", "waiting") else 2
    settings = {"index": "/nowhere", "retriever_replicas": replicas, "mode": "dense", **changes}
    if scenario == "plain":
        settings["hedge_budget"] = 0.0
    if scenario == "waiting":
        settings["shard_patience_ms"] = 600_000
    shards = [Simulated([Replica() for _ in range(replicas)], latencies, random) for _ in range(width)]
    pipeline = SearchPipeline(Encoder(), shards, None, ServeSettings.model_validate(settings), clock=now)
    pipeline.switch(ServedVersion("v1", (PASSAGES,) * width))
    seconds, coverage, asked = [], [], 0
    for number in count():
        if number == LEARNT:
            asked = sum(shard.calls for shard in shards)
        if number == LEARNT + queries // 2 and scenario in ("hung", "silent", "waiting"):
            shards[0].replicas[0].stalled_until = float("inf")
        if number == LEARNT + queries:
            break
        started = now()
        request = SearchRequest(query=f"query {number}", top_k=10, top_n=10, rerank=False, deadline=started + TIMEOUT_S)
        try:
            answer = await pipeline.search(request)
            share = answer.coverage.fraction
        except Exception:  # no shard answered, which is what a fan-out of one shard shows when it hangs
            share = 0.0
        if number >= LEARNT:
            seconds.append(now() - started)
            coverage.append(share)
        await asyncio.sleep(float(random.exponential(0.05)))
    made = sum(shard.calls for shard in shards) - asked
    return Outcome(
        p50=1000 * statistics.median(seconds),
        p99=1000 * float(np.percentile(seconds, 99)),
        coverage=statistics.fmean(coverage),
        extra=made / (queries * width) - 1,
    )


def figures(outcomes: dict[str, dict[int, Outcome]]) -> list[Figure]:
    """Every outcome as figures, and the goals: a budget kept, and an answer that no shard holds up."""
    found = []
    for scenario, by_width in outcomes.items():
        for width, outcome in by_width.items():
            name = f"{scenario}, {width} shards"
            found.append(Figure(f"{name}: p50", outcome.p50, "ms"))
            found.append(Figure(f"{name}: p99", outcome.p99, "ms"))
            found.append(Figure(f"{name}: coverage", 100 * outcome.coverage, "%"))
            extra = 100 * outcome.extra
            goal = ("<= 5.5", extra <= 5.5) if scenario.startswith(("hedged", "hung")) else ("", None)
            found.append(Figure(f"{name}: extra calls", extra, "%", *goal))
    return found


def plot(outcomes: dict[str, dict[int, Outcome]], path: Path) -> None:
    """Draw p50, p99, coverage and extra calls over the width."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
    panels = (("p50", "p50, ms", "log"), ("p99", "p99, ms", "log"), ("coverage", "mean coverage", "linear"))
    panels += (("extra", "extra calls, share", "linear"),)
    for axis, (name, label, scale) in zip(axes.flat, panels, strict=True):
        for scenario, by_width in outcomes.items():
            axis.plot(list(by_width), [getattr(one, name) for one in by_width.values()], marker="o", label=scenario)
        axis.set(xlabel="shards", ylabel=label, xscale="log", yscale=scale)
        axis.grid(alpha=0.3)
    axes[0, 0].legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
