"""The candidates of judged collections, scored by token vectors as a build would store them."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.beir import read_jsonl
from benchmarks.support.corpora import keep
from benchmarks.support.scored import Scored, record
from shoal.encoders import TextVectors, TokenEncoder, load_encoder
from shoal.evaluation.dataset import Dataset, read_dataset
from shoal.indexing.sample import stratified
from shoal.indexing.tokens import PASSAGES, TOKENS
from shoal.late import codec
from shoal.late.codec import levels_of, project
from shoal.modes import Mode
from shoal.records import FloatArray
from shoal.rerankers.late_interaction import DENSE_WEIGHT
from shoal.settings import EMBEDDED_ENCODER, EncoderSettings

MODES: tuple[Mode, ...] = ("dense", "hybrid")
CHUNK = 65_536
"""Tokens that are rounded at once."""

Scores = dict[Mode, dict[str, NDArray[np.float64]]]
"""Of the candidates of every query, by mode."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How tokens are stored: so many dimensions of so many bits, of the means of so many neighbours."""

    dims: int
    bits: int
    pooled: int = 1

    @property
    def name(self) -> str:
        """Its name in tables."""
        return f"{self.dims} x {self.bits} bits" + (f", {self.pooled} tokens averaged" if self.pooled > 1 else "")


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection, its candidates scored on the fly. tokens: float16 (t, hidden), of the candidates alone.

    rows: the place of each candidate; ends: int64 (n,), where its tokens end. all_lengths: int64, of all passages.
    """

    dataset: Dataset
    recorded: dict[Mode, dict[str, Scored]]
    queries: dict[str, TextVectors]
    rows: dict[str, int]
    vectors: FloatArray
    tokens: NDArray[np.float16]
    ends: NDArray[np.int64]
    all_lengths: NDArray[np.int64]
    sample: NDArray[np.float16]


def read(place: Path, options: argparse.Namespace, folder: Path) -> Collection:
    """Record one collection, and gather what its candidates are made of."""
    dataset = read_dataset(str(place)).sample(options.queries)
    encoder = load_encoder(EncoderSettings(encoder=EMBEDDED_ENCODER, dtype=options.dtype, threads=options.threads))
    assert isinstance(encoder, TokenEncoder)
    options.cache = options.cache or folder / "vectors"
    recorded = record(place, dataset, options, folder)
    kept = keep(place, dataset, encoder, options.cache)
    corpus = {
        row["_id"]: f"{row['title']} {row['text']}" if row.get("title") else row["text"]
        for row in read_jsonl(place / "corpus.jsonl.gz")
    }
    everything = kept.encode_passage_tokens(list(corpus.values()))
    ids = sorted({id_ for queries in recorded.values() for one in queries.values() for id_ in one.ids})
    found = kept.encode_passage_tokens([corpus[id_] for id_ in ids])
    # As many as a build takes, and from all over; it takes those of more than 32 units from 32 of them.
    sampled = [everything[row].tokens for row in stratified(len(everything), PASSAGES, seed=3)]
    return Collection(
        dataset,
        recorded,
        {query: kept.encode_query_tokens([text])[0] for query, text in dataset.queries.items()},
        {id_: row for row, id_ in enumerate(ids)},
        np.stack([one.vector for one in found]),
        np.concatenate([one.tokens for one in found]).astype(np.float16),
        np.cumsum([len(one.tokens) for one in found]),
        np.array([len(one.tokens) for one in everything]),
        np.concatenate([one[stratified(len(one), TOKENS, seed=4)] for one in sampled]).astype(np.float16),
    )


def stored_scores(one: Collection, layout: Layout) -> Scores:
    """Score the candidates of a collection by tokens that are stored in one way."""
    tokens, ends = pooled(one.tokens, one.ends, layout.pooled)
    sample = one.sample if layout.pooled == 1 else tokens[stratified(len(tokens), PASSAGES * TOKENS, seed=4)]
    learned = codec.train(sample, layout.dims, layout.bits)
    codes = [learned.encode(tokens[start : start + CHUNK]) for start in range(0, len(tokens), CHUNK)]
    values = levels_of(np.concatenate(codes), learned.projection, layout.bits)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    known = {
        query: score(one, vectors, candidates_of(one, query), learned.axes, values, ends)
        for query, vectors in one.queries.items()
    }
    return {
        mode: {
            query: np.array([known[query][id_] for id_ in scored.ids]) for query, scored in one.recorded[mode].items()
        }
        for mode in MODES
    }


def pooled(tokens: NDArray[Any], ends: NDArray[np.int64], factor: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Average so many neighbouring tokens of a passage, and bring the means to length 1."""
    if factor == 1:
        return tokens, ends
    lengths = np.diff(ends, prepend=0)
    starts = np.concatenate(
        [np.arange(end - length, end, factor) for end, length in zip(ends, lengths, strict=True)]
    ).astype(np.int64)
    sums = np.add.reduceat(tokens, starts, axis=0, dtype=np.float32)
    sums /= np.linalg.norm(sums, axis=1, keepdims=True)
    return sums.astype(np.float16), np.cumsum(-(-lengths // factor))


def score(
    one: Collection,
    query: TextVectors,
    ids: Sequence[str],
    axes: FloatArray,
    values: FloatArray,
    ends: NDArray[np.int64],
) -> dict[str, float]:
    """The formula of late interaction for n >= 1 candidates of one query."""
    rows = np.array([one.rows[id_] for id_ in ids])
    starts = np.where(rows > 0, ends[rows - 1], 0)
    tokens = np.concatenate([values[start:end] for start, end in zip(starts, ends[rows], strict=True)])
    similarities = project(query.tokens, axes) @ tokens.T
    firsts = np.cumsum([0, *(ends[rows] - starts)[:-1]])
    late = np.maximum.reduceat(similarities, firsts, axis=1).mean(axis=0)
    scores = DENSE_WEIGHT * (one.vectors[rows] @ query.vector) + (1 - DENSE_WEIGHT) * late
    return dict(zip(ids, scores.tolist(), strict=True))


def candidates_of(one: Collection, query: str) -> list[str]:
    """What any mode found for a query."""
    return list(dict.fromkeys(id_ for mode in MODES for id_ in one.recorded[mode][query].ids))
