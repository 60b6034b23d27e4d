"""What a call between the replicas of a server costs, measured with real servers over small indexes."""

import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shoal.capacity.synthetic import DIM
from shoal.client.clients import Client
from shoal.errors import ShoalError
from shoal.index_root import layout
from shoal.system.processes import descendants

SHARD_COUNTS = (1, 8)
"""Shards of the two servers that are asked."""
ASKED_QUERIES = 300
"""Queries that are measured of each server, one after the other."""
WARM_UP_QUERIES = 30
"""Queries before those, which are not measured."""
PERCENTILES = (0, 5, 25, 50, 75, 90, 95, 98, 99, 99.7)
"""Where the distribution of a call's time is read."""
READY_S = 600.0
"""Seconds that a server may take to start."""
STOP_S = 60.0
"""Seconds that a server may take to stop before it is killed."""


@dataclass(frozen=True)
class ServerAnswers:
    """Of answers asked one after the other, milliseconds: of each in all, and of its call to the first shard."""

    totals: list[float]
    calls: list[float]
    process_bytes: int


def measure_calls(folder: Path, texts: Sequence[str], variables: Mapping[str, str]) -> dict[str, object]:
    """Measure what an answer costs beside its searches; returns the fields of `Constants` that say so.

    Args:
        folder: Where the indexes and the logs of the servers are written.
        texts: What is indexed and asked.
        variables: By which a Python finds jobs/ and serve/, where it runs in another folder.

    Raises:
        ShoalError: An index could not be built or a server could not be started.
    """
    corpus = folder / "corpus.jsonl"
    lines = [json.dumps({"id": f"p{number}", "text": text}) for number, text in enumerate(texts[:1000])]
    corpus.write_text("\n".join(lines), encoding="utf-8")
    narrow, wide = (_ask_server(folder, corpus, texts, width, variables) for width in SHARD_COUNTS)
    middle = statistics.median(narrow.calls)
    quantiles = np.percentile(narrow.calls, PERCENTILES) / middle
    beside = np.subtract(narrow.totals, narrow.calls)
    longer_ms = statistics.median(wide.totals) - statistics.median(narrow.totals)
    return {
        "answer_ms": max(1e-3, float(np.median(beside))),
        "answer_p99_ms": max(1e-3, float(np.percentile(beside, 99))),
        "hop_ms": middle,
        "call_ms": max(1e-3, longer_ms / (SHARD_COUNTS[1] - SHARD_COUNTS[0])),
        "tail": [(percent / 100, float(value)) for percent, value in zip(PERCENTILES, quantiles, strict=True)],
        "process_bytes": narrow.process_bytes,
    }


def _ask_server(
    folder: Path, corpus: Path, texts: Sequence[str], shards: int, variables: Mapping[str, str]
) -> ServerAnswers:
    """Build a small index whose encoder costs nothing, serve it and ask it."""
    root = folder / f"index-{shards}"
    _run(
        folder, variables, "jobs.build_index", f"--source={corpus}", f"--index={root}", f"--encoder=hashing:{DIM}",
        f"--shards={shards}", "--no-lexical", "--index-kind=flat",
    )  # fmt: skip
    with _server(variables, root) as (pid, url), Client(url) as client:
        totals, calls = [], []
        for number in range(-WARM_UP_QUERIES, ASKED_QUERIES):
            query = " ".join(texts[number % len(texts)].split()[:12])
            began = time.perf_counter()
            answer = client.search(query, rerank=False, explain=True)
            if number >= 0 and answer.explain is not None:
                totals.append(1000 * (time.perf_counter() - began))
                calls.append(float(answer.explain["shards"][0]["ms"]))
        memory = _memory(pid)
    return ServerAnswers(totals, calls, memory)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def _server(variables: Mapping[str, str], root: Path) -> Iterator[tuple[int, str]]:
    """Serve an index, each of its shards and the encoder in a process of its own. Yields the process id and the URL."""
    port = _free_port()
    words = [
        f"--index={root}", f"--port={port}", "--retriever-replicas=1", "--encoder-replicas=1", "--reranker=none",
        "--query-cache=0",
    ]  # fmt: skip
    with root.with_suffix(".log").open("w+") as log:
        process = subprocess.Popen(
            _program("serve.run", *words),
            cwd=root.parent,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            heard = bool(select.select([process.stdout], [], [], READY_S)[0])
            if not heard or not process.stdout.readline().startswith("ready "):
                _stop(process)
                log.seek(0)
                what = "could not be started" if heard else f"was not ready within {READY_S:.0f} s"
                raise ShoalError(f"a server {what}: {log.read().strip()[-1000:]}")
            yield process.pid, f"http://127.0.0.1:{port}"
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    """End a server, if need be with all of its processes."""
    if process.poll() is None:
        process.terminate()
        handle = os.pidfd_open(process.pid)
        ended = bool(select.select([handle], [], [], STOP_S)[0])
        os.close(handle)
        for pid in [] if ended else [*descendants(process.pid), process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _memory(pid: int) -> int:
    """Bytes that the largest retriever below a process holds for itself. Raises ShoalError if there is none."""
    largest = 0
    for descendant in descendants(pid):
        try:
            title = Path(f"/proc/{descendant}/cmdline").read_bytes().decode(errors="replace")
            status = Path(f"/proc/{descendant}/status").read_text()
        except OSError:
            continue
        if layout.shard_name(0) in title:
            kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:"))
            largest = max(largest, 1024 * kib)
    if not largest:
        raise ShoalError(f"no process below {pid} is a retriever, so that its memory cannot be measured")
    return largest


def _run(folder: Path, variables: Mapping[str, str], module: str, *words: str) -> None:
    done = subprocess.run(
        _program(module, *words),
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ShoalError(f"{module} failed: {done.stderr.strip()[-1000:]}")


def _program(module: str, *words: str) -> list[str]:
    """The command that runs a module of the application in a folder that is not its own, and takes no module of it."""
    return [sys.executable, "-P", "-m", module, *words]
