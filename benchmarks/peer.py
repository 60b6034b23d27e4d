"""What a served endpoint takes beside what a user would write instead: one FastAPI process.

    python -m benchmarks.peer --python PYTHON [--naive naive_server.py] [--dataset DIR] [--rounds 5] [--json FILE]

The peer is what somebody careful would write, `benchmarks/support/careful_server.py`: Qdrant's engine, a batcher,
bfloat16. `--python` names a Python that has qdrant-edge-py, fastapi, uvicorn and sentence-transformers. `--naive` names
a second one, a module `api` for uvicorn that reads NAIVE_CORPUS, NAIVE_ENCODER and NAIVE_RERANKER. All answer POST
/search with `results` and serve the same passages with the same weights, exactly and without words, ours in two shards.
The load comes from wrk (https://github.com/wg/wrk, Debian's package `wrk`) over loopback, on the same cores as the
servers. All run all the time, and in every round each load is put on one after the other, in turns.

Ours is started with `--query-cache 0`, so that no vector is remembered; a last run shows what remembering them gives.
The cross-encoder is the encoder's own network under a head with random weights, which costs as much as a trained one.
Times of the stages come from the answers, processor times of the processes from the system, both from a run of their
own under each load, in which threads ask.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support.beir import read_jsonl
from benchmarks.support.report import Figure, report
from benchmarks.support.servers import SHARDS, SHOAL, Server, free_port, need_wrk, process, run, shoal
from benchmarks.support.wrk import Measured, bodies, load
from shoal.inference import models
from shoal.settings import EMBEDDED_ENCODER
from shoal.system.processes import adopt_orphans
from shoal.testing.models import save_cross_encoder

CAREFUL = Path(__file__).parent / "support" / "careful_server.py"
SAMPLE = 20
"""Queries whose answers are compared."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One load: so many clients that ask all the time."""

    name: str
    connections: int
    rerank: bool


@dataclass(frozen=True, slots=True)
class Peer:
    """What others serve, and the goals beside it.

    Args:
        name: As figures show it.
        script: The module of its application.
        python: That runs it.
        p50: Goal of the latency of one client, as a multiple of the peer's.
        answers: Goals of answers a second, as multiples of the peer's, without and with reranking.
    """

    name: str
    script: Path
    python: str
    p50: float
    answers: tuple[float, float]


LOADS = (Kind("c=1", 1, rerank=False), Kind("c=32", 32, rerank=False), Kind("c=16, reranked", 16, rerank=True))


def main() -> None:
    """Start the servers, put every load on each in turns, and report."""
    options = parsed()
    need_wrk()
    need_engine(options.python)
    adopt_orphans()

    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        folder = Path(name)
        index = options.index or f"{folder}/index"
        if not options.index:
            words = ["--source", str(options.dataset), "--index", index, "--shards", str(SHARDS)]
            # The peers read the beginning of a long passage alone, so ours does.
            run(*SHOAL, "build", *words, "--index-kind", "flat", "--no-lexical", "--passage-tokens", "0")
        cross_encoder = save_cross_encoder(folder / "cross-encoder")
        texts = [row["text"] for row in read_jsonl(options.dataset / "queries.jsonl.gz")]
        serve = ["--reranker", str(cross_encoder), *options.serve]
        peers = [Peer("careful", CAREFUL, options.python, 0.4, (2, 1))]
        if options.naive:
            peers.append(Peer("naive", options.naive, sys.executable, 0.8, (10, 2)))
        with ExitStack() as running:
            others = [running.enter_context(served(peer, options.dataset, cross_encoder)) for peer in peers]
            empty = running.enter_context(bare())
            with shoal(index, ["--query-cache", "0", *serve]) as ours:
                body = bodies(folder, texts)

                def put(kind: Kind, server: Server) -> Measured:
                    if kind.rerank:
                        measured = ask_all(server, texts[: options.reranked], kind.connections)
                    else:
                        measured = load(server.search, body, kind.connections, options.seconds)
                    print(f"{kind.name}, {server.name}: {measured}", file=sys.stderr, flush=True)
                    return measured

                figures = []
                for peer, other in zip(peers, others, strict=True):
                    figures.append(agreement(ours, other, texts[:SAMPLE]))
                    for server in (ours, other):
                        load(server.search, body, 32, 2)
                        ask_all(server, texts[:2], 2)
                    figures += compare(ours, other, peer, put, (options.rounds, options.rerank_rounds))
                figures += no_op(ours, empty, folder, options.rounds, options.seconds)
                for kind in LOADS:
                    figures += breakdown(ours, kind, texts, options.seconds)
            with shoal(index, serve) as remembering:
                load(remembering.search, body, 32, options.seconds)
                for kind in LOADS[:2]:
                    measured = load(remembering.search, body, kind.connections, options.seconds)
                    figures += [
                        Figure(f"{kind.name}, every vector remembered: answers", measured.rate, "1/s"),
                        Figure(f"{kind.name}, every vector remembered: p50", measured.p50, "ms"),
                    ]
    names = " and ".join(peer.script.name for peer in peers)
    title = f"Shoal and {names} on {options.dataset.name}, {SHARDS} shards, Flat, {options.rounds} rounds"
    report(title, figures, options.json)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("SHOAL_DATA", "../shared/data")) / "beir"
    parser.add_argument("--python", default=sys.executable, help="a Python that has what the careful peer needs")
    parser.add_argument("--naive", type=Path, help="a second server, a Python file")
    parser.add_argument("--dataset", type=Path, default=data / "scifact", help="whose passages and queries are served")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each load")
    parser.add_argument("--reranked", type=int, default=64, help="queries of a round with reranking")
    parser.add_argument("--rerank-rounds", type=int, default=3, help="rounds with reranking; 0 asks the peer for none")
    parser.add_argument("--index", help="serve this index root instead of building one")
    parser.add_argument(
        "--serve", action="append", default=[], help="an option more for `shoal serve`, as --serve=--x=y"
    )
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    return parser.parse_args()


def need_engine(python: str) -> None:
    """End with a word of advice where a Python lacks what the careful peer imports."""
    modules = "qdrant_edge, fastapi, uvicorn, sentence_transformers"
    if subprocess.run([python, "-c", f"import {modules}"], capture_output=True, check=False).returncode:
        sys.exit(f"{python} lacks one of {modules}: install them there, or name another by --python")


def compare(
    ours: Server, other: Server, peer: Peer, put: Callable[[Kind, Server], Measured], rounds: tuple[int, int]
) -> list[Figure]:
    """Put every load on both in turns. rounds: without and with reranking."""
    seen: dict[tuple[Kind, Server], list[Measured]] = defaultdict(list)
    for kind in LOADS:
        for number in range(rounds[kind.rerank]):
            for server in (ours, other) if number % 2 else (other, ours):
                seen[kind, server].append(put(kind, server))
    figures = []
    for kind in (kind for kind in LOADS if seen[kind, ours]):
        for server in (other, ours):
            of = seen[kind, server]
            figures += [
                Figure(f"{kind.name}, {server.name}: answers", statistics.median(one.rate for one in of), "1/s"),
                Figure(f"{kind.name}, {server.name}: p50", statistics.median(one.p50 for one in of), "ms"),
                Figure(f"{kind.name}, {server.name}: p99", statistics.median(one.p99 for one in of), "ms"),
            ]
        pairs = list(zip(seen[kind, ours], seen[kind, other], strict=True))
        if kind.connections == 1:
            ratio = statistics.median(mine.p50 / theirs.p50 for mine, theirs in pairs)
            name, goal = f"{kind.name}: p50 against the {peer.name} peer's", peer.p50
            figures.append(Figure(name, ratio, "x", f"<= {goal:g}", ratio <= goal))
        else:
            ratio = statistics.median(mine.rate / theirs.rate for mine, theirs in pairs)
            name, goal = f"{kind.name}: answers against the {peer.name} peer's", peer.answers[kind.rerank]
            figures.append(Figure(name, ratio, "x", f">= {goal:g}", ratio >= goal))
    return figures


def no_op(ours: Server, empty: str, folder: Path, rounds: int, seconds: int) -> list[Figure]:
    """Put requests that ask for nothing on our ingress and on a uvicorn that does nothing else."""
    nothing = folder / "nothing"
    nothing.touch()
    figures = []
    for connections in (1, 32):
        pairs = [
            tuple(load(url, nothing, connections, seconds) for url in (f"{ours.url}/healthz", empty))
            for _ in range(rounds)
        ]
        name = f"no-op, c={connections}"
        ratio = statistics.median(theirs.rate / mine.rate for mine, theirs in pairs)
        figures += [
            Figure(
                f"{name}, bare uvicorn", statistics.median(1000 / theirs.rate for _, theirs in pairs), "ms a request"
            ),
            Figure(f"{name}, shoal", statistics.median(1000 / mine.rate for mine, _ in pairs), "ms a request"),
            Figure(f"{name}: time against bare uvicorn", ratio, "x", "<= 3", ratio <= 3),
        ]
    return figures


def breakdown(ours: Server, kind: Kind, texts: list[str], seconds: int) -> list[Figure]:
    """Where the time of an answer goes, as its client waits for it, and what its processes compute.

    Ray's exporter rounds the sums of histograms to their buckets, so the times come from the answers themselves.
    """
    used, until, asked = ours.cpu_seconds(), time.monotonic() + seconds, iter(texts * 100)
    seen: list[dict[str, float]] = []

    def ask() -> None:
        while time.monotonic() < until:
            begun = time.perf_counter()
            answer = ours.ask(next(asked), kind.rerank, explain=True)
            ms = 1000 * (time.perf_counter() - begun)
            shards = [shard["ms"] for shard in answer["explain"]["shards"]]
            seen.append({**answer["timings_ms"], "client": ms, "shards": max(shards)})

    with ThreadPoolExecutor(kind.connections) as pool:
        for one in [pool.submit(ask) for _ in range(kind.connections)]:
            one.result()
    spent = {name: 1000 * (total - used.get(name, 0.0)) / len(seen) for name, total in ours.cpu_seconds().items()}
    mean = {name: statistics.mean(each[name] for each in seen) for name in seen[0]}
    rows = {
        "in all, at the client": mean["client"],
        "proxy, HTTP, validation, serialisation": mean["client"] - mean["total"],
        "queue of the encoder": mean["queue"],
        "encode": mean["encode"],
        "queue of the shards": mean["retrieve"] - mean["shards"],
        "the slowest shard: search and texts": mean["shards"],
        "merge": mean["merge"],
        "fetch": mean["fetch"],
        "rerank": mean["rerank"],
    }
    spent = {"all of them": sum(spent.values()), **dict(sorted(spent.items(), key=lambda item: -item[1]))}
    return [Figure(f"{kind.name}, mean: {name}", value, "ms") for name, value in rows.items()] + [
        Figure(f"{kind.name}, processor an answer: {name}", each, "ms") for name, each in spent.items() if each >= 0.02
    ]


def agreement(ours: Server, other: Server, texts: list[str]) -> Figure:
    """How many of the ten best both find: the same question has to have the same answer."""
    shared = 0
    for text in texts:
        found = [{line["id"] for line in server.ask(text)["results"]} for server in (ours, other)]
        shared += len(found[0] & found[1])
    share = shared / (10 * len(texts))
    return Figure(f"of the ten best of {other.name} and shoal, the same", share, "", ">= 0.95", share >= 0.95)


def ask_all(server: Server, texts: list[str], clients: int) -> Measured:
    """Ask for all of these with reranking, so many at once. Ends the program if one was not reranked."""
    started = time.perf_counter()

    def ask(text: str) -> float:
        begun = time.perf_counter()
        if not server.ask(text, rerank=True).get("reranked", True):
            sys.exit(f"an answer of {server.url} was not reranked")
        return 1000 * (time.perf_counter() - begun)

    with ThreadPoolExecutor(clients) as pool:
        ms = sorted(pool.map(ask, texts))
    seconds = time.perf_counter() - started
    return Measured(len(ms) / seconds, statistics.median(ms), ms[-1], statistics.mean(ms), seconds)


@contextmanager
def served(peer: Peer, dataset: Path, cross_encoder: Path) -> Iterator[Server]:
    """Another server, as its own documentation starts it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    place = ["--port", str(port), "--app-dir", str(peer.script.parent)]
    command = [peer.python, "-m", "uvicorn", f"{peer.script.stem}:api", "--log-level", "warning", *place]
    corpus = next(path for path in dataset.glob("corpus.jsonl*"))
    environment = {
        "CORPUS": str(corpus),
        "ENCODER": str(models.resolve(EMBEDDED_ENCODER).fetch()),
        "RERANKER": str(cross_encoder),
        "THREADS": str(len(os.sched_getaffinity(0))),
    }
    naive = {f"NAIVE_{name}": value for name, value in environment.items()}
    with process(command, f"{url}/openapi.json", **environment, **naive, NAIVE_FACTORY="Flat") as started:
        yield Server(peer.name, url, "/search", started.pid)


@contextmanager
def bare() -> Iterator[str]:
    """A uvicorn that answers every request with nothing."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    words = [f"{__spec__.name}:nothing", "--port", str(port), "--log-level", "warning", "--lifespan", "off"]
    with process([sys.executable, "-m", "uvicorn", *words], url):
        yield url


async def nothing(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Answer with an empty object: an ASGI application."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


if __name__ == "__main__":
    main()
