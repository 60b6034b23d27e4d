"""Searches by given vectors over HTTP: here, and in engines of vectors behind FastAPI, with equal recall.

    python -m benchmarks.vector_peers --folder DIR [--peers PYTHON] [--passages 100000] [--only-build]
        [--sides NAME,...] [--clients 16] [--seconds 4] [--rounds 3] [--json FILE]

`--peers` names a Python that has qdrant-edge-py, lancedb, chromadb, fastapi and uvicorn. What is built stays in the
folder for later runs: `--only-build` ends then, and a run that finds it measures alone. Every side has the same vectors
of 384 numbers and one process of its own, and answers with ids, scores and texts of ten passages. Each takes the
cheapest setting that finds 95 % of the ten nearest; chromadb has one. All are asked in turns by one client and by
several, in an order that changes from round to round, so that ratios hold on a machine that is busy.
"""

import argparse
import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.support.clustered import TOP_K, clustered
from benchmarks.support.report import Figure, report, tell
from benchmarks.support.servers import ROOT, SHOAL, Server, free_port, need_wrk, process, run
from benchmarks.support.wrk import Measured, load
from shoal.records import FloatArray
from shoal.system.processes import descendants

QUERIES = 500
RECALL = 0.95
"""Goal: share of the ten nearest passages that is found."""
TUNING = 200
"""Queries by which a setting is chosen."""


@dataclass(frozen=True, slots=True)
class Side:
    """A system: how it is served and asked, and its settings from the cheapest on.

    Args:
        name: As figures show it.
        command: That serves it; `{port}` stands for the port.
        path: Where it is asked; `{collection}` stands for the id of chromadb's collection.
        ready: Where it says that it is ready.
        efforts: Its settings; None is its own.
    """

    name: str
    command: list[str]
    path: str
    ready: str
    efforts: Sequence[float | None] = (None,)

    def body(self, vector: FloatArray, effort: float | None) -> dict[str, Any]:
        """What is sent to search by a vector."""
        packed = base64.b64encode(vector.astype("<f4").tobytes()).decode()
        if self.name == "chromadb":
            return {"query_embeddings": [vector.tolist()], "n_results": TOP_K, "include": ["documents", "distances"]}
        if self.name.startswith("shoal"):
            body = {"vector": packed, "top_k": TOP_K, "top_n": TOP_K, "include": ["text"], "timeout_ms": 60_000}
            return body if effort is None else body | {"recall": effort}
        return {"vector": packed, "top_n": TOP_K, "effort": effort}

    @staticmethod
    def ids(answer: Any) -> list[str]:
        """Which passages an answer names."""
        return list(answer["ids"][0]) if "ids" in answer else [result["id"] for result in answer["results"]]


def sides(folder: Path, peers: str | None) -> list[Side]:
    """All systems that are measured."""
    own = [*SHOAL, "serve", "--index", str(folder / "shoal"), "--reranker", "none", "--port", "{port}"]
    recalls = (None, 0.96, 0.97, 0.98, 0.99, 0.995)
    found = [
        Side("shoal", own, "/v1/search", "/readyz", recalls),
        Side("shoal --local", [*own, "--local"], "/v1/search", "/readyz", recalls),
    ]
    if peers is None:
        return found
    program = [peers, str(ROOT / "benchmarks" / "support" / "vector_servers.py")]
    for name, efforts in (
        ("qdrant-edge", (16, 24, 32, 48, 64, 96, 128, 192, 256, 400)),
        ("lancedb", (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 100)),
    ):
        found.append(Side(name, [*program, name, str(folder), "serve", "{port}"], "/vector", "/healthz", efforts))
    chroma = [str(Path(peers).with_name("chroma")), "run", "--path", str(folder / "chroma"), "--port", "{port}"]
    collections = "/api/v2/tenants/default_tenant/databases/default_database/collections/"
    kept = folder / "chroma.collection"
    collection = kept.read_text() if kept.exists() else ""
    return [*found, Side("chromadb", chroma, f"{collections}{collection}/query", "/api/v2/heartbeat")]


def main() -> None:
    """Build what is not there, tune, measure in turns, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the stores lie, and stay")
    parser.add_argument("--peers", help="a Python that has the engines of others")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--sides", help="only these, such as 'shoal --local,qdrant-edge'; the first is compared")
    parser.add_argument("--only-build", action="store_true", help="measure nothing")
    parser.add_argument("--clients", type=int, default=16, help="of the load of several")
    parser.add_argument("--seconds", type=int, default=4, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    need_wrk()
    folder = options.folder / str(options.passages)
    queries, nearest = corpus(folder, options.passages)
    build(folder, options.peers)
    if options.only_build:
        return
    with ExitStack() as stack:
        wanted = options.sides.split(",") if options.sides else None
        chosen = [side for side in sides(folder, options.peers) if wanted is None or side.name in wanted]
        served = [start(stack, side) for side in chosen]
        loads = [Load(side, server, folder, queries, nearest) for side, server in served]
        for number in range(options.rounds):
            for place in range(len(loads)):
                each = loads[(number + place) % len(loads)]
                tell(f"round {number + 1}: {each.side.name}")
                each.measure(options.clients, options.seconds)
        figures = [figure for each in loads for figure in each.figures(loads[0], options.clients)]
    report(f"Searches by vectors over HTTP, {options.passages:,} passages", figures, options.json)


def corpus(folder: Path, count: int) -> tuple[FloatArray, list[set[str]]]:
    """Write the vectors, unless they are there. Returns queries (n, 384), and what is nearest to each."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "nearest.json").exists():
        vectors, queries, _ = clustered(count, QUERIES)
        np.save(folder / "vectors.npy", vectors)
        np.save(folder / "queries.npy", queries)
        ids = pa.array([f"p{number}" for number in range(count)])
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        pq.write_table(pa.table({"id": ids, "text": ids, "vector": column}), folder / "corpus.parquet")
        best = np.argpartition(-(queries @ vectors.T), TOP_K, axis=1)[:, :TOP_K]
        (folder / "nearest.json").write_text(json.dumps([[f"p{number}" for number in line] for line in best.tolist()]))
    return np.load(folder / "queries.npy"), [set(line) for line in json.loads((folder / "nearest.json").read_text())]


def build(folder: Path, peers: str | None) -> None:
    """Build the index and what others have for it, unless they are there."""
    if not (folder / "shoal" / "CURRENT").exists():
        tell("building: shoal")
        dim = np.load(folder / "vectors.npy", mmap_mode="r").shape[1]
        options = ["--encoder", f"hashing:{dim}", "--vectors-field", "vector", "--no-lexical"]
        run(*SHOAL, "build", "--source", str(folder / "corpus.parquet"), "--index", str(folder / "shoal"), *options)
    for name, kept in (("qdrant-edge", "qdrant-edge"), ("lancedb", "lance"), ("chromadb", "chroma.collection")):
        if peers is not None and not (folder / kept).exists():
            tell(f"building: {name}")
            program = str(ROOT / "benchmarks" / "support" / "vector_servers.py")
            subprocess.run([peers, program, name, str(folder), "build"], check=True, stdout=sys.stderr)


def start(stack: ExitStack, side: Side) -> tuple[Side, Server]:
    """Start a side, which runs until the stack is closed."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    tell(f"starting: {side.name}")
    command = [word.replace("{port}", str(port)) for word in side.command]
    started = stack.enter_context(process(command, url + side.ready, HF_HUB_OFFLINE="1", ANONYMIZED_TELEMETRY="false"))
    return side, Server(side.name, url, side.path, started.pid)


class Load:
    """What is sent to a side, with the cheapest setting that finds enough, and what was measured."""

    def __init__(self, side: Side, server: Server, folder: Path, queries: FloatArray, nearest: list[set[str]]) -> None:
        self.side = side
        self._server = server
        self._measured: list[tuple[Measured, Measured, float]] = []
        self.recall = 0.0
        bodies: list[dict[str, Any]] = []
        for effort in side.efforts:
            tried = [side.body(query, effort) for query in queries]
            try:
                self.recall = self._recall(tried[:TUNING], nearest)
            except urllib.error.HTTPError:  # more than the index finds with any setting
                break
            bodies = tried
            tell(f"{side.name}: recall@{TOP_K} {self.recall:.3f} with {effort}")
            if self.recall >= RECALL:
                break
        self._bodies = folder / f"bodies-{side.name.replace(' ', '')}"
        self._bodies.write_text("\n".join(map(json.dumps, bodies)))

    def _recall(self, bodies: list[dict[str, Any]], nearest: list[set[str]]) -> float:
        shares = [len(nearest[number] & set(self._ask(body))) / TOP_K for number, body in enumerate(bodies)]
        return float(np.mean(shares))

    def _ask(self, body: dict[str, Any]) -> list[str]:
        content = {"content-type": "application/json"}
        request = urllib.request.Request(self._server.search, json.dumps(body).encode(), content)
        with urllib.request.urlopen(request, timeout=300) as response:
            return self.side.ids(json.load(response))

    def measure(self, clients: int, seconds: int) -> None:
        """Ask by one client, and by several, for so many seconds each."""
        one = load(self._server.search, self._bodies, 1, seconds)
        before = sum(self._server.cpu_seconds().values())
        several = load(self._server.search, self._bodies, clients, seconds)
        used = sum(self._server.cpu_seconds().values()) - before
        self._measured.append((one, several, 1000 * used / (several.rate * several.seconds)))

    def _values(self, clients: int) -> dict[str, tuple[list[float], str]]:
        """By name what each round had, and the unit."""
        return {
            "p50, one client": ([one.p50 for one, _, _ in self._measured], "ms"),
            "p99, one client": ([one.p99 for one, _, _ in self._measured], "ms"),
            f"answers, {clients} clients": ([several.rate for _, several, _ in self._measured], "1/s"),
            "processor time of an answer": ([cpu for _, _, cpu in self._measured], "ms"),
        }

    def figures(self, first: "Load", clients: int) -> list[Figure]:
        """Medians over the rounds; for other sides also what the first has for each, the median of the rounds."""
        name = self.side.name
        found = self.recall >= RECALL
        shown = [
            Figure(f"{name}: recall@{TOP_K}", self.recall, "", f">= {RECALL}", None if name == "chromadb" else found)
        ]
        for figure, (values, unit) in self._values(clients).items():
            shown.append(Figure(f"{name}: {figure}", float(np.median(values)), unit))
            if self is not first:
                ratios = np.array(first._values(clients)[figure][0]) / np.array(values)
                shown.append(Figure(f"{first.side.name} / {name}: {figure}", float(np.median(ratios)), "times"))
        return [*shown, Figure(f"{name}: memory", memory_mib(self._server.pid), "MiB")]


def memory_mib(pid: int) -> float:
    """Memory of a process and all below it, shared pages counted once."""
    total = 0
    for each in (pid, *descendants(pid)):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
