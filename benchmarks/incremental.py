"""What a build of a changed source takes beside one from nothing.

    python -m benchmarks.incremental [--passages 20000] [--changed 0.01] [--encoder hashing:256] [--json FILE]
    python -m benchmarks.incremental --passages 1000000 --words 10 --encoder hashing:64 --without-ray --work DIR

A source of passages of random words is built, a share of them changed (a third each: new text, gone, added), and built
again twice: from the version before, and from nothing. Both hold the same files and, to rounding, the same vectors, or
the benchmark fails. How much an encoder is spared shows with one that takes time, such as --encoder all-MiniLM-L6-v2;
with the weightless default, what remains is all that a build does besides. The second line takes some ten minutes on
two cores, and 2 GiB in DIR. Memory is the peak of one process, mapped files counted.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.processes import build
from benchmarks.support.report import Figure, report
from benchmarks.support.staged_build import build_in_process
from shoal.index_root import versions
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexes import precision
from shoal.shard.stored_rows import StoredRows

WORDS = 30
"""Words of a passage where nothing else is said."""
VOCABULARY = 50_000
"""Distinct words."""
BLOCK = 20_000
"""Vectors that are compared at once."""
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
    parser.add_argument("--words", type=int, default=WORDS, help="words of a passage")
    parser.add_argument("--without-ray", action="store_true", help="run the stages of a build in one process")
    parser.add_argument("--work", type=Path, help="where sources and indexes lie; by default among the temporary files")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()

    def run(folder: Path, source: Path, root: str) -> dict[str, Any]:
        given = {"encoder": options.encoder, "index_kind": options.index_kind, "shards": options.shards}
        if options.without_ray:
            summary, peak = build_in_process(source, folder / root, **given)
            return {**summary, "peak_kib": peak}
        words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        summary, peaks = build(folder, "--source", str(source), "--index", str(folder / root), *words)
        return {**summary, "peak_kib": max(peaks.values())}

    with tempfile.TemporaryDirectory(prefix="shoal-bench-", dir=options.work) as name:
        folder = Path(name)
        old, new = folder / "old.jsonl", folder / "new.jsonl"
        expected = write_sources(old, new, options.passages, options.changed, options.words)
        run(folder, old, "index")
        again, fresh = run(folder, new, "index"), run(folder, new, "fresh")
        rows = figures(again, fresh, expected) + differences(again, fresh)
    report("A build of a changed source, beside one from nothing", rows, options.json)


def figures(again: dict[str, Any], fresh: dict[str, Any], expected: int) -> list[Figure]:
    """What the two builds of the changed source say; expected: passages whose texts are new."""
    share = again["embedded"] / again["passages"]
    goal = SHARE * expected / again["passages"]
    seconds, from_nothing = again["seconds"], fresh["seconds"]
    return [
        Figure("passages", again["passages"], ""),
        Figure("reused", again["reused"], ""),
        Figure("embedded", round(100 * share, 3), "%", f"<= {100 * goal:.3g}", share <= goal),
        Figure("removed", again["removed"], ""),
        Figure("from the version before", seconds["total"], "s"),
        Figure("from nothing", from_nothing["total"], "s"),
        Figure("ratio", round(seconds["total"] / from_nothing["total"], 3), "times"),
        Figure("embedding, from the version before", round(seconds["base"] + seconds["embed"], 3), "s"),
        Figure("embedding, from nothing", from_nothing["embed"], "s"),
        Figure("ratio of embedding", round((seconds["base"] + seconds["embed"]) / from_nothing["embed"], 3), "times"),
        Figure("peak memory, from the version before", again["peak_kib"] / 1024, "MiB"),
        Figure("peak memory, from nothing", fresh["peak_kib"] / 1024, "MiB"),
    ]


def differences(again: dict[str, Any], fresh: dict[str, Any]) -> list[Figure]:
    """How the files of two versions differ: those of ids, texts, metadata and words not at all, vectors by rounding."""
    manifests = [versions.read_manifest(Storage(each["index"]), each["version"]) for each in (again, fresh)]
    mine, theirs = map(files_of, manifests)
    other = len({name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)})
    stored = [
        [StoredRows(Storage(each["index"]), manifest, shard.shard) for shard in manifest.shards]
        for each, manifest in zip((again, fresh), manifests, strict=True)
    ]
    largest = max(map(vector_difference, *stored))
    exact = precision(manifests[0].index.kind, manifests[0].dim) != "float16"
    bound = 1e-6 if exact else 1e-3
    return [
        Figure("files of ids, texts and words", len(mine), ""),
        Figure("of these different", other, "", "0", other == 0),
        Figure("largest difference of a number of a vector", largest, "", f"<= {bound:g}", largest <= bound),
    ]


def files_of(manifest: Manifest) -> dict[str, str]:
    """Checksums of the files of a version that copying must not change: ids, texts, metadata and words."""
    kept = ("passages.arrow", "metadata.arrow", "documents.npy", "order.npy", "terms.arrow", "lexical/")
    return {file.path: file.sha256 for file in manifest.all_files() if any(name in file.path for name in kept)}


def vector_difference(first: StoredRows, second: StoredRows) -> float:
    """The largest difference of two shards' vectors, row by row; infinite for another number of rows."""
    if first.count != second.count:
        return float("inf")
    largest = 0.0
    for start in range(0, first.count, BLOCK):
        rows = np.arange(start, min(start + BLOCK, first.count))
        largest = max(largest, float(np.abs(first.vectors(rows) - second.vectors(rows)).max()))
    return largest


def write_sources(old: Path, new: Path, count: int, share: float, words: int) -> int:
    """Write a corpus and its changed state, and return how many texts of the latter are new."""
    random = np.random.default_rng(11)
    gone_from, added = count - round(count * share / 3), round(count * share / 3)
    changes = set(random.choice(gone_from, round(count * share / 3), replace=False).tolist())
    with old.open("w") as before, new.open("w") as after:
        for start in range(0, count + added, 10_000):
            rows = min(10_000, count + added - start)
            texts = passages(random, rows, words)
            other = passages(random, rows, words) if changes else texts
            for row in range(rows):
                number = start + row
                if number < count:
                    before.write(line(number, texts[row]))
                if number in changes:
                    after.write(line(number, other[row]))
                elif number < gone_from or number >= count:
                    after.write(line(number, texts[row]))
    return len(changes) + added


def passages(random: np.random.Generator, rows: int, words: int) -> Sequence[str]:
    """Texts of words that are as unequally frequent as those of a language: the n-th in proportion to 1 / n."""
    chosen = (VOCABULARY ** random.random((rows, words))).astype(np.int64) - 1
    return [" ".join(f"w{word:x}" for word in row) for row in chosen.tolist()]


def line(number: int, text: str) -> str:
    """One record of the source."""
    return f'{{"id": "p{number}", "text": "{text}"}}\n'


if __name__ == "__main__":
    main()
