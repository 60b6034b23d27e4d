"""What writing and searching beside writes take here, in chromadb and in Qdrant Edge, over the same passages.

    python -m benchmarks.write_peers --peers PYTHON [--passages 5000] [--batch 100] [--searches 200] [--rounds 3]
        [--folder DIR] [--json FILE]

`--peers` names a Python that has chromadb and qdrant-edge-py (and nothing of Shoal). Every store runs in a process of
its own all the time and does the same: it writes passages with given vectors of 384 numbers, searches by vectors alone,
and again while another thread writes a batch every tenth of a second. Rounds alternate, so that ratios hold on a
machine that is busy. Shoal also indexes all words and syncs every batch to disk; chromadb writes to SQLite, Qdrant Edge
to its log without syncing it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.report import Figure, report, tell
from benchmarks.support.written_stores import DIM, TOP_K, run

PEERS = ("chromadb", "qdrant-edge")
OWN = "shoal"
ROOT = Path(__file__).parents[1]
SEED = 5


class Shoal:
    """An index of one shard that begins empty, opened in this process."""

    def __init__(self, folder: Path) -> None:
        import shoal
        from shoal.indexing.empty import create_index
        from shoal.settings import CreateSettings

        create_index(CreateSettings(index=str(folder), dimension=DIM, shards=1, threads=1))
        self._index = shoal.open(folder, reranker="none", timeout_ms=60_000)

    def write(self, numbers: list[int], texts: list[str], vectors: Any) -> None:
        """Upsert in one request; what is answered is on disk."""
        self._index.upsert(
            [
                {"id": f"p{number}", "text": text, "vector": vector}
                for number, text, vector in zip(numbers, texts, vectors, strict=True)
            ],
            batch_passages=len(numbers),
        )

    def search(self, vector: Any) -> list[Any]:
        """Search by a vector."""
        return list(self._index.search(vector=vector, top_n=TOP_K).results)


class Process:
    """A store in a process of its own."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def ask(self, *words: str | int) -> Any:
        """Let it work, and return what it measured. Ends the program if it has failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{words} failed")
        return json.loads(line)


def main() -> None:
    """Measure in alternating rounds, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="a Python that has chromadb and qdrant-edge-py")
    parser.add_argument("--passages", type=int, default=5000, help="written in each round")
    parser.add_argument("--batch", type=int, default=100, help="passages of one request")
    parser.add_argument("--searches", type=int, default=200, help="of each line of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where the stores lie; by default among the temporary files")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--own", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.own:
        run(lambda: Shoal(options.own), SEED)
        return
    with tempfile.TemporaryDirectory(prefix="shoal-bench-", dir=options.folder) as name, ExitStack() as stack:
        folder = Path(name)
        commands = {OWN: [sys.executable, "-m", "benchmarks.write_peers", "--own", str(folder / OWN)]}
        for peer in PEERS if options.peers else ():
            program = str(ROOT / "benchmarks" / "support" / "written_stores.py")
            commands[peer] = [options.peers, program, peer, str(folder / peer), str(SEED)]
        stores = {store: stack.enter_context(Process(command)) for store, command in commands.items()}
        measured = rounds(stores, options)
    report(f"Writes with given vectors, {options.batch} a request", figures(measured, options), options.json)


def rounds(stores: dict[str, Process], options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """What each store measured in each round."""
    measured: dict[str, list[dict[str, Any]]] = {store: [] for store in stores}
    for number in range(options.rounds):
        for store, process in stores.items():
            tell(f"round {number + 1}: {store}")
            measured[store].append(
                {
                    "write": process.ask("write", options.passages, options.batch),
                    "search": process.ask("search", options.searches),
                    "beside": process.ask("beside", options.searches, options.batch),
                }
            )
    return measured


def figures(measured: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> list[Figure]:
    """Medians over the rounds, and for peers the median of the ratios of each round: above 1, Shoal takes longer."""
    lines: dict[str, dict[str, list[float]]] = {
        store: {name: [value(done, options) for done in parts] for name, value in VALUES.items()}
        for store, parts in measured.items()
    }
    shown = []
    for store, values in lines.items():
        for name, several in values.items():
            shown.append(Figure(f"{store}: {name}", float(np.median(several)), "ms"))
            if store != OWN:
                ratios = np.array(lines[OWN][name]) / np.array(several)
                shown.append(Figure(f"{OWN} / {store}: {name}", float(np.median(ratios)), "times"))
    return shown


def _percentile(part: str, percent: int) -> Any:
    return lambda done, options: 1000 * float(np.percentile(done[part]["seconds"], percent))


VALUES: dict[str, Any] = {
    "write of a passage": lambda done, options: 1000 * sum(done["write"]["seconds"]) / options.passages,
    "write of a passage, CPU": lambda done, options: 1000 * done["write"]["cpu"] / options.passages,
    "request, p50": _percentile("write", 50),
    "request, p99": _percentile("write", 99),
    "search, p50": _percentile("search", 50),
    "search, p99": _percentile("search", 99),
    "search, CPU": lambda done, options: 1000 * done["search"]["cpu"] / options.searches,
    "search beside writes, p50": _percentile("beside", 50),
    "search beside writes, p99": _percentile("beside", 99),
    "written meanwhile, ms a passage": lambda done, options: 1000 * done["beside"]["took"] / done["beside"]["written"],
}
"""What is made of a round, in milliseconds, by its name."""

if __name__ == "__main__":
    main()
