"""What a request costs the processor, without a network: `python -m benchmarks.request_cost [--passages 4000]`.

The HTTP application of `shoal serve --local` is asked in this process, one request after the other: by a vector, by a
text that the encoder without weights encodes, and by both vectors and words. To compare two states of the code, run it
in both in turns: on a machine that does other things the least of several runs counts.
"""

import argparse
import asyncio
import base64
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from fastapi import FastAPI

from benchmarks.support.random_texts import DIM, VOCABULARY, build, text
from benchmarks.support.report import Figure, report
from serve.local import local_api
from shoal.engine.engine import LocalEngine
from shoal.settings import RunSettings, ServeSettings

QUERIES = 50
"""Different requests of each kind."""
ROUNDS = 5
"""Rounds, of which the one that took the least is reported."""


def main() -> None:
    """Build an index, and ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=4000)
    parser.add_argument("--requests", type=int, default=300, help="of each kind, in each round")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        build(Path(folder), options.passages)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as `shoal serve --local` has it
            figures = runner.run(measure(folder, options.requests))
    report(f"Requests in one process, {options.passages:,} passages", figures, options.json)


async def measure(root: str, count: int) -> list[Figure]:
    """Ask by each kind in turns."""
    settings = RunSettings(index=root, reranker="none", query_cache=0)
    engine = LocalEngine(settings.part(ServeSettings, index=root))
    await engine.open()
    app = local_api(engine, settings)
    least: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, bodies in requests().items():
            milliseconds = await cost(app, bodies, count)
            least[name] = min(least.get(name, milliseconds), milliseconds)
    engine.close()
    return [Figure(f"processor time of a request, {name}", value, "ms") for name, value in least.items()]


def requests() -> dict[str, list[bytes]]:
    """Bodies of searches that are not reranked, by kind."""
    chance, numbers = random.Random(11), np.random.default_rng(1)
    vectors = [base64.b64encode(numbers.standard_normal(DIM).astype("<f4").tobytes()).decode() for _ in range(QUERIES)]
    texts = [text(chance, 8) for _ in range(QUERIES)]

    def bodies(fields: Iterator[dict[str, Any]]) -> list[bytes]:
        return [json.dumps({**each, "top_n": 10, "rerank": False}).encode() for each in fields]

    return {
        "by vector": bodies({"vector": vector} for vector in vectors),
        "by text": bodies({"query": query, "mode": "dense"} for query in texts),
        f"hybrid, eight of {VOCABULARY:,} words": bodies({"query": query, "mode": "hybrid"} for query in texts),
    }


async def cost(app: FastAPI, bodies: Sequence[bytes], count: int) -> float:
    """Milliseconds of processor time, of all threads, that a request takes."""
    for body in bodies:
        await ask(app, body)
    started = time.process_time()
    for number in range(count):
        await ask(app, bodies[number % len(bodies)])
    return 1000 * (time.process_time() - started) / count


async def ask(app: FastAPI, body: bytes) -> None:
    """Send a search to the application. Raises RuntimeError for an answer that is none."""
    parts = [{"type": "http.request", "body": body, "more_body": False}]
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        if not parts:
            await asyncio.Event().wait()
        return parts.pop()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = {"content-type": "application/json", "content-length": str(len(body)), "host": "127.0.0.1"}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "POST",
        "path": "/v1/search",
        "raw_path": b"/v1/search",
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)  # type: ignore[arg-type]
    if statuses != [200]:
        raise RuntimeError(f"a search was answered with {statuses}")


if __name__ == "__main__":
    main()
