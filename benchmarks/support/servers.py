"""What benchmarks of served endpoints share: an index to serve, and servers as their users start them."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.system.processes import descendants

SHARDS = 2
QUERY_WORDS = 12
ROOT = Path(__file__).parents[2]
SHOAL = [sys.executable, "-c", "from shoal.cli.main import main; main()"]
PATIENCE_S = 900.0
"""How long a server may take to start; the peer encodes the corpus first."""


def need_wrk() -> None:
    """End with a word of advice where the load generator is not installed."""
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk: apt-get install wrk")


def run(*words: str) -> None:
    """Run a command to its end, and end with it if it fails."""
    if code := subprocess.run(words, cwd=ROOT, stdout=sys.stderr, check=False).returncode:
        sys.exit(code)


def docstrings(folder: Path, count: int, index: str | None, *options: str, versions: int = 1) -> tuple[str, list[str]]:
    """Build an index of docstrings in so many versions, unless one is named. Returns its root, and the docstrings."""
    corpus = folder / "corpus.jsonl"
    run(sys.executable, "-m", "jobs.docstring_corpus", "--output", str(corpus), "--limit", str(count))
    root = index or str(folder / "index")
    words = ["--source", str(corpus), "--title-field", "title", "--index", root, "--shards", str(SHARDS), *options]
    for _ in range(0 if index else versions):
        run(*SHOAL, "build", *words, "--rebuild")
    return root, [json.loads(line)["text"] for line in corpus.read_text().splitlines()]


def spread(texts: list[str], count: int) -> list[str]:
    """The beginnings of passages from all over the corpus."""
    step = max(1, len(texts) // count)
    return [" ".join(text.split()[:QUERY_WORDS]) for text in texts[::step]][:count]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def search(text: str, **changes: Any) -> dict[str, Any]:
    """What a search is asked for."""
    return {"query": text, "top_k": 25, "top_n": 10, "rerank": False, "timeout_ms": 60_000, **changes}


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs: where it is asked, and the process that was started."""

    name: str
    url: str
    path: str
    pid: int

    @property
    def search(self) -> str:
        """Where searches are sent."""
        return self.url + self.path

    def ask(self, text: str, rerank: bool = False, **changes: Any) -> Any:
        """Answer one query."""
        body = json.dumps(search(text, rerank=rerank, **changes)).encode()
        request = urllib.request.Request(self.search, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as response:
            return json.load(response)

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time so far of its processes, by what they are."""
        ticks = os.sysconf("SC_CLK_TCK")
        seconds: dict[str, float] = defaultdict(float)
        for pid in (self.pid, *descendants(self.pid)):
            try:
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            except OSError:  # it has ended
                continue
            seconds[role(words)] += (int(stat[11]) + int(stat[12])) / ticks
        return dict(seconds)


def role(words: list[str]) -> str:
    """What a process of the server is, by its command line."""
    if match := re.match(r"ray::ServeReplica:[^:]*:([\w-]+)", words[0]):
        return re.sub(r"-\d+$", "s", match[1])  # the shards together
    if match := re.match(r"ray::(\w+)", words[0]):
        return match[1]
    return next((Path(word).name for word in words if word.endswith(".py")), Path(words[0]).name)


@contextmanager
def process(command: list[str], url: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block; enters when its URL answers."""
    started = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + PATIENCE_S
        while not answers(url):
            if started.poll() is not None or time.monotonic() > until:
                sys.exit(f"{' '.join(command)} does not answer")
            time.sleep(0.5)
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait()


def answers(url: str) -> bool:
    """Whether a server answers, and not with an error."""
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except OSError:
        return False


@contextmanager
def shoal(index: str, options: list[str], **environment: str) -> Iterator[Server]:
    """Our server."""
    port = free_port()
    words = ["serve", "--index", index, "--port", str(port), *options]
    url = f"http://127.0.0.1:{port}"
    with process([*SHOAL, *words], f"{url}/readyz", **environment) as started:
        yield Server("shoal", url, "/v1/search", started.pid)
