"""What misspelt queries lose, and what correcting them wins back: `python -m benchmarks.typos [--dataset DIR ...]`.

Of the words of the judged queries that have three letters or more, 30 % get one slip, by a fixed seed: two letters
swapped, one left out, one doubled, or one replaced by its neighbour on the keyboard. Every collection is indexed by the
steps of the build job and searched by the server's pipeline, as its queries are and misspelt, with and without
`correct_spelling`. nDCG@10 comes from ir-measures. Searching by words needs no vectors; for the other modes the
passages are encoded, which takes minutes a collection: --cache keeps the vectors for the next run.
"""

import argparse
import os
import random
import re
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from benchmarks.support.corpora import BM25, build, keep
from benchmarks.support.report import Figure, report, tell
from shoal.encoders import Encoder, TokenEncoder, load_encoder
from shoal.evaluation.asking import LocalAsker, ask_all
from shoal.evaluation.dataset import Dataset, read_dataset
from shoal.evaluation.measures import judge
from shoal.evaluation.runs import DEPTH
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.modes import Mode
from shoal.settings import EMBEDDED_ENCODER, EncoderSettings, ServeSettings

MISSPELT = 0.3
"""Share of the words that get a slip."""
SEED = 0
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
WORD = re.compile(r"[^\W\d_]{3,}")
TIMEOUT_MS = 60_000
MAX_CLEAN_LOSS = 0.001
LEAST_GAIN = 1 / 3
"""Share of the loss that correcting is to win back."""
NO_VECTORS = "hashing:64"
"""The encoder where words alone are searched."""


@dataclass(frozen=True, slots=True)
class Measured:
    """nDCG@10 of one run, and milliseconds of a query: those of the processor, and by the clock."""

    ndcg: float
    processor_ms: float
    median_ms: float


def main() -> None:
    """Measure all collections and modes, and fail if correcting loses on clean queries or wins too little."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("SHOAL_DATA", "../shared/data")) / "beir"
    parser.add_argument("--dataset", type=Path, nargs="+", default=[data / name for name in BM25])
    parser.add_argument("--modes", nargs="+", choices=get_args(Mode), default=["lexical"])
    parser.add_argument("--queries", type=int, help="ask only this many queries of each, sampled with a fixed seed")
    parser.add_argument("--cache", type=Path, help="folder that keeps vectors")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.encoder = NO_VECTORS if options.modes == ["lexical"] else EMBEDDED_ENCODER

    encoder = load_encoder(EncoderSettings(encoder=options.encoder, threads=options.threads, dtype="float32"))
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        for place in options.dataset:
            of_place = measure(place, encoder, options, Path(folder))
            tell(of_place)
            figures += of_place
    report(f"Misspelt queries, {options.encoder}", figures, options.json)


def measure(place: Path, encoder: Encoder, options: argparse.Namespace, folder: Path) -> list[Figure]:
    """Index one collection and ask its queries, clean and misspelt."""
    dataset = read_dataset(str(place))
    if options.modes != ["lexical"]:
        assert isinstance(encoder, TokenEncoder)
        encoder = keep(place, dataset, encoder, options.cache or folder / "vectors")
    dataset = dataset.sample(options.queries)
    root = Storage(str(folder / place.name))
    manifest = build(place, root, encoder, options)
    chance = random.Random(SEED)
    bad = replace(dataset, queries={query: misspelt(text, chance) for query, text in dataset.queries.items()})
    figures = []
    for mode in options.modes:
        of_mode = {
            (queries.name, corrects): ask(root, manifest, encoder, queries, mode, corrects)
            for queries in (replace(dataset, name="clean"), replace(bad, name="misspelt"))
            for corrects in (False, True)
        }
        figures += judged(f"{place.name}, {mode}", of_mode)
    return figures


def ask(root: Storage, manifest: Manifest, encoder: Encoder, queries: Dataset, mode: Mode, corrects: bool) -> Measured:
    """Ask all queries in one mode, without a second stage."""
    # On a busy machine a shard may be silent for a second.
    settings = ServeSettings(index=root.uri, reranker="none", correct_spelling=corrects, shard_patience_ms=TIMEOUT_MS)
    with LocalAsker(root, manifest, encoder, None, settings, TIMEOUT_MS) as asker:
        started = time.process_time()
        run = ask_all(asker, queries.queries, mode, False, DEPTH)
        processor_ms = 1000 * (time.process_time() - started) / len(queries.queries)
    if run.degraded:
        raise RuntimeError(f"{run.degraded} queries were not answered whole")
    [row] = judge([run], queries.judgements)
    return Measured(row.values["nDCG@10"], processor_ms, statistics.median(run.latency_ms.values()))


def judged(name: str, runs: Mapping[tuple[str, bool], Measured]) -> list[Figure]:
    """The figures of a collection in one mode: of clean and misspelt queries, without and with correcting."""
    figures = []
    for (queries, corrects), run in runs.items():
        title = f"{name}: {queries}{', corrected' if corrects else ''}"
        figures.append(Figure(title, run.ndcg, "nDCG@10"))
        figures.append(Figure(f"{title}, a query", run.processor_ms, "ms of a processor"))
        figures.append(Figure(f"{title}, a query, p50", run.median_ms, "ms"))
    lost = runs["clean", False].ndcg - runs["clean", True].ndcg
    goal: dict[str, Any] = {"goal": f"<= {MAX_CLEAN_LOSS}", "met": lost <= MAX_CLEAN_LOSS}
    figures.append(Figure(f"{name}: lost on clean queries", lost, "nDCG@10", **goal))
    loss = runs["clean", False].ndcg - runs["misspelt", False].ndcg
    gain = (runs["misspelt", True].ndcg - runs["misspelt", False].ndcg) / loss
    figures.append(Figure(f"{name}: won back of the loss", gain, "", f">= {LEAST_GAIN:.2f}", gain >= LEAST_GAIN))
    return figures


def misspelt(text: str, chance: random.Random) -> str:
    """Give some words of a text a slip."""
    return WORD.sub(lambda word: slip(word[0], chance) if chance.random() < MISSPELT else word[0], text)


def slip(word: str, chance: random.Random) -> str:
    """Misspell a word of two letters or more in one of four ways; a swap of equal letters leaves it as it is."""
    way, place = chance.choice(("swap", "drop", "double", "neighbour")), chance.randrange(len(word))
    if way == "swap":
        place = min(place, len(word) - 2)
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if way == "drop":
        return word[:place] + word[place + 1 :]
    beside = neighbouring_keys(word[place].lower()) if way == "neighbour" else []
    if beside:
        return word[:place] + chance.choice(beside) + word[place + 1 :]
    return word[:place] + word[place] + word[place:]


def neighbouring_keys(letter: str) -> list[str]:
    """The letters around a key: beside it, and the two keys that touch it in the rows above and below."""
    for number, row in enumerate(KEYBOARD):
        if (column := row.find(letter)) >= 0:
            places = [(number, column - 1), (number, column + 1)]
            places += [(number - 1, column), (number - 1, column + 1), (number + 1, column - 1), (number + 1, column)]
            return [KEYBOARD[line][key] for line, key in places if 0 <= line < 3 and 0 <= key < len(KEYBOARD[line])]
    return []


if __name__ == "__main__":
    main()
