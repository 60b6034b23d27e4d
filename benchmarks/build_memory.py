"""Memory of a build: the peak of every process must not depend on the size of the corpus.

    python -m benchmarks.build_memory [--small 200000] [--large 2000000] [--json FILE]

Builds two corpora of 200-byte passages with the weightless encoder and the same number of shards, and compares the peak
resident memory (VmHWM, which counts mapped files and shared memory too) of each kind of process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.report import Figure, report
from shoal.processes import descendants

PASSAGE_BYTES = 200
VOCABULARY = 200_000
GOAL = 1.3
POLL_S = 0.1
_LETTERS = str.maketrans("0123456789", "ghijklmnop")
# Beginnings of process titles. The title of a Ray worker is what it does at the moment.
KINDS = {
    "ray::MapWorker": "embedding worker",
    "ray::fingerprint": "task worker",
    "ray::sample_queries": "task worker",
    "ray::count_terms": "task worker",
    "ray::merge_terms": "task worker",
    "ray::index": "task worker",
    "ray::verify": "task worker",
    "ray::_StatsActor": "Ray Data statistics",
    "ray::_AutoscalingCoordinatorActor": "Ray Data autoscaling",
    "ray::ActorLocationTracker": "Ray Data locations",
    "raylet": "raylet",
    "gcs_server": "Ray control store",
}
# Ray starts workers ahead of work, and some never get any.
IDLE = dict.fromkeys(("workers/default_worker", "ray::IDLE"), "idle worker")


def main() -> None:
    """Run both builds, print the table, and fail if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=200_000, help="passages of the smaller corpus")
    parser.add_argument("--large", type=int, default=2_000_000, help="passages of the larger corpus")
    parser.add_argument("--shards", type=int, default=4, help="shards of both; 0 takes the default for each size")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        small, large = (build(Path(folder), count, options.shards) for count in (options.small, options.large))
    figures = []
    for kind in sorted(small.keys() & large.keys()):
        for count, peaks in ((options.small, small), (options.large, large)):
            figures.append(Figure(f"{kind}, {count:,} passages", round(peaks[kind] / 1024, 1), "MiB"))
        ratio = large[kind] / small[kind]
        figures.append(Figure(f"{kind}, growth", round(ratio, 3), "times", f"<= {GOAL}", ratio <= GOAL))
    report("Peak resident memory of the processes of a build", figures, options.json)


def build(folder: Path, count: int, shards: int) -> dict[str, int]:
    """Build an index of `count` passages and return the highest VmHWM of each kind of process, in KiB."""
    source = folder / f"{count}.jsonl"
    write_corpus(source, count)
    command = [
        sys.executable,
        "-m",
        "jobs.build_index",
        "--source",
        str(source),
        "--index",
        str(folder / f"index-{count}"),
    ]
    command += [
        "--encoder",
        "hashing:64",
        "--index-kind",
        "flat",
        *(["--shards", str(shards)] if shards else []),
        "--json",
    ]
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, stderr=log, text=True
        )
        peaks: dict[int, int] = {}
        kinds = {process.pid: "driver"}
        while process.poll() is None:
            for pid in [process.pid, *descendants(process.pid)]:
                look(pid, peaks, kinds)
            time.sleep(POLL_S)
        if process.returncode:
            log.seek(0)
            sys.exit(f"the build of {count} passages failed:\n{log.read()}")
        summary = json.loads(process.stdout.read()) if process.stdout else {}
    assert summary["passages"] == count
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in summary["seconds"].items())
    print(f"{count:,} passages: {summary['passages_per_s']:,.0f} passages/s, {summary['workers']} workers ({stages})")
    source.unlink()
    highest: dict[str, int] = {}
    for pid, peak in peaks.items():
        kind = kinds[pid]
        highest[kind] = max(peak, highest.get(kind, 0))
    return highest


def write_corpus(path: Path, count: int) -> None:
    """Write passages of random words, PASSAGE_BYTES each; words are as unequally frequent as those of a language."""
    random = np.random.default_rng(7)
    words = np.array([f"{number:x}".translate(_LETTERS) for number in range(VOCABULARY)])
    with path.open("w") as file:
        for start in range(0, count, 10_000):
            rows = min(10_000, count - start)
            # The n-th word is drawn in proportion to 1 / n.
            chosen = (VOCABULARY ** random.random((rows, PASSAGE_BYTES // 3))).astype(np.int64) - 1
            file.writelines(
                f'{{"id": "p{start + n}", "text": "{" ".join(text)[:PASSAGE_BYTES]}"}}\n'
                for n, text in enumerate(words[chosen].tolist())
            )


def look(pid: int, peaks: dict[int, int], kinds: dict[int, str]) -> None:
    """Note the peak of a process, and its kind once its title tells."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            peaks[pid] = max(peaks.get(pid, 0), int(line.split()[1]))
    name = title.strip() if title.startswith("ray::") else Path(title.partition(" ")[0]).name
    if name.startswith("python"):  # an agent of Ray, which its script names
        name = next(
            (Path(word).parent.name + "/" + Path(word).stem for word in title.split() if word.endswith(".py")), name
        )
    for sign, kind in KINDS.items():
        if name.startswith(sign):
            kinds[pid] = kind
            return
    kinds.setdefault(pid, IDLE.get(name, f"Ray's {name}"))


if __name__ == "__main__":
    main()
