"""What a server does at ten times its load: whom it refuses, how fast, and what that costs the others.

    python -m benchmarks.overload [--passages 3000] [--seconds 20] [--rerank] [--max-requests 48] [--json FILE]

Serves an index of docstrings with the embedded encoder, or the one named. The load comes from wrk
(https://github.com/wg/wrk, Debian's package `wrk`) over loopback, with the server on the same cores. "Sustainable" is
what full batches take, `max_batch` connections that ask all the time, or `max_requests` if that is less; the overload
is ten times that rate, from connections that pause between requests.
"""

import argparse
import tempfile
import threading
from pathlib import Path

from benchmarks.support.report import Figure, report
from benchmarks.support.servers import SHARDS, Server, docstrings, need_wrk, shoal
from benchmarks.support.wrk import ACCEPTED, Load, ask, write_queries
from shoal.settings import ServeSettings
from shoal.system.processes import adopt_orphans, descendants

FACTOR = 10
PAUSE_MS = 200
"""Mean pause of a connection of the overload: long beside a refusal, so that refusing does not raise the rate."""
RECOVERY_S = 10
FULL = 0.9
"""Share of the throughput before, over WINDOW_S seconds, that counts as full speed: such windows vary by as much."""


def main() -> None:
    """Measure alone, at the sustainable rate, at ten times that, and afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=3000, help="size of the corpus")
    parser.add_argument("--seconds", type=int, default=20, help="of each load")
    parser.add_argument("--rerank", action="store_true", help="both stages instead of the first alone")
    parser.add_argument("--index", help="serve this index root instead of building one")
    most = ServeSettings.model_fields["max_requests"].default
    parser.add_argument("--max-requests", type=int, default=most, help="searches that the server works on at once")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    need_wrk()
    adopt_orphans()

    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        index, texts = docstrings(Path(folder), options.passages, options.index)
        queries = write_queries(texts, Path(folder))
        with shoal(index, ["--max-requests", str(options.max_requests)]) as server:
            figures = measure(server, queries, options)
    stages = "both stages" if options.rerank else "stage one"
    of = options.index or f"{options.passages:,} passages"
    title = f"Overload, {of}, {SHARDS} shards, {stages}, max_requests {options.max_requests}"
    report(title, figures, options.json)


def measure(server: Server, queries: Path, options: argparse.Namespace) -> list[Figure]:
    """Put a server under four loads, one after another."""
    seconds = options.seconds

    def load(connections: int, seconds: int, pause_ms: int = 0) -> Load:
        return ask(server, queries, options.rerank, connections, seconds, pause_ms)

    most = options.max_requests
    width = min(ServeSettings.model_fields["max_batch"].default, most)
    load(width, 5)
    alone, sustained = load(1, seconds), load(width, seconds)
    rate = sustained.count(*ACCEPTED) / sustained.seconds
    before = memory(server.pid)
    with Sampler(server.pid) as sampler:
        # Those that are accepted do not pause.
        over = load(most + round(1.1 * FACTOR * rate * PAUSE_MS / 1000), seconds, PAUSE_MS)
    recovered = load(width, RECOVERY_S).until(FULL * rate)
    offered = over.count() / over.seconds
    refused = over.percentile(99, "429")
    accepted = over.percentile(99, *ACCEPTED)
    usual = sustained.percentile(99, *ACCEPTED)
    growth = 100 * (max(sampler.seen[len(sampler.seen) // 2 :]) / before - 1)
    failed = [one.lost + one.count() - one.count(*ACCEPTED, "429") for one in (alone, sustained, over)]
    return [
        Figure("alone (1 connection): p50", alone.percentile(50, *ACCEPTED), "ms"),
        Figure("alone: p99", alone.percentile(99, *ACCEPTED), "ms"),
        Figure(f"sustainable ({width} connections)", rate, "1/s"),
        Figure("sustainable: p50", sustained.percentile(50, *ACCEPTED), "ms"),
        Figure("sustainable: p99", usual, "ms"),
        Figure("overload: requests", offered, "1/s", f">= {FACTOR}x sustainable", offered >= FACTOR * rate),
        Figure("overload: accepted", over.count(*ACCEPTED) / over.seconds, "1/s"),
        Figure("overload: of these degraded", over.count("degraded") / max(1, over.count(*ACCEPTED)), ""),
        Figure("overload: accepted, p50", over.percentile(50, *ACCEPTED), "ms"),
        Figure("overload: accepted, p99", accepted, "ms", "<= 2x sustainable", accepted <= 2 * usual),
        Figure(
            "overload: accepted, p99, against one connection alone", accepted / alone.percentile(99, *ACCEPTED), "x"
        ),
        Figure("overload: 429, p50", over.percentile(50, "429"), "ms"),
        Figure("overload: 429, p99", refused, "ms", "<= 50", 0 < refused <= 50),
        Figure("neither answered nor 429 with Retry-After", sum(failed), "", "0", sum(failed) == 0),
        Figure("overload: memory of all processes", growth, "% more", "<= 5", growth <= 5),
        Figure("after it: until full speed", recovered, "s", "<= 5", recovered <= 5),
    ]


def memory(server: int) -> float:
    """Bytes that a server and its processes occupy, shared pages divided among those that share them."""
    total = 0
    for pid in (server, *descendants(server)):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return 1024.0 * total


class Sampler:
    """Looks at the memory of a server once a second until the end of the block."""

    def __init__(self, server: int) -> None:
        self.seen: list[float] = []
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._stop.wait(1):
            self.seen.append(memory(self._server))

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


if __name__ == "__main__":
    main()
