"""What a served endpoint takes: to start, to answer one question at a time, and to stop.

    python -m benchmarks.serving [--passages 3000] [--rounds 5] [--index ROOT] [--json FILE]

Builds an index of docstrings with the embedded encoder, or takes the one named. Each round runs `shoal serve` once
with the HAProxy profile and once with Ray's own proxy; figures are medians over all rounds, latencies what a user of
`shoal.Client` sees.
"""

import argparse
import contextlib
import itertools
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.support.report import Figure, report
from benchmarks.support.servers import ROOT, SHARDS, SHOAL, docstrings, free_port, spread
from shoal import Client
from shoal.records import Rerank
from shoal.system.processes import adopt_orphans, descendants

PROXIES = ("haproxy", "ray")
WARM_UP = 3


def main() -> None:
    """Run all rounds and report their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=3000, help="size of the corpus")
    parser.add_argument("--queries", type=int, default=20, help="queries of one round, each asked once per stage")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--index", help="serve this index root instead of building one")
    parser.add_argument("--late", action="store_true", help="store token vectors, and let the shards rerank as well")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    adopt_orphans()

    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        stored = ["--late-interaction", "stored"] if options.late else []
        index, texts = docstrings(Path(folder), options.passages, options.index, *stored)
        # A different part of the corpus in every round: no passage has been read for the query before.
        queries = spread(texts, options.queries * options.rounds)
        measured: dict[str, list[float]] = defaultdict(list)
        for number in range(options.rounds):
            for proxy in PROXIES:
                serve(index, proxy, queries[number :: options.rounds], measured, options.late)

    figures = []
    for name, values in measured.items():
        if name.endswith("left"):
            figures.append(Figure(name, max(values), "", "0", max(values) == 0))
        else:
            figures.append(Figure(name, statistics.median(values), "ms" if "p50" in name else "s"))
    title = f"Served endpoint, {options.passages:,} passages, {SHARDS} shards, one client, {options.rounds} rounds"
    report(title, figures, options.json)


def serve(index: str, proxy: str, queries: list[str], measured: dict[str, list[float]], late: bool) -> None:
    """Start a server, ask, stop it, look for what it left; add what was measured."""
    port = free_port()
    started = time.perf_counter()
    server = subprocess.Popen(
        [*SHOAL, "serve", "--index", index, "--port", str(port), "--proxy", proxy],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    ready = server.stdout.readline()
    if not ready.startswith("ready "):
        sys.exit(server.wait() or 1)
    measured[f"{proxy}: start to ready"].append(time.perf_counter() - started)
    with Client(f"http://127.0.0.1:{port}") as client:
        stages: list[tuple[Rerank, str]] = [(False, "stage one"), (True, "both stages")]
        if late:
            stages.insert(1, ("late", "both stages, the second in the shards"))
        for rerank, stage in stages:
            for query in queries[:WARM_UP]:
                client.search(query, rerank=rerank)
            for query in queries[WARM_UP:]:
                asked = time.perf_counter()
                response = client.search(query, rerank=rerank)
                measured[f"{proxy}: {stage}, p50"].append((time.perf_counter() - asked) * 1000)
                assert response.reranked == bool(rerank)
                assert response.degraded is None
    ports = listening([server.pid, *descendants(server.pid)])
    assert port in ports
    stopped = time.perf_counter()
    server.send_signal(signal.SIGTERM)
    if code := server.wait():
        sys.exit(f"the server ended with exit code {code}")
    measured[f"{proxy}: stop"].append(time.perf_counter() - stopped)
    # Whatever lost its parent is ours now.
    measured[f"{proxy}: processes left"].append(len(descendants(os.getpid())))
    measured[f"{proxy}: ports left"].append(sum(map(answers, ports)))


def listening(pids: list[int]) -> set[int]:
    """The TCP ports on which any of these processes listens."""
    sockets = set()
    for link in itertools.chain.from_iterable(Path(f"/proc/{pid}/fd").glob("*") for pid in pids):
        with contextlib.suppress(OSError):  # closed meanwhile
            sockets.add(str(link.readlink()))
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:  # 0A: listening
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def answers(port: int) -> bool:
    """Whether anything accepts connections on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
