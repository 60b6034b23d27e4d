"""What stored token vectors cost and keep: `python -m benchmarks.stored [--dataset DIR ...] [--cache DIR]`.

Every collection is encoded, searched and reranked once, by late interaction computed on the fly over the best 50 of
dense and of hybrid search. The same candidates are then ordered again with token vectors as a build would store them,
for many numbers of dimensions and bits, and with neighbouring tokens averaged in pairs: nDCG@10 over bytes per passage.
Then the default layout shortens the list that the reranker reads (`--shortlist`), beside a list that is just cut off.
Then the cost of a query is measured, in this process and by single queries, and that of a build.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks.support.beir import read_jsonl
from benchmarks.support.corpora import BM25, build
from benchmarks.support.report import Figure, report
from benchmarks.support.scored import Scored
from benchmarks.support.stored_tokens import MODES, Collection, Layout, Scores, read, stored_scores
from shoal.encoders import TokenEncoder, load_encoder
from shoal.evaluation.asking import LocalAsker
from shoal.evaluation.dataset import read_dataset
from shoal.evaluation.measures import MAIN, judge
from shoal.evaluation.runs import Run
from shoal.index_root.storage import Storage
from shoal.indexing.embed import encode_with_tokens
from shoal.late import codec
from shoal.late.codec import code_width
from shoal.modes import Mode
from shoal.settings import EMBEDDED_ENCODER, EncoderSettings, LateSettings, ServeSettings
from shoal.system.machine import usable_cores

COLLECTIONS = [name for name in BM25 if name != "boolq-dev"]
DIMS = {2: (32, 64, 96, 128, 192, 256), 4: (32, 64, 96, 128), 1: (128, 256), 8: (64,)}
"""Dimensions that are tried with so many bits."""
AVERAGED = {2: (128, 256), 4: (128,)}
SHORTLISTS = (12, 16, 25)
LOSS, BYTES, SLOWER = 0.01, 8192, 1.5
"""What the default may lose in nDCG@10 in any collection, what it may take for a passage, and its share of latency."""
TOP_KS = (25, 50)
LATENCY_QUERIES = 200
BUILD_PASSAGES = 256
_OFFSET_BYTES = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """nDCG@10 by mode and collection, and the mean bytes of a passage by collection."""

    ndcg: dict[Mode, list[float]]
    passage_bytes: list[float]

    def mean(self, mode: Mode) -> float:
        """Over the collections."""
        return statistics.mean(self.ndcg[mode])


def main() -> None:
    """Measure all layouts on all collections, print tables, draw the plot, and fail if the default misses a goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("SHOAL_DATA", "../shared/data")) / "beir"
    parser.add_argument("--dataset", type=Path, nargs="+", default=[data / name for name in COLLECTIONS])
    parser.add_argument("--queries", type=int, default=500, help="ask at most so many of each, sampled by a fixed seed")
    parser.add_argument("--dtype", default="auto", help="precision of the encoder")
    parser.add_argument("--cache", type=Path, help="folder that keeps vectors (3 GB for all collections)")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--skip", choices=["sweep", "cost"], help="leave a half out")
    parser.add_argument("--plot", type=Path, help="draw nDCG@10 over bytes per passage into this PNG file")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        if options.skip != "sweep":
            figures += sweep(options, Path(folder))
        if options.skip != "cost":
            figures += cost(options, Path(folder))
    report(f"Stored token vectors of {EMBEDDED_ENCODER}, {options.threads} threads", figures, options.json)


def sweep(options: argparse.Namespace, folder: Path) -> list[Figure]:
    """Try all layouts on all collections."""
    collections = [read(place, options, folder) for place in options.dataset]
    threadpool_limits(options.threads, user_api="blas")
    outcomes: dict[Layout | None, Outcome] = {None: on_the_fly(collections)}
    default = LateSettings()
    layouts = [Layout(dims, bits) for bits, several in DIMS.items() for dims in several]
    layouts += [Layout(dims, bits, 2) for bits, several in AVERAGED.items() for dims in several]
    chosen = Layout(default.late_dims, default.late_bits)
    shortened_lists: dict[str, Outcome] = {}
    for one in layouts:
        scores = [stored_scores(collection, one) for collection in collections]
        outcomes[one] = outcome(collections, one, scores)
        print(one.name, *(f"{mode} {outcomes[one].mean(mode):.4f}" for mode in MODES), file=sys.stderr, flush=True)
        if one == chosen:
            for count in SHORTLISTS:
                for name, by in (("first", None), ("best", scores)):
                    of = "stored tokens" if by else "stage one"
                    lists = [
                        shortlisted(each, by[place] if by else None, count) for place, each in enumerate(collections)
                    ]
                    shortened_lists[f"{name} {count} of {of}"] = outcome(collections, one, lists)
    names = [place.name for place in options.dataset]
    for mode in MODES:
        show(mode, names, {name_of(each): found for each, found in outcomes.items()})
        show(mode, names, {name_of(None): outcomes[None], **shortened_lists})
    if options.plot:
        plot(outcomes, options.plot)
    figures = []
    for each, found in outcomes.items():
        name = name_of(each)
        figures += [Figure(f"{name}, {mode}: mean nDCG@10", found.mean(mode), "") for mode in MODES]
        figures.append(Figure(f"{name}: bytes per passage", statistics.mean(found.passage_bytes), "B"))
    for name, found in shortened_lists.items():
        figures += [Figure(f"reranker over the {name}, {mode}: mean nDCG@10", found.mean(mode), "") for mode in MODES]
    best, base = outcomes[chosen], outcomes[None]
    for mode in MODES:
        lost = max(before - after for before, after in zip(base.ndcg[mode], best.ndcg[mode], strict=True))
        figures.append(Figure(f"default, {mode}: most nDCG@10 lost", lost, "", f"<= {LOSS}", lost <= LOSS))
    largest = max(best.passage_bytes)
    figures.append(Figure("default: bytes per passage, largest mean", largest, "B", f"<= {BYTES}", largest <= BYTES))
    return figures


def on_the_fly(collections: Sequence[Collection]) -> Outcome:
    """What was recorded."""
    ndcg: dict[Mode, list[float]] = {mode: [] for mode in MODES}
    for one in collections:
        for mode in MODES:
            ndcg[mode].append(judged(one, mode, {query: scored.rerank for query, scored in one.recorded[mode].items()}))
    return Outcome(ndcg, [2 * one.tokens.shape[1] * float(one.all_lengths.mean()) for one in collections])


def outcome(collections: Sequence[Collection], layout: Layout, scores: Sequence[Scores]) -> Outcome:
    """Order the candidates of all collections by these scores; what is stored is stored in this way."""
    ndcg: dict[Mode, list[float]] = {
        mode: [judged(one, mode, given[mode]) for one, given in zip(collections, scores, strict=True)] for mode in MODES
    }
    lengths = [float((-(-one.all_lengths // layout.pooled)).mean()) for one in collections]
    return Outcome(ndcg, [code_width(layout.dims, layout.bits) * length + _OFFSET_BYTES for length in lengths])


def shortlisted(one: Collection, stored: Scores | None, count: int) -> Scores:
    """What the reranker gives the best `count` candidates of every query, by stored tokens or by stage one."""
    return {
        mode: {
            query: shortened(scored, stored[mode][query] if stored else None, count)
            for query, scored in one.recorded[mode].items()
        }
        for mode in MODES
    }


def shortened(scored: Scored, stored: NDArray[np.float64] | None, count: int) -> NDArray[np.float64]:
    """What the reranker gives the best `count` candidates by stored tokens or stage one; others come behind."""
    order = np.arange(len(scored.ids))
    if stored is not None:
        order = np.argsort(-(stored + scored.final - scored.rerank), kind="stable")
    scores = np.full(len(scored.ids), -10.0)  # late interaction and what it is blended with lie within -2 and 2
    scores[order[:count]] = scored.rerank[order[:count]]
    return scores


def judged(one: Collection, mode: Mode, scores: dict[str, NDArray[np.float64]]) -> float:
    """nDCG@10 of the candidates in the order of these scores, and of what stage one adds to them."""
    rankings = {}
    for query, scored in one.recorded[mode].items():
        final = scores[query] + scored.final - scored.rerank
        rankings[query] = [scored.ids[place] for place in np.argsort(-final, kind="stable")]
    [row] = judge([Run("run", rankings)], one.dataset.judgements)
    return row.values[MAIN]


def cost(options: argparse.Namespace, folder: Path) -> list[Figure]:
    """What a query takes with the first stage alone and with stored tokens, and what a build takes for them."""
    place = options.dataset[0]
    encoder = load_encoder(EncoderSettings(encoder=EMBEDDED_ENCODER, dtype=options.dtype, threads=options.threads))
    root = Storage(str(folder / "stored"))
    wanted = argparse.Namespace(encoder=EMBEDDED_ENCODER, threads=options.threads)
    manifest = build(place, root, encoder, wanted, "stored")
    queries = list(read_dataset(str(place)).queries.values())[:LATENCY_QUERIES]
    figures: list[Figure] = []
    settings = ServeSettings(index=root.uri, reranker="none")
    with LocalAsker(root, manifest, encoder, None, settings, timeout_ms=60_000) as asker:
        for mode in MODES:
            for top_k in TOP_KS:
                times: dict[bool, list[float]] = {False: [], True: []}
                for number, query in enumerate([*queries[:5], *queries]):
                    # Each goes first every other time: the second finds the files and the caches warm.
                    for late in (False, True) if number % 2 else (True, False):
                        started = time.perf_counter()
                        answer = asker.answer(query, mode, "late" if late else False, top_k, top_n=10)
                        times[late].append(1000 * (time.perf_counter() - started))
                        assert answer.reranked == late
                one, two = (statistics.median(times[late][5:]) for late in (False, True))
                name = f"{mode}, best {top_k}"
                figures += [
                    Figure(f"{name}: stage one alone, p50", one, "ms"),
                    Figure(f"{name}: with stored tokens, p50", two, "ms"),
                    Figure(f"{name}: two stages over one", two / one, "x", f"<= {SLOWER}", two / one <= SLOWER),
                ]
    texts = [f"{row.get('title', '')} {row['text']}".strip() for row in read_jsonl(place / "corpus.jsonl.gz")]
    texts = texts[:: max(1, len(texts) // BUILD_PASSAGES)][:BUILD_PASSAGES]
    assert isinstance(encoder, TokenEncoder)
    sample = np.concatenate([one.tokens for one in encoder.encode_passage_tokens(texts[:128])])
    learned = codec.train(sample, LateSettings().late_dims, LateSettings().late_bits)
    started = time.perf_counter()
    encoder.encode_passages(texts)
    plain = time.perf_counter() - started
    started = time.perf_counter()
    encode_with_tokens(encoder, texts, encoder.fingerprint(), learned)
    both = time.perf_counter() - started
    files = [file for shard in manifest.shards for file in shard.files]
    stored = sum(file.bytes for file in files if "/late/" in file.path)
    return [
        *figures,
        Figure("embedding with tokens, over without", both / plain, "x"),
        Figure("bytes per passage on disk: tokens", stored / manifest.counts.passages, "B"),
        Figure(
            "bytes per passage on disk: all else",
            sum(f.bytes for f in files) / manifest.counts.passages - stored / manifest.counts.passages,
            "B",
        ),
    ]


def name_of(layout: Layout | None) -> str:
    """The name of a layout in tables; None is late interaction computed on the fly."""
    return layout.name if layout else "on the fly"


def show(mode: Mode, names: Sequence[str], outcomes: dict[str, Outcome]) -> None:
    """Print one table that can be pasted into Markdown: nDCG@10 on the fly, and what others change of it."""
    base = outcomes[name_of(None)]
    table = Table(box=None, pad_edge=False)
    for heading in (f"{mode}, best 50", "bytes a passage", *names, "mean"):
        table.add_column(f"| {heading}")
    table.add_column("|")
    for one, found in outcomes.items():
        size = f"| {statistics.mean(found.passage_bytes):,.0f}"
        if found is base:
            values = [*base.ndcg[mode], base.mean(mode)]
            table.add_row(f"| {one}", size, *(f"| {value:.4f}" for value in values), "|")
            continue
        changes = [after - before for after, before in zip(found.ndcg[mode], base.ndcg[mode], strict=True)]
        cells = (f"| {change:+.4f}" for change in (*changes, statistics.mean(changes)))
        table.add_row(f"| {one}", size, *cells, "|")
    Console(width=180).print(table)


def plot(outcomes: dict[Layout | None, Outcome], path: Path) -> None:
    """Draw mean nDCG@10 over mean bytes per passage, one line for each number of bits."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(MODES), figsize=(6 * len(MODES), 4.5), layout="constrained")
    kinds = dict.fromkeys((one.bits, one.pooled) for one in outcomes if one is not None)
    default = outcomes[Layout(LateSettings().late_dims, LateSettings().late_bits)]
    for mode, axis in zip(MODES, axes, strict=True):
        for bits, factor in kinds:
            found = [outcomes[one] for one in outcomes if one is not None and (one.bits, one.pooled) == (bits, factor)]
            found.sort(key=lambda outcome: sum(outcome.passage_bytes))
            axis.plot(
                [statistics.mean(one.passage_bytes) for one in found],
                [one.mean(mode) for one in found],
                marker="o",
                label=f"{bits} bits" + (f", {factor} tokens averaged" if factor > 1 else ""),
            )
        axis.plot(statistics.mean(default.passage_bytes), default.mean(mode), "k*", markersize=14, label="default")
        axis.axhline(outcomes[None].mean(mode), color="#999", linewidth=0.8, label="on the fly")
        axis.axhline(outcomes[None].mean(mode) - LOSS, color="#999", linewidth=0.8, linestyle=":")
        axis.axvline(BYTES, color="#999", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", xlabel="bytes per passage", ylabel="nDCG@10", title=f"{mode}, best 50")
    axes[-1].legend(fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
