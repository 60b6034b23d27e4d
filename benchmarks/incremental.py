"""What a build of a changed source takes beside one from nothing.

    python -m benchmarks.incremental [--passages 20000] [--changed 0.01] [--encoder hashing:256] [--json FILE]

A source of passages of random words is built, a share of them changed (a third each: new text, gone, added), and built
again twice: from the version before, and from nothing. Both hold the same files, or the benchmark fails. How much an
encoder is spared shows with one that takes time, such as --encoder all-MiniLM-L6-v2; with the weightless default, what
remains is all that a build does besides.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.processes import build
from benchmarks.support.report import Figure, report
from shoal.index_root import versions
from shoal.index_root.storage import Storage

WORDS, VOCABULARY = 30, 50_000
SHARE = 1.1
"""Most passages that are embedded, as a multiple of those whose texts are new."""


def main() -> None:
    """Build three times, print the table, and fail if more was embedded than had changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=20_000, help="passages of the source")
    parser.add_argument("--changed", type=float, default=0.01, help="share of them that changes")
    parser.add_argument("--encoder", default="hashing:256", help="as for shoal build")
    parser.add_argument("--index-kind", default="flat", help="as for shoal build")
    parser.add_argument("--shards", type=int, default=2, help="shards of the index")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()

    def run(folder: Path, source: Path, root: str) -> dict[str, Any]:
        words = ["--encoder", options.encoder, "--index-kind", options.index_kind, "--shards", str(options.shards)]
        summary, _ = build(folder, "--source", str(source), "--index", str(folder / root), *words)
        return summary

    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        folder = Path(name)
        old, new = folder / "old.jsonl", folder / "new.jsonl"
        expected = write_sources(old, new, options.passages, options.changed)
        run(folder, old, "index")
        again, fresh = run(folder, new, "index"), run(folder, new, "fresh")
        same = files_of(again) == files_of(fresh)
    report("A build of a changed source, beside one from nothing", figures(again, fresh, expected, same), options.json)


def figures(again: dict[str, Any], fresh: dict[str, Any], expected: int, same: bool) -> list[Figure]:
    """What the two builds of the changed source say; expected: passages whose texts are new."""
    share = again["embedded"] / again["passages"]
    goal = SHARE * expected / again["passages"]
    seconds, from_nothing = again["seconds"], fresh["seconds"]
    return [
        Figure("passages", again["passages"], ""),
        Figure("embedded", round(100 * share, 3), "%", f"<= {100 * goal:.3g}", share <= goal),
        Figure("removed", again["removed"], ""),
        Figure("equal files but for rounding and codes", float(same), "", "1", same),
        Figure("from the version before", seconds["total"], "s"),
        Figure("from nothing", from_nothing["total"], "s"),
        Figure("ratio", round(seconds["total"] / from_nothing["total"], 3), "times"),
        Figure("embedding, from the version before", round(seconds["base"] + seconds["embed"], 3), "s"),
        Figure("embedding, from nothing", from_nothing["embed"], "s"),
        Figure("ratio of embedding", round((seconds["base"] + seconds["embed"]) / from_nothing["embed"], 3), "times"),
    ]


def files_of(summary: dict[str, Any]) -> dict[str, str]:
    """Checksums of the files of a version that copying must not change: ids, texts, metadata and words."""
    manifest = versions.read_manifest(Storage(summary["index"]), summary["version"])
    kept = ("passages.arrow", "metadata.arrow", "documents.npy", "order.npy", "lexical/")
    return {file.path: file.sha256 for file in manifest.all_files() if any(name in file.path for name in kept)}


def write_sources(old: Path, new: Path, count: int, share: float) -> int:
    """Write a corpus and its changed state, and return how many texts of the latter are new."""
    random = np.random.default_rng(11)
    gone_from, added = count - round(count * share / 3), round(count * share / 3)
    changes = set(random.choice(gone_from, round(count * share / 3), replace=False).tolist())
    with old.open("w") as before, new.open("w") as after:
        for start in range(0, count + added, 10_000):
            rows = min(10_000, count + added - start)
            texts = passages(random, rows)
            other = passages(random, rows) if changes else texts
            for row in range(rows):
                number = start + row
                if number < count:
                    before.write(line(number, texts[row]))
                if number in changes:
                    after.write(line(number, other[row]))
                elif number < gone_from or number >= count:
                    after.write(line(number, texts[row]))
    return len(changes) + added


def passages(random: np.random.Generator, rows: int) -> Sequence[str]:
    """Texts of words that are as unequally frequent as those of a language: the n-th in proportion to 1 / n."""
    chosen = (VOCABULARY ** random.random((rows, WORDS))).astype(np.int64) - 1
    return [" ".join(f"w{word:x}" for word in words) for words in chosen.tolist()]


def line(number: int, text: str) -> str:
    """One record of the source."""
    return f'{{"id": "p{number}", "text": "{text}"}}\n'


if __name__ == "__main__":
    main()
