"""How long one shard takes to find passages by their words, beside tantivy with the same words.

    python -m benchmarks.words --folder DIR [--passages 1000000] [--tantivy PYTHON] [--queries 300] [--json FILE]

`--tantivy` names a Python that has tantivy and NumPy. What is built stays in the folder for later runs. Both sides find
the 100 best passages for queries of 2 to 10 words, rare and frequent ones, one after the other in one thread; of each
query the fastest of three rounds counts, in processor time. Shoal scores as it has indexed (`as built`), and with the
statistics that a search brings once documents have come or gone (`as written to`). tantivy rounds the lengths of
passages to a byte, so that a part of its hundred are others.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from benchmarks.support.report import Figure, report, tell
from benchmarks.support.servers import ROOT
from benchmarks.support.zipf import VOCABULARY, NumberedPassages, chunks, queries_over, text_of
from shoal.index_root import layout
from shoal.index_root.manifest import LexicalInfo
from shoal.lexical.analyzer import NAME
from shoal.lexical.index import LexicalIndex
from shoal.lexical.scoring import TermStatistics, inverse_frequencies, length_norms, term_scores
from shoal.lexical.statistics import TERM
from shoal.lexical.writer import FILES
from shoal.records import RowArray
from shoal.shard.lexical import LexicalRetriever
from shoal.shard.messages import ShardQuery
from shoal.shard.passages import PASSAGE_SCHEMA, Passages
from shoal.system.array_files import create_array, load_array

TOP_K = 100
"""Passages that a query finds."""
ROUNDS = 3
"""Times that each query is asked."""
K1, B = 1.2, 0.75
"""Those of tantivy."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one side found for each query, and milliseconds of processor time."""

    rows: list[list[int]]
    milliseconds: list[float]


def main() -> None:
    """Build, and ask both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="what is built stays here")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--tantivy", help="a Python that has tantivy and NumPy")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    folder = options.folder / f"shoal-{options.passages}"
    if not folder.exists():
        write(folder, options.passages)
    queries = [text_of(words) for words in queries_over(options.passages, options.queries)]
    figures: list[Figure] = []
    answers = shoal_answers(folder, options.passages, queries)
    for name, side in answers.items():
        figures += times(name, side)
    if options.tantivy:
        peer = tantivy_answers(options.tantivy, options.folder / f"tantivy-{options.passages}", options, queries)
        figures += [*times("tantivy", peer), agreement(next(iter(answers.values())), peer)]
    report(f"{options.passages:,} passages, {options.queries} queries", figures, options.json)


def times(name: str, answers: Answers) -> list[Figure]:
    """How long queries took."""
    percentiles = np.percentile(answers.milliseconds, [50, 90, 99])
    return [
        Figure(f"{name}, {label}", float(value), "ms")
        for label, value in zip(("p50", "p90", "p99"), percentiles, strict=True)
    ] + [Figure(f"{name}, mean", float(np.mean(answers.milliseconds)), "ms")]


def agreement(own: Answers, peer: Answers) -> Figure:
    """How much of what the peer found was found here too."""
    pairs = [(set(mine), set(others)) for mine, others in zip(own.rows, peer.rows, strict=True) if others]
    return Figure("of tantivy's passages, found here", float(np.mean([len(a & b) / len(b) for a, b in pairs])), "")


def shoal_answers(folder: Path, passages: int, queries: Sequence[str]) -> dict[str, Answers]:
    """Ask one shard in both ways."""
    totals = json.loads((folder / "totals.json").read_text())
    info = LexicalInfo(
        analyzer=NAME,
        language="none",
        stopwords=False,
        k1=K1,
        b=B,
        passages=passages,
        mean_length=totals["length"] / passages,
    )
    index = LexicalIndex({name: folder / name for name in FILES}, passages, info)
    retriever = LexicalRetriever(index, numbered(passages))
    frequencies = np.diff(load_array(folder / layout.LEXICAL_OFFSETS))
    numbers = {term: number for number, term in enumerate(index.postings().terms.to_pylist())}

    def counted(text: str) -> TermStatistics:
        """The statistics of a corpus to which some passages have come."""
        terms = index.analyzer.terms(text)
        held = tuple(int(frequencies[numbers[term]]) + 1 if term in numbers else 0 for term in terms)
        return TermStatistics(passages + 10, totals["length"] + 500, tuple(terms), held)

    return {
        "as built": ask(retriever, [ShardQuery(text, None, "lexical") for text in queries]),
        "as written to": ask(
            retriever, [ShardQuery(text, None, "lexical", statistics=counted(text)) for text in queries]
        ),
    }


def ask(retriever: LexicalRetriever, queries: Sequence[ShardQuery]) -> Answers:
    """Ask one query after the other."""
    none = np.zeros(0, np.int64)

    def search(query: ShardQuery) -> list[int]:
        rows: RowArray = retriever.search([query], TOP_K, [None], [none]).rows[0]
        return [row for row in rows.tolist() if row >= 0]

    return Answers([search(query) for query in queries], [least(lambda q=query: search(q)) for query in queries])


def least(work: Callable[[], Any]) -> float:
    """Milliseconds of processor time of this thread that the fastest of some rounds takes."""
    taken = []
    for _ in range(ROUNDS):
        started = time.thread_time()
        work()
        taken.append(1000 * (time.thread_time() - started))
    return min(taken)


def tantivy_answers(python: str, folder: Path, options: argparse.Namespace, queries: Sequence[str]) -> Answers:
    """Ask tantivy, which builds its index first if it is not there."""
    command = [python, "-m", "benchmarks.support.tantivy_words", str(folder), str(options.passages), str(TOP_K)]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(queries), stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout)
    tell(f"tantivy has {told['segments']} segments")
    return Answers(*map(list, zip(*told["answers"], strict=True)))


def numbered(count: int) -> Passages:
    """So many passages that have nothing but ids."""
    ids = pc.binary_join_element_wise("p", pa.array(np.arange(count)).cast(pa.string()), "")
    empty = [pa.nulls(count, field.type) for field in PASSAGE_SCHEMA]
    texts = pa.array([""], pa.large_string()).take(pa.array(np.zeros(count, np.int64)))
    return Passages.of_batch(pa.RecordBatch.from_arrays([ids, texts, *empty[2:]], schema=PASSAGE_SCHEMA))


def write(folder: Path, passages: int) -> None:
    """Write the lexical files of one shard as a build does, from the numbers of words instead of texts."""
    (folder / layout.LEXICAL).mkdir(parents=True)
    held, lengths = np.zeros(VOCABULARY, np.int64), []
    for chunk in chunks(passages):
        lengths.append(chunk.lengths)
        held += np.bincount(_pairs(chunk)[0], minlength=VOCABULARY)
    all_lengths = np.concatenate(lengths).astype(np.int32)
    (folder / "totals.json").write_text(json.dumps({"length": int(all_lengths.sum())}))
    np.save(folder / layout.LEXICAL_LENGTHS, all_lengths)
    order = sorted(np.flatnonzero(held).tolist(), key=lambda word: f"w{word}")
    offsets = np.concatenate([[0], np.cumsum(held[order])])
    np.save(folder / layout.LEXICAL_OFFSETS, offsets)
    with pa.ipc.new_file(str(folder / layout.LEXICAL_TERMS), pa.schema([TERM])) as file:
        terms = pa.array([f"w{word}" for word in order], TERM.type)
        file.write_batch(pa.RecordBatch.from_arrays([terms], schema=pa.schema([TERM])))
    places = np.zeros(VOCABULARY, np.int64)
    places[order] = np.arange(len(order))
    _fill(folder, passages, places, offsets, all_lengths)


def _fill(
    folder: Path, passages: int, places: NDArray[np.int64], offsets: NDArray[np.int64], lengths: NDArray[np.int32]
) -> None:
    """Write rows, counts and scores of all terms, whose places in the file are given by the numbers of their words."""
    rows, counts, scores = (
        create_array(folder / name, dtype, int(offsets[-1]))
        for name, dtype in (
            (layout.LEXICAL_ROWS, np.int32),
            (layout.LEXICAL_COUNTS, np.uint16),
            (layout.LEXICAL_SCORES, np.float32),
        )
    )
    weights = inverse_frequencies(passages, np.diff(offsets))
    norms = length_norms(lengths, float(lengths.sum(dtype=np.int64) / passages), K1, B)
    following, first = offsets[:-1].copy(), 0
    for chunk in chunks(passages):
        words, local, repeated = _pairs(chunk)
        order = np.argsort(places[words], kind="stable")
        terms, own, repeated = places[words][order], local[order] + first, repeated[order]
        distinct, starts, sizes = np.unique(terms, return_index=True, return_counts=True)
        at = following[terms] + np.arange(len(terms)) - np.repeat(starts, sizes)
        following[distinct] += sizes
        rows[at], counts[at], scores[at] = own, repeated, term_scores(weights[terms], repeated, norms[own])
        first += len(chunk.lengths)


def _pairs(chunk: NumberedPassages) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Words, the passages that hold them, and how often, each int64 (n,), ascending by word and then by passage."""
    count = len(chunk.lengths)
    keys, repeated = np.unique(chunk.words * count + np.repeat(np.arange(count), chunk.lengths), return_counts=True)
    words, passages = np.divmod(keys, count)
    return words, passages, repeated


if __name__ == "__main__":
    main()
