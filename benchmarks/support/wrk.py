"""Load on a server by wrk, and what its scripts print."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from benchmarks.support.servers import (
    Server,
    search,
    spread,
)

OVERLOAD, PEER = (Path(__file__).parents[1] / name for name in ("overload.lua", "peer.lua"))
QUERIES = 500
WINDOW_S = 2


@dataclass
class Load:
    """What came back: counts by latency in seconds, by kind: a status, or `degraded` for a 200 that was less.

    ended: when the accepted ones did, in tenths of a second from the beginning.
    """

    seconds: float
    lost: int
    latencies: dict[str, Counter[float]] = field(default_factory=dict)
    ended: Counter[int] = field(default_factory=Counter)

    def until(self, rate: float) -> float:
        """Seconds until so many a second were answered for WINDOW_S seconds; infinite if they never were."""
        for start in range(10 * (int(self.seconds) - WINDOW_S) + 1):
            if sum(self.ended[start + tenth] for tenth in range(10 * WINDOW_S)) >= rate * WINDOW_S:
                return start / 10
        return inf

    def count(self, *kinds: str) -> int:
        """Answers of some kinds, or of all."""
        return sum(self.latencies[kind].total() for kind in kinds or self.latencies if kind in self.latencies)

    def percentile(self, percent: float, *kinds: str) -> float:
        """A latency in ms that so many of the answers of some kinds had at most; 0 if there was none."""
        together: Counter[float] = sum((self.latencies.get(kind, Counter()) for kind in kinds), Counter())
        left = percent / 100 * together.total()
        for seconds, count in sorted(together.items()):
            left -= count
            if left <= 0:
                return 1000 * seconds
        return 0.0


ACCEPTED = ("200", "degraded")


def write_queries(texts: list[str], folder: Path) -> Path:
    """Write the words of some texts from all over, a query a line."""
    file = folder / "queries"
    plain = ("".join(c if c.isascii() and c.isalnum() else " " for c in text) for text in spread(texts, QUERIES))
    file.write_text("\n".join(plain))
    return file


def ask(server: Server, queries: Path, rerank: bool, connections: int, seconds: int, pause_ms: int) -> Load:
    """Run wrk once."""
    command = ["wrk", "--threads=1", f"--connections={connections}", f"--duration={seconds}s", "--timeout=60s"]
    words = [server.search, "--", str(queries), str(rerank).lower(), str(pause_ms)]
    output = subprocess.run([*command, f"--script={OVERLOAD}", *words], capture_output=True, text=True, check=False)
    line = output.stdout.rstrip().rpartition("\n")[2].split()
    if output.returncode or line[:1] != ["shoal"]:
        sys.exit(f"wrk failed: {output.stdout}{output.stderr}")
    return parsed(line[1:])


def parsed(words: list[str]) -> Load:
    """Read what the script prints: seconds, requests lost, and what happened how often, KIND:TENTHS:TIMES.

    The tenths are of a millisecond, a latency, or with the kind `ended` of a second, a moment.
    """
    load = Load(float(words[0]), int(words[1]))
    for word in words[2:]:
        kind, tenths, times = word.rsplit(":", 2)
        if kind == "ended":
            load.ended[int(tenths)] += int(times)
            continue
        load.latencies.setdefault(kind, Counter())[int(tenths) / 1e4] += int(times)
    return load


@dataclass(frozen=True, slots=True)
class Measured:
    """What wrk saw: answers a second, and their latencies in ms."""

    rate: float
    p50: float
    p99: float
    mean: float
    seconds: float


def bodies(folder: Path, texts: list[str]) -> Path:
    """A file of request bodies without reranking that both servers understand."""
    file = folder / "bodies"
    file.write_text("\n".join(json.dumps(search(text)) for text in texts))
    return file


def load(url: str, body: Path, connections: int, seconds: int) -> Measured:
    """Run wrk once. Ends the program if a request failed."""
    command = ["wrk", "--threads=1", f"--connections={connections}", f"--duration={seconds}s", "--timeout=60s"]
    output = subprocess.run(
        [*command, f"--script={PEER}", url, "--", str(body)], capture_output=True, text=True, check=False
    )
    words = output.stdout.rstrip().rpartition("\n")[2].split()
    if output.returncode or words[:1] != ["shoal"] or words[3] != "0":
        sys.exit(f"wrk failed on {url}: {output.stdout}{output.stderr}")
    us, requests, _, p50, p99, mean = map(float, words[1:])
    return Measured(1e6 * requests / us, p50 / 1000, p99 / 1000, mean / 1000, us / 1e6)
