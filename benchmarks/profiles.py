"""What each setting of a server gives: its process layout, its proxy and how its parts speak with each other.

    python -m benchmarks.profiles [--dataset DIR] [--index ROOT] [--mode hybrid] [--rounds 1] [--json FILE]

Every variant differs from the default in one thing. Each is started, asked over one and over 32 connections by wrk
(https://github.com/wg/wrk, Debian's package `wrk`) without reranking and without remembered vectors, and stopped.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from benchmarks.support.beir import read_jsonl
from benchmarks.support.report import Figure, report
from benchmarks.support.servers import SHARDS, SHOAL, need_wrk, run, shoal
from benchmarks.support.wrk import Measured, bodies, load
from shoal.system.processes import adopt_orphans

VARIANTS: dict[str, tuple[list[str], dict[str, str]]] = {
    "default": ([], {}),
    "encoder and shards in processes of their own": (["--encoder-replicas=1", "--retriever-replicas=1"], {}),
    "shards in processes of their own": (["--retriever-replicas=1"], {}),
    "encoder in a process of its own": (["--encoder-replicas=1"], {}),
    "texts fetched after the merge": (["--no-fetch-with-hits"], {}),
    "Ray's proxy": (["--proxy=ray"], {}),
    "deployments without gRPC": ([], {"RAY_SERVE_USE_GRPC_BY_DEFAULT": "0"}),
    "own thread for user code": ([], {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "1"}),
    "own thread for the router": ([], {"RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1"}),
    "Ray's proxy and Serve's own defaults": (["--proxy=ray"], {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}),
}
CONNECTIONS = (1, 32)


def main() -> None:
    """Measure every variant in turn, in as many rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("SHOAL_DATA", "../shared/data")) / "beir"
    parser.add_argument("--dataset", type=Path, default=data / "scifact", help="whose passages and queries are served")
    parser.add_argument("--index", help="serve this index root instead of building one")
    parser.add_argument("--mode", choices=("dense", "lexical", "hybrid"), default="dense")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=4, help="of each load")
    parser.add_argument("--only", default="", help="variants whose name holds this")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    need_wrk()
    adopt_orphans()

    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        folder = Path(name)
        index = options.index or f"{folder}/index"
        if not options.index:
            words = ["--source", str(options.dataset), "--index", index, "--shards", str(SHARDS)]
            run(*SHOAL, "build", *words, "--index-kind", "flat")
        texts = [row["text"] for row in read_jsonl(options.dataset / "queries.jsonl.gz")]
        body = bodies(folder, texts)
        seen: dict[str, list[list[Measured]]] = defaultdict(list)
        for _ in range(options.rounds):
            for variant, (words, environment) in VARIANTS.items():
                if options.only not in variant:
                    continue
                fixed = ["--query-cache=0", "--reranker=none", f"--mode={options.mode}"]
                with shoal(index, [*fixed, *words], **environment) as server:
                    load(server.search, body, CONNECTIONS[-1], 2)
                    each = [load(server.search, body, connections, options.seconds) for connections in CONNECTIONS]
                print(f"{variant}: {each}", file=sys.stderr, flush=True)
                seen[variant].append(each)

    figures = []
    for variant, rounds in seen.items():
        one, many = zip(*rounds, strict=True)
        figures += [
            Figure(f"{variant}: c=1, p50", statistics.median(each.p50 for each in one), "ms"),
            Figure(f"{variant}: c=32, answers", statistics.median(each.rate for each in many), "1/s"),
            Figure(f"{variant}: c=32, p50", statistics.median(each.p50 for each in many), "ms"),
        ]
    title = f"Settings of a server, {options.dataset.name}, {SHARDS} shards, {options.mode}, {options.rounds} rounds"
    report(title, figures, options.json)


if __name__ == "__main__":
    main()
