"""Memory of a build: the peak of every process must not depend on the size of the corpus.

    python -m benchmarks.build_memory [--small 200000] [--large 2000000] [--json FILE]

Builds two corpora of 200-byte passages with the weightless encoder and the same number of shards, and compares the peak
resident memory (VmHWM, which counts mapped files and shared memory too) of each kind of process.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.support.processes import build
from benchmarks.support.report import Figure, report

PASSAGE_BYTES = 200
VOCABULARY = 200_000
GOAL = 1.3
_LETTERS = str.maketrans("0123456789", "ghijklmnop")


def main() -> None:
    """Run both builds, print the table, and fail if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=200_000, help="passages of the smaller corpus")
    parser.add_argument("--large", type=int, default=2_000_000, help="passages of the larger corpus")
    parser.add_argument("--shards", type=int, default=4, help="shards of both; 0 takes the default for each size")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        small, large = (peaks(Path(folder), count, options.shards) for count in (options.small, options.large))
    figures = []
    for kind in sorted(small.keys() & large.keys()):
        for count, highest in ((options.small, small), (options.large, large)):
            figures.append(Figure(f"{kind}, {count:,} passages", round(highest[kind] / 1024, 1), "MiB"))
        ratio = large[kind] / small[kind]
        figures.append(Figure(f"{kind}, growth", round(ratio, 3), "times", f"<= {GOAL}", ratio <= GOAL))
    report("Peak resident memory of the processes of a build", figures, options.json)


def peaks(folder: Path, count: int, shards: int) -> dict[str, int]:
    """Build an index of `count` passages and return the highest VmHWM of each kind of process, in KiB."""
    source = folder / f"{count}.jsonl"
    write_corpus(source, count)
    options = ["--encoder", "hashing:64", "--index-kind", "flat", *(["--shards", str(shards)] if shards else [])]
    summary, highest = build(folder, "--source", str(source), "--index", str(folder / f"index-{count}"), *options)
    assert summary["passages"] == count
    source.unlink()
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


if __name__ == "__main__":
    main()
