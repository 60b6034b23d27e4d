"""What swaps of the index version cost those who search meanwhile.

    python -m benchmarks.swaps [--passages 3000] [--swaps 100] [--seconds 20] [--rounds 3] [--index ROOT] [--json FILE]

Serves three versions of an index of docstrings with the embedded encoder, or those of the root named, and loads it with
wrk over loopback, on the same cores. Each round measures the latency without swaps, with swaps between two versions,
which both stay loaded, and with swaps around all three, each of which loads a version anew; every kind has so many
of them over all rounds.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from itertools import cycle
from pathlib import Path

from benchmarks.support.report import Figure, report
from benchmarks.support.servers import SHARDS, Server, docstrings, need_wrk, shoal
from benchmarks.support.wrk import ACCEPTED, Load, ask, write_queries
from shoal import Client
from shoal.index_root import versions
from shoal.index_root.storage import Storage
from shoal.system.processes import adopt_orphans

CONNECTIONS = 4
KINDS = {"without": 0, "between two versions": 2, "around three": 3}


def main() -> None:
    """Build, serve, measure in alternating order, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=3000, help="size of the corpus")
    parser.add_argument("--swaps", type=int, default=100, help="swaps of each kind")
    parser.add_argument("--seconds", type=int, default=20, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--index", help="serve the versions of this root, at least three, instead of building them")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    need_wrk()
    adopt_orphans()

    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        index, texts = docstrings(Path(folder), options.passages, options.index, versions=max(KINDS.values()))
        queries = write_queries(texts, Path(folder))
        with shoal(index, []) as server:
            names = versions.list_versions(Storage(index))
            ask(server, queries, False, CONNECTIONS, 5, 0)
            seen = {kind: Load(0.0, 0) for kind in KINDS}
            for _ in range(options.rounds):
                for kind, count in KINDS.items():
                    many = options.swaps // options.rounds + 1 if count else 0
                    add(seen[kind], swapped(server, queries, options.seconds, names[:count], many))
    usual = seen["without"].percentile(99, *ACCEPTED)
    figures = []
    for kind, load in seen.items():
        p99 = load.percentile(99, *ACCEPTED)
        goal = ("<= 1.5x without", p99 <= 1.5 * usual) if KINDS[kind] else ()
        figures.append(Figure(f"{kind}: answered", load.count(*ACCEPTED) / load.seconds, "1/s"))
        figures.append(Figure(f"{kind}: p50", load.percentile(50, *ACCEPTED), "ms"))
        figures.append(Figure(f"{kind}: p99", p99, "ms", *goal))
        wrong = load.lost + load.count() - load.count("200")
        figures.append(Figure(f"{kind}: failed or incomplete", wrong, "", "0", wrong == 0))
    many = options.rounds * (options.swaps // options.rounds + 1)
    title = f"{many} swaps of each kind, {options.passages:,} passages, {SHARDS} shards, {CONNECTIONS} connections"
    report(title, figures, options.json)


def swapped(server: Server, queries: Path, seconds: int, names: list[str], many: int) -> Load:
    """Load the server, and swap its versions so many times meanwhile, evenly."""
    loads: list[Load] = []
    asking = threading.Thread(target=lambda: loads.append(ask(server, queries, False, CONNECTIONS, seconds, 0)))
    began = time.monotonic()
    asking.start()
    with Client(server.url) as client:
        for number, name in zip(range(many), cycle(names), strict=False):
            time.sleep(max(0.0, began + (number + 0.5) * seconds / many - time.monotonic()))
            client.activate(name)
    if time.monotonic() > began + seconds:
        print(f"the last of {many} swaps came after the load; give more --seconds", file=sys.stderr)
    asking.join()
    return loads[0]


def add(total: Load, load: Load) -> None:
    """Add what one load showed."""
    total.seconds += load.seconds
    total.lost += load.lost
    for kind, latencies in load.latencies.items():
        total.latencies.setdefault(kind, Counter()).update(latencies)


if __name__ == "__main__":
    main()
