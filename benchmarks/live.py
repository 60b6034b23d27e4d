"""What live writes cost.

    python -m benchmarks.live [--seconds 5] [--writers 1,2,4] [--bytes 30000] [--rounds 3] [--folder DIR] [--json FILE]

The log: so many processes append entries of about --bytes to one log below --folder (a temporary folder otherwise)
for so many seconds; then one reads it back. Beside that, one process creates files of that size as the log does,
without anything else (written, synced, linked, the folder synced): what the disk allows. Rounds alternate.
"""

import argparse
import multiprocessing
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from pathlib import Path
from uuid import uuid4

import numpy as np

from benchmarks.support.report import Figure, report
from shoal.index_root import layout
from shoal.index_root.local_entry_store import LocalEntryStore
from shoal.index_root.log import Log
from shoal.index_root.log_entry import DocumentWrite, LogEntry, RetiredState, WrittenPassage, decode_entry, encode_entry
from shoal.index_root.log_writer import LogWriter
from shoal.index_root.storage import Storage

DIM = 384
"""Numbers of a vector."""
TERMS = 60
"""Terms of a passage."""


@dataclass
class Appended:
    """What writers did: milliseconds of each commit, attempts that lost a race, seconds that they wrote."""

    milliseconds: list[float] = field(default_factory=list)
    lost: int = 0
    seconds: float = 0.0

    def add(self, other: "Appended") -> None:
        """Count what another writer did too."""
        self.milliseconds += other.milliseconds
        self.lost += other.lost


def main() -> None:
    """Measure in alternating rounds, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round")
    parser.add_argument("--writers", default="1,2,4", help="processes that write one log, separated by commas")
    parser.add_argument("--bytes", type=int, default=30_000, help="size of an entry, about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-bench-", dir=options.folder) as folder:
        figures = log_figures(options, Path(folder))
    report(f"The log, entries of {len(encode_entry(sized(options.bytes)(1))):,} bytes", figures, options.json)


def log_figures(options: argparse.Namespace, folder: Path) -> list[Figure]:
    """Append with each number of writers, in rounds, and read back."""
    counts = [int(count) for count in options.writers.split(",")]
    bare, reading = Appended(), Appended()
    seen = {count: Appended() for count in counts}
    for number in range(options.rounds):
        add_bare(bare, folder / f"bare-{number}", options)
        for count in counts:
            root = folder / f"{count}-{number}"
            seen[count].add(appended(root, count, options))
            seen[count].seconds += options.seconds
            add_reading(reading, root)
    figures = figures_of("bare file", bare)
    for count, all_writers in seen.items():
        name = f"{count} writer{'s' * (count > 1)}"
        p50, p99 = np.percentile(all_writers.milliseconds, (50, 99))
        goals = (("<= 10", bool(p50 <= 10)), ("<= 100", bool(p99 <= 100))) if count == 1 else ((), ())
        figures += figures_of(name, all_writers, *goals)
        figures.append(Figure(f"{name}: lost races a commit", all_writers.lost / len(all_writers.milliseconds), ""))
    figures.append(Figure("read back", len(reading.milliseconds) / reading.seconds, "entries/s"))
    return figures


def figures_of(
    name: str, seen: Appended, p50_goal: tuple[str, bool] | tuple[()] = (), p99_goal: tuple[str, bool] | tuple[()] = ()
) -> list[Figure]:
    """Return the throughput of all writers together, and the latency of a commit."""
    p50, p99 = np.percentile(seen.milliseconds, (50, 99))
    return [
        Figure(f"{name}: commits", len(seen.milliseconds) / seen.seconds, "1/s"),
        Figure(f"{name}: p50", float(p50), "ms", *p50_goal),
        Figure(f"{name}: p99", float(p99), "ms", *p99_goal),
    ]


def appended(root: Path, count: int, options: argparse.Namespace) -> Appended:
    """Append with so many processes at once, and check that the log has all they committed, without a gap."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count)
    with context.Pool(count, init, (barrier,)) as pool:
        parts = pool.map(write, [(str(root), options.seconds, options.bytes)] * count, chunksize=1)
    total = Appended()
    for part in parts:
        total.add(part)
    end = Log.open(str(root)).end()
    if end != len(total.milliseconds):
        raise SystemExit(f"the log of {count} writers ends at {end} after {len(total.milliseconds)} commits")
    return total


_barrier: Barrier | None = None


def init(barrier: Barrier) -> None:
    """Remember where the writers of a pool wait for each other."""
    global _barrier
    _barrier = barrier


def write(work: tuple[str, float, int]) -> Appended:
    """Append for so many seconds, as one of several processes."""
    root, seconds, size = work
    make, seen, asked = sized(size), Appended(), 0
    writer = LogWriter(Log.open(root), 0)

    def count(position: int) -> LogEntry:
        nonlocal asked
        asked += 1
        return make(position)

    decode_entry(encode_entry(make(1)), "")  # imports what is imported when it is first needed
    assert _barrier is not None
    _barrier.wait()
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        writer.append(count, lambda entry: None)
        seen.milliseconds.append((time.perf_counter() - began) * 1000)
    seen.lost = asked - len(seen.milliseconds)
    return seen


def sized(size: int) -> "Sized":
    """Makes entries of about so many bytes."""
    return Sized(size)


class Sized:
    """Makes entries of about so many bytes, of passages as they come from an encoder."""

    def __init__(self, size: int) -> None:
        random = np.random.default_rng(0)
        terms = [f"term{number}" for number in range(TERMS)]
        text = " ".join(terms) * 2
        each = DIM * 4 + len(text) + TERMS * 12
        self._documents = tuple(
            DocumentWrite(
                f"document {number}",
                RetiredState({}, 0, 0),
                (
                    WrittenPassage(
                        id=f"document {number}",
                        text=text,
                        title=None,
                        metadata={"year": 2020},
                        vector=random.standard_normal(DIM, np.float32),
                        codes=None,
                        terms=dict.fromkeys(terms, 2),
                        length=2 * TERMS,
                    ),
                ),
            )
            for number in range(max(1, round((size - 2500) / each)))
        )

    def __call__(self, position: int) -> LogEntry:
        """Make the entry for a position."""
        return LogEntry(position, uuid4().hex, time.time(), "encoder", None, "analyzer", (), self._documents)


def add_bare(seen: Appended, root: Path, options: argparse.Namespace) -> None:
    """Create files for so many seconds, and do nothing else."""
    store, data = LocalEntryStore(Storage(str(root))), encode_entry(sized(options.bytes)(1))
    began, number = time.perf_counter(), 0
    while (start := time.perf_counter()) < began + options.seconds:
        number += 1
        store.create(layout.log_entry(number), data)
        seen.milliseconds.append((time.perf_counter() - start) * 1000)
    seen.seconds += options.seconds


def add_reading(seen: Appended, root: Path) -> None:
    """Read a log back, from the page cache."""
    began = time.perf_counter()
    seen.milliseconds += [0.0 for _ in Log.open(str(root)).read(0)]
    seen.seconds += time.perf_counter() - began


if __name__ == "__main__":
    main()
