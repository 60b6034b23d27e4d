"""What each reranker adds to stage one: `python -m benchmarks.rerankers [--reranker NAME_OR_FOLDER ...]`.

Every collection is searched by vectors and in hybrid mode with the server's pipeline, and each reranker orders the best
25 and the best 50. nDCG@10 comes from ir-measures, the p-value of the difference from stage one from a paired
randomization test, and the time from single queries over passages that the reranker has not read.
"""

import argparse
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.support.corpora import build, keep, median_ms
from benchmarks.support.report import Figure, report
from shoal.encoders import TokenEncoder, load_encoder
from shoal.evaluation.asking import LocalAsker, ask_all
from shoal.evaluation.dataset import read_dataset
from shoal.evaluation.evaluate import with_the_rest
from shoal.evaluation.measures import MAIN, judge, paired_p_value
from shoal.evaluation.runs import DEPTH, Run
from shoal.index_root.storage import Storage
from shoal.modes import Mode
from shoal.rerankers import Reranker, load_reranker
from shoal.rerankers.late_interaction import LateInteraction
from shoal.settings import EMBEDDED_ENCODER, EncoderSettings, EvaluateSettings, RerankerSettings, ServeSettings
from shoal.system.machine import usable_cores

DEFAULT = "late_interaction"
MODES: tuple[Mode, ...] = ("dense", "hybrid")
DEPTHS = (25, 50)
COLLECTIONS = ("scifact", "cranfield", "stackexchange-5sites", "hotpotqa-500")
TOKEN_CACHE = 6 * 2**30
GAIN, LOSS = 0.03, -0.005


@dataclass(frozen=True, slots=True)
class Reranked:
    """One reranker over the best `depth` of one mode in one collection; `p_value` is of `gain`, over stage one."""

    collection: str
    mode: Mode
    reranker: str
    depth: int
    ndcg: float
    gain: float
    p_value: float


def main() -> None:
    """Measure every reranker on all collections, print the tables, and fail if the default misses its goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("SHOAL_DATA", "../shared/data")) / "beir"
    parser.add_argument("--dataset", type=Path, nargs="+", default=[data / name for name in COLLECTIONS])
    parser.add_argument("--reranker", nargs="+", default=[DEFAULT], help="as `shoal serve` takes it, or folders")
    parser.add_argument("--queries", type=int, default=500, help="ask at most so many of each, sampled by a fixed seed")
    parser.add_argument("--dtype", default="auto", help="precision of the rerankers")
    parser.add_argument("--cache", type=Path, help="folder that keeps vectors (3 GB for all collections)")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    found: list[Reranked] = []
    stage_one: dict[tuple[str, Mode], float] = {}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        for place in options.dataset:
            measure(place, options, Path(folder), found, stage_one)
    times = {
        (name, depth): median_ms(load(name, options, 0), options.dataset[0], depth)
        for name in options.reranker
        for depth in DEPTHS
    }
    show(found, stage_one, times)
    figures = [
        Figure(f"{one.collection}, {one.mode}, {one.reranker} over {one.depth}: nDCG@10", one.ndcg, "") for one in found
    ]
    figures += [Figure(f"{name} over {depth}: a query", ms, "ms") for (name, depth), ms in times.items()]
    gains = [one.gain for one in found if (one.reranker, one.mode, one.depth) == (DEFAULT, "dense", DEPTHS[-1])]
    if gains:
        mean, least = statistics.mean(gains), min(gains)
        figures.append(Figure(f"{DEFAULT} over dense, mean", mean, "", f">= {GAIN}", mean >= GAIN))
        figures.append(Figure(f"{DEFAULT} over dense, least", least, "", f">= {LOSS}", least >= LOSS))
    report(f"Rerankers over {EMBEDDED_ENCODER}, {options.threads} threads", figures, options.json)


def measure(
    place: Path,
    options: argparse.Namespace,
    folder: Path,
    found: list[Reranked],
    stage_one: dict[tuple[str, Mode], float],
) -> None:
    """Index one collection, and add what each reranker makes of it."""
    dataset = read_dataset(str(place)).sample(options.queries)
    encoder = load_encoder(EncoderSettings(encoder=EMBEDDED_ENCODER, dtype="float32", threads=options.threads))
    assert isinstance(encoder, TokenEncoder)
    kept = keep(place, dataset, encoder, options.cache or folder / "vectors")
    root = Storage(str(folder / place.name))
    manifest = build(place, root, kept, argparse.Namespace(encoder=EMBEDDED_ENCODER, threads=options.threads))
    timeout_ms = EvaluateSettings(dataset=str(place)).timeout_ms

    def ask(reranker: Reranker | None, name: str, depth: int) -> list[Run]:
        with LocalAsker(
            root, manifest, kept, reranker, ServeSettings(index=root.uri, reranker=name), timeout_ms
        ) as asker:
            return [ask_all(asker, dataset.queries, mode, reranker is not None, depth) for mode in MODES]

    plain = ask(None, "none", DEPTH)
    base = {row.name: row for row in judge(plain, dataset.judgements)}
    stage_one |= {(place.name, mode): base[mode].values[MAIN] for mode in MODES}
    for name in options.reranker:
        # In float32 like the index: what the encoder has kept serves both.
        reranker = LateInteraction(kept, 0) if name == DEFAULT else load(name, options, TOKEN_CACHE)
        for depth in DEPTHS:
            runs = with_the_rest([*plain, *ask(reranker, name, depth)])
            for mode, row in zip(MODES, judge(runs, dataset.judgements)[len(plain) :], strict=True):
                value, gain = row.values[MAIN], row.values[MAIN] - base[mode].values[MAIN]
                p_value = paired_p_value(row.by_query, base[mode].by_query)
                found.append(Reranked(place.name, mode, name, depth, value, gain, p_value))
                print(found[-1], file=sys.stderr, flush=True)


def load(name: str, options: argparse.Namespace, cache_bytes: int) -> Reranker:
    """Load a reranker as a server would, to remember so many bytes of token vectors."""
    return load_reranker(
        RerankerSettings(reranker=name, dtype=options.dtype, threads=options.threads, token_cache_bytes=cache_bytes)
    )


def show(found: list[Reranked], stage_one: dict[tuple[str, Mode], float], times: dict[tuple[str, int], float]) -> None:
    """Print one table a mode, which can be pasted into Markdown: nDCG@10 and the p-value of its difference."""
    collections = list(dict.fromkeys(collection for collection, _ in stage_one))
    for mode in MODES:
        table = Table(box=None, pad_edge=False)
        for heading in (mode, *collections, "mean", "ms"):
            table.add_column(f"| {heading}")
        table.add_column("|")
        before = [stage_one[collection, mode] for collection in collections]
        table.add_row(
            "| stage one", *(f"| {value:.3f}" for value in before), f"| {statistics.mean(before):.3f}", "| ", "|"
        )
        for (name, depth), ms in times.items():
            own = {one.collection: one for one in found if (one.mode, one.reranker, one.depth) == (mode, name, depth)}
            row = [own[collection] for collection in collections]
            mean = statistics.mean(one.ndcg for one in row)
            cells = (f"| {one.ndcg:.3f} (p {one.p_value:.2g})" for one in row)
            table.add_row(f"| {Path(name).name}, best {depth}", *cells, f"| {mean:.3f}", f"| {ms:.0f}", "|")
        Console(width=180).print(table)


if __name__ == "__main__":
    main()
