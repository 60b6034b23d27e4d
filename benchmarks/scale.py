"""How build and first stage grow with the corpus.

    python -m benchmarks.scale --output FOLDER [--passages 10000 100000 1000000] [--full] [--json FILE]

Clustered vectors of 384 dimensions go through the real build (`--vectors-field`) and the real retrievers, in their
default settings; --full adds 10^7 passages, for which the temporary folder needs 60 GB. Queries lie around the same
centres as the passages but are none of them, so that the recall is not that of what the build was tuned with. Each is
asked one at a time on one thread, of

* the first stage: retrievers as a replica runs them, with ids, texts and the merge, without Ray's hop between replicas;
* their vector search alone: scores and rows;
* bare FAISS with the same files and parameters in its own memory, which gives scores and rows.

The last two are compared shard by shard, so that never more than one lies in memory twice, and in turns, because
whoever follows finds the caches warm; times of all shards add up. They have been asked everything once before: what the
first read of a mapped page costs, bare FAISS has paid when it read its file.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.support.processes import build
from benchmarks.support.report import Figure, report
from serve.replicas.shard import Retriever
from shoal.capacity.synthetic import CLUSTERS, DIM, Centres
from shoal.index_root import layout, versions
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexes import index_kind
from shoal.records import FloatArray
from shoal.search.merge import merge
from shoal.settings import IndexSettings, ServeSettings
from shoal.shard.messages import ShardSearch, dense_queries

SIZES, FULL = (10_000, 100_000, 1_000_000), 10_000_000
BLOCK = 10_000
GROUP = 1024
"""Rows of a Parquet row group: small enough that no build has to write the file out again in pieces."""
RECALL, SLOWER, GROWTH = 0.95, 1.2, 1.3
TOP_K = 10
WARM_UP = 20
DEADLINE_S = 60.0
ENOUGH = 100_000
"""Passages from which on the memory of a build is compared: a smaller one is Python and Ray."""


@dataclass(frozen=True)
class Outcome:
    """What one size gave. peaks: MiB by kind of process. stage_ms, search_ms, bare_ms: float64 (queries,)."""

    kind: str
    search: str
    shards: int
    stored: int
    """Bytes of all files."""
    build_s: float
    peaks: dict[str, float]
    stage_ms: np.ndarray
    search_ms: np.ndarray
    bare_ms: np.ndarray
    recall: float
    bare_recall: float

    @property
    def slower(self) -> float:
        """Median of the vector search over that of bare FAISS."""
        return float(np.median(self.search_ms) / np.median(self.bare_ms))


def main() -> None:
    """Run all sizes, plot and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the plot")
    parser.add_argument("--passages", type=int, nargs="+", default=SIZES, help="sizes")
    parser.add_argument("--full", action="store_true", help=f"also {FULL:,} passages")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    faiss.omp_set_num_threads(1)
    outcomes = {}
    for count in sorted({*options.passages, *([FULL] if options.full else [])}):
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
            outcomes[count] = run(Path(folder), count, options.queries)
    options.output.mkdir(parents=True, exist_ok=True)
    plot(outcomes, options.output / "scale.png")
    report(f"Scale, clustered vectors of {DIM} dimensions, one search thread", figures(outcomes), options.json)


def run(folder: Path, count: int, asked: int) -> Outcome:
    """Build an index of `count` passages, and ask it."""
    centres = Centres(np.random.default_rng(1))
    chance = np.random.default_rng((1, 0))
    queries = centres.around(chance.integers(CLUSTERS, size=asked), chance)
    nearest = write_corpus(folder / "corpus.parquet", blocks(centres, count), queries)
    root = folder / "index"
    options = ["--encoder", f"hashing:{DIM}", "--vectors-field", "vector", "--no-lexical"]
    summary, peaks = build(folder, "--source", str(folder / "corpus.parquet"), "--index", str(root), *options)
    assert (summary["passages"], summary["rejected"]) == (count, 0)
    (folder / "corpus.parquet").unlink()

    manifest = versions.current_manifest(Storage(str(root)))
    # First, because bare FAISS reads the files, and then they are in the page cache of the system.
    bare_found, search_ms, bare_ms = alternate(root, manifest, queries)
    found, stage_ms = asyncio.run(first_stage(root, manifest, queries))
    return Outcome(
        kind=manifest.index.kind,
        search=manifest.index.search,
        shards=len(manifest.shards),
        stored=sum(file.bytes for shard in manifest.shards for file in shard.files),
        build_s=summary["seconds"]["total"],
        peaks={kind: round(kib / 1024, 1) for kind, kib in peaks.items()},
        stage_ms=np.array(stage_ms),
        search_ms=search_ms,
        bare_ms=bare_ms,
        recall=recall(found, nearest),
        bare_recall=recall(bare_found, nearest),
    )


def blocks(centres: Centres, count: int) -> Iterator[FloatArray]:
    """Yield the vectors of the corpus, float32 (n, dim)."""
    for start in range(0, count, BLOCK):
        chance = np.random.default_rng((2, start))
        yield centres.around(chance.integers(CLUSTERS, size=min(BLOCK, count - start)), chance)


def write_corpus(path: Path, vectors: Iterator[FloatArray], queries: FloatArray) -> list[set[str]]:
    """Write passages with their vectors, and return the ids of the nearest of each query by exact search."""
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("vector", pa.list_(pa.float32(), DIM))])
    scores = np.zeros((len(queries), 0), np.float32)
    rows = np.zeros((len(queries), 0), np.int64)
    start = 0
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for block in vectors:
            numbers = np.arange(start, start + len(block))
            start += len(block)
            ids = pa.array([f"p{number}" for number in numbers])
            column = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), DIM)
            writer.write_table(pa.table([ids, ids, column], schema=schema), row_group_size=GROUP)
            scores = np.concatenate([scores, queries @ block.T], axis=1)
            rows = np.concatenate([rows, np.broadcast_to(numbers, (len(queries), len(block)))], axis=1)
            best = np.argpartition(-scores, TOP_K - 1, axis=1)[:, :TOP_K]
            scores, rows = np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)
    return [{f"p{number}" for number in line} for line in rows.tolist()]


def bare_index(folder: Path, parameters: str) -> Any:
    """The vectors of a shard in FAISS and nothing else: what is compressed is refined with float16 vectors."""
    search = dict(part.split("=") for part in parameters.split(",") if part)
    index = faiss.read_index(str(folder / layout.VECTORS))
    if "nprobe" in search:
        faiss.extract_index_ivf(index).nprobe = int(search["nprobe"])
    if (folder / layout.EXACT).exists():
        index = refined(index, np.load(folder / layout.EXACT, mmap_mode="r"), int(search["refine"]))
    return index


def refined(coarse: Any, vectors: np.ndarray, refine: int) -> Any:
    """Re-score what an index finds with float16 vectors (n, dim) in memory, as FAISS itself does it."""
    exact = faiss.IndexScalarQuantizer(DIM, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for start in range(0, len(vectors), BLOCK):
        exact.add(vectors[start : start + BLOCK].astype(np.float32))
    index = faiss.IndexRefine(coarse, exact)
    index.k_factor = refine
    return index


async def first_stage(root: Path, manifest: Manifest, queries: FloatArray) -> tuple[list[list[str]], list[float]]:
    """Ask the retrievers. Returns ids and milliseconds of every query."""
    settings = ServeSettings(index=str(root), reranker="none")
    retrievers = [Retriever(settings, entry.shard) for entry in manifest.shards]
    found, milliseconds = [], []
    for number in range(-WARM_UP, len(queries)):
        began = time.perf_counter()
        deadline = time.monotonic() + DEADLINE_S
        call = ShardSearch(manifest.version, dense_queries(queries[number][np.newaxis]), TOP_K, with_passages=True)
        answers = await asyncio.gather(*(retriever.search(call, deadline) for retriever in retrievers))
        hits = [(shard, answer.by_retriever["dense"], 0) for shard, answer in enumerate(answers)]
        ids = [candidate.id for candidate in merge(hits, TOP_K)]
        if number >= 0:
            milliseconds.append(1000 * (time.perf_counter() - began))
            found.append(ids)
    return found, milliseconds


def alternate(root: Path, manifest: Manifest, queries: FloatArray) -> tuple[list[list[str]], np.ndarray, np.ndarray]:
    """Ask ours and bare FAISS in turns. Returns the ids that FAISS found, and the milliseconds of ours and of FAISS."""
    kind = index_kind(manifest.index.kind)
    settings = IndexSettings(index_kind=manifest.index.kind, index_search=manifest.index.search)
    places: list[list[tuple[float, str]]] = [[] for _ in queries]
    milliseconds = np.zeros((2, len(queries)))
    for entry in manifest.shards:
        folder = root / layout.shard_dir(manifest.version, entry.shard)
        sides = [kind.open(folder / layout.VECTORS, settings, 1), bare_index(folder, manifest.index.search)]
        with pa.memory_map(str(folder / layout.PASSAGES)) as file:
            ids = pa.ipc.open_file(file).read_all().column("id")
            for number in range(-len(queries), len(queries)):
                query = queries[number][np.newaxis]
                for side in (0, 1) if number % 2 else (1, 0):
                    began = time.perf_counter()
                    scores, rows = sides[side].search(query, TOP_K)
                    if number >= 0:
                        milliseconds[side, number] += 1000 * (time.perf_counter() - began)
                        if side == 1:
                            hits = zip(scores[0].tolist(), rows[0].tolist(), strict=True)
                            places[number] += [(score, ids[row].as_py()) for score, row in hits if row >= 0]
    best = [[one for _, one in sorted(found, reverse=True)[:TOP_K]] for found in places]
    return best, milliseconds[0], milliseconds[1]


def recall(found: Sequence[Sequence[str]], nearest: Sequence[set[str]]) -> float:
    """Share of the nearest that were found."""
    shares = [len(wanted & set(ids)) / len(wanted) for ids, wanted in zip(found, nearest, strict=True)]
    return float(np.mean(shares))


def figures(outcomes: dict[int, Outcome]) -> list[Figure]:
    """What is reported of every size, and what has to hold from one to the next."""
    shown = []
    for count, one in outcomes.items():
        name = f"{count:,}"
        searched = f"{one.kind} {one.search}".strip()
        p50, p99 = np.percentile(one.stage_ms, [50, 99])
        shown += [
            Figure(f"{name}: build, {one.shards} shards", one.build_s, "s"),
            Figure(f"{name}: files", one.stored / 2**20, "MiB"),
            *(Figure(f"{name}: peak memory, {kind}", one.peaks[kind], "MiB") for kind in sorted(one.peaks)),
            Figure(f"{name}: first stage, p50", float(p50), "ms"),
            Figure(f"{name}: first stage, p99", float(p99), "ms"),
            Figure(f"{name}: bare FAISS, p50", float(np.median(one.bare_ms)), "ms"),
            Figure(f"{name}: vector search, p50", float(np.median(one.search_ms)), "ms"),
            Figure(f"{name}: vector search over bare FAISS", one.slower, "times", f"<= {SLOWER}", one.slower <= SLOWER),
            Figure(f"{name}: recall@{TOP_K}, {searched}", one.recall, "", f">= {RECALL}", one.recall >= RECALL),
            Figure(f"{name}: recall@{TOP_K} of bare FAISS", one.bare_recall, ""),
        ]
    compared = [(count, one) for count, one in outcomes.items() if count >= ENOUGH]
    for (small, before), (large, after) in pairwise(compared):
        for kind in sorted(before.peaks.keys() & after.peaks.keys()):
            ratio = after.peaks[kind] / before.peaks[kind]
            # A task that fills an index that is trained holds its shard's, so only equal shards compare.
            flat = kind != "task worker" or before.shards * large == after.shards * small
            goal = (f"<= {GROWTH}", ratio <= GROWTH) if flat else ("", None)
            shown.append(Figure(f"{small:,} to {large:,}: growth, {kind}", ratio, "times", *goal))
    return shown


def plot(outcomes: dict[int, Outcome], path: Path) -> None:
    """Draw time of build, peak memory, latency and recall over the number of passages."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes, found = list(outcomes), list(outcomes.values())
    figure, ((built, memory), (latency, recalls)) = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
    built.plot(sizes, [one.build_s for one in found], marker="o")
    for kind in ("driver", "embedding worker", "task worker"):
        memory.plot(sizes, [one.peaks.get(kind, np.nan) for one in found], marker="o", label=kind)
    for name, percentile in (("p50", 50), ("p99", 99)):
        for side, times in (
            ("first stage", [one.stage_ms for one in found]),
            ("vector search", [one.search_ms for one in found]),
            ("bare FAISS", [one.bare_ms for one in found]),
        ):
            latency.plot(sizes, [np.percentile(ms, percentile) for ms in times], marker="o", label=f"{side}, {name}")
    recalls.plot(sizes, [one.recall for one in found], marker="o", label="first stage")
    recalls.axhline(RECALL, color="#999", linewidth=0.8, label="goal")
    for axis, title in (
        (built, "build, s"),
        (memory, "peak memory of a process, MiB"),
        (latency, "first stage, ms"),
        (recalls, f"recall@{TOP_K}"),
    ):
        axis.set(xscale="log", xlabel="passages", title=title)
        if axis in (built, latency):
            axis.set_yscale("log")
        if axis is not built:
            axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
