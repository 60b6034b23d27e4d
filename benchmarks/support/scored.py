"""Judged collections, searched and reranked once: the scores that simulations rank again."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.corpora import build, keep
from shoal.encoders import TokenEncoder, load_encoder
from shoal.evaluation.asking import LocalAsker
from shoal.evaluation.dataset import Dataset
from shoal.index_root.storage import Storage
from shoal.modes import Mode
from shoal.rerankers.late_interaction import LateInteraction
from shoal.settings import EMBEDDED_ENCODER, EncoderSettings, EvaluateSettings, ServeSettings

MODES: tuple[Mode, ...] = ("hybrid", "dense")
DEPTHS = (50, 25)
"""Candidates of a query: all of the greater number are reranked once, a simulation may take fewer."""

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scored:
    """The n candidates of one query in stage-one order, all of them reranked.

    features: float64 (n, 2), cosine and BM25 / its maximum, 0 where the query was not searched that way. rerank, final:
    float64 (n,), what the reranker gave and what the answer is ordered by.
    """

    ids: list[str]
    features: Scores
    rerank: Scores
    final: Scores

    def cut(self, depth: int) -> "Scored":
        """The first candidates only, as a smaller top_k gives them."""
        return Scored(self.ids[:depth], self.features[:depth], self.rerank[:depth], self.final[:depth])


def record(place: Path, dataset: Dataset, options: argparse.Namespace, folder: Path) -> dict[Mode, dict[str, Scored]]:
    """Index one collection, and rerank what each mode finds for each query."""
    encoder = load_encoder(EncoderSettings(encoder=EMBEDDED_ENCODER, dtype=options.dtype, threads=options.threads))
    assert isinstance(encoder, TokenEncoder)
    kept = keep(place, dataset, encoder, options.cache or folder / "vectors")
    root = Storage(str(folder / place.name))
    manifest = build(place, root, kept, argparse.Namespace(encoder=EMBEDDED_ENCODER, threads=options.threads))
    timeout_ms = EvaluateSettings(dataset=str(place)).timeout_ms
    with LocalAsker(root, manifest, kept, LateInteraction(kept, 0), ServeSettings(index=root.uri), timeout_ms) as asker:
        found = {mode: {query: ask(asker, text, mode) for query, text in dataset.queries.items()} for mode in MODES}
    print(f"{place.name}: {len(dataset.queries)} queries", file=sys.stderr, flush=True)
    return found


def ask(asker: LocalAsker, text: str, mode: Mode) -> Scored:
    """Rerank the best candidates of one query, and bring them back into stage-one order."""
    answer = asker.answer(text, mode, True, max(DEPTHS), explain=True)
    if answer.degraded or answer.explain is None:
        raise RuntimeError(f"{text!r} was not answered whole: {answer.degraded}")
    candidates = {one["id"]: one for one in answer.explain["candidates"]}
    results = sorted(answer.results, key=lambda result: result.retrieval_rank)
    features = np.array(
        [[candidates[one.id]["dense_score"] or 0, candidates[one.id]["lexical_score"] or 0] for one in results], float
    ).reshape(-1, 2)
    features[:, 1] /= features[:, 1].max(initial=0) or 1
    return Scored(
        [one.id for one in results],
        features,
        np.array([one.rerank_score for one in results], float),
        np.array([one.score for one in results], float),
    )
