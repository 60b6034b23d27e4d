"""Start and weight: what `shoal serve` and `shoal build` take before they do anything.

    python -m benchmarks.start [--index ROOT] [--passages 100] [--rounds 3] [--idle 20] [--local] [--json FILE]
        [-- OPTION ...]

A corpus of so many docstrings is built and served, or with `--index` that root is served and nothing built. A figure is
the median of the rounds. What follows `--` are options of `shoal serve`.
Memory is the proportional set size, of the server and of all processes that came of it, each looked at after the first
answer and a pause. Processor time is that of processes that live then. An idle server is one that nobody asks.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.support.report import Figure, report, tell
from benchmarks.support.servers import ROOT, SHOAL, Server, free_port, role, run
from shoal.system.processes import descendants

ANSWER_S = 5.0
"""Goal: seconds from the start to the first answer."""
MEMORY_MIB = 700.0
"""Goal: memory of all processes of a server."""
IDLE_CORES = 0.02
"""Goal: cores that a server takes that nobody asks."""
BUILD_S = 6.0
"""Goal: seconds of a build of a hundred passages."""
SETTLE_S = 8.0
"""Seconds after the first answer until a server counts as idle."""

Measured = dict[str, float]


def main() -> None:
    """Build and serve, several times."""
    options = parsed()
    rounds: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as temporary:
        folder = Path(temporary)
        if not options.index:
            corpus = str(folder / "corpus.jsonl")
            run(sys.executable, "-m", "jobs.docstring_corpus", "--output", corpus, "--limit", str(options.passages))
        for number in range(options.rounds):
            index = options.index or str(folder / f"index-{number}")
            built = {} if options.index else built_in(index, corpus)
            rounds.append(built | served(index, options))
            tell(f"round {number + 1}: {json.dumps({name: round(value, 3) for name, value in rounds[-1].items()})}")
    names = dict.fromkeys(name for each in rounds for name in each)
    medians = {name: statistics.median([each.get(name, 0.0) for each in rounds]) for name in names}
    report("Start and weight", [figure(name, value) for name, value in medians.items()], options.json)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", help="index root that is served; without it one is built in every round")
    parser.add_argument("--passages", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=float, default=20.0, help="seconds for which nobody asks")
    parser.add_argument("--local", action="store_true", help="serve without Ray")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("options", nargs="*", help="of `shoal serve`")
    return parser.parse_args()


def built_in(index: str, corpus: str) -> Measured:
    """Build an index; the build's own clock begins when its Ray has started."""
    command = [*SHOAL, "build", "--source", corpus, "--title-field", "title", "--index", index, "--json"]
    started = time.monotonic()
    process = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    seconds = json.loads(process.stdout)["seconds"]
    parts = {f"build: {stage}": value for stage, value in seconds.items()}
    return {"build": time.monotonic() - started, **parts}


def served(index: str, options: argparse.Namespace) -> Measured:
    """Serve an index, ask once, and leave it alone."""
    port = free_port()
    words = ["serve", "--index", index, "--port", str(port), *(["--local"] if options.local else []), *options.options]
    started = time.monotonic()
    process = subprocess.Popen([*SHOAL, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        if process.stdout is None or not process.stdout.readline().startswith(b"ready"):
            sys.exit(f"shoal {' '.join(words)} does not start")
        ready = time.monotonic() - started
        server = Server("shoal", f"http://127.0.0.1:{port}", "/v1/search", process.pid)
        server.ask("how is a file opened", rerank=True)
        answered = time.monotonic() - started
        cpu = sum(server.cpu_seconds().values())
        time.sleep(SETTLE_S)
        before = sum(server.cpu_seconds().values())
        time.sleep(options.idle)
        idle = (sum(server.cpu_seconds().values()) - before) / options.idle
        memory = memory_by_role(process.pid)
        parts = {f"memory: {name}": mib for name, mib in sorted(memory.items(), key=lambda each: -each[1])}
        facts = {"ready": ready, "first answer": answered, "CPU until then": cpu, "idle": idle}
        return {**facts, "memory": sum(memory.values()), **parts}
    finally:
        process.terminate()
        process.wait()


def memory_by_role(pid: int) -> dict[str, float]:
    """Proportional set size in MiB of a process and all below it, by what they are."""
    sizes: dict[str, float] = defaultdict(float)
    for each in (pid, *descendants(pid)):
        try:
            words = Path(f"/proc/{each}/cmdline").read_text().split("\0")
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        sizes[role(words)] += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return dict(sizes)


def figure(name: str, value: float) -> Figure:
    """A figure beside its goal, if it has one."""
    goals = {
        "first answer": (ANSWER_S, "s"),
        "build": (BUILD_S, "s"),
        "memory": (MEMORY_MIB, "MiB"),
        "idle": (IDLE_CORES, "cores"),
    }
    if name in goals:
        goal, unit = goals[name]
        return Figure(name, value, unit, f"<= {goal:g}", value <= goal)
    return Figure(name, value, "MiB" if name.startswith("memory") else "s")


if __name__ == "__main__":
    main()
