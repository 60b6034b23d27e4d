"""Hard negatives: passages that the first stage takes for an answer and that are none.

For each query the best passages of dense search (the encoder, exact search) and of lexical search (BM25) are taken in
turn, as hybrid retrieval would offer them to a reranker. Positives are left out, and so is what nearly repeats one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from shoal.encoders import Encoder
from shoal.lexical.analyzer import Analyzer
from shoal.records import FloatArray, RowArray
from shoal.system.atomic_files import replace_file
from shoal.training.judgements import Judgement, Judgements

SAME_VECTOR = 0.95
"""Cosine from which a passage counts as a repetition of a positive."""

SAME_WORDS = 0.8
"""Share of the distinct words of the shorter of two passages from which it counts as a repetition of the longer."""

_BLOCK = 256
"""Queries compared with all passages at once."""


@dataclass(frozen=True, slots=True)
class Example:
    """One query to learn from, as rows of `Examples.passages`; mined negatives are in order of hardness."""

    query: str
    positives: list[int]
    given: list[int]
    mined: list[int]


@dataclass(frozen=True, slots=True)
class Held:
    """One query held out: what the first stage gives for it, best first, and what is relevant, as rows."""

    query: str
    candidates: list[int]
    relevant: list[int]


@dataclass(frozen=True, slots=True)
class Examples:
    """All that training reads."""

    passages: list[str]
    train: list[Example]
    dev: list[Held]

    def save(self, path: Path) -> None:
        """Write a file that `load` reads; it is there when it is whole."""
        replace_file(path, orjson.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Examples":
        """Read a saved file."""
        body: dict[str, Any] = orjson.loads(path.read_bytes())
        return cls(body["passages"], [Example(**row) for row in body["train"]], [Held(**row) for row in body["dev"]])


def mine(judgements: Judgements, encoder: Encoder, analyzer: Analyzer, top_k: int, dev_top_k: int) -> Examples:
    """Find the negatives of every query and the candidates of the held-out ones. Deterministic.

    Queries for which no negative is found are left out. Memory: the vectors of all passages.
    """
    passages = judgements.passages
    vectors = encoder.encode_passages(passages)
    queries = [judgement.query for judgement in judgements.train]
    dense = _dense(encoder.encode_queries(queries), vectors, top_k)
    lexical = _lexical(queries, passages, top_k, analyzer)
    words = _Words(passages)
    train = []
    for judgement, by_vector, by_words in zip(judgements.train, dense.tolist(), lexical.tolist(), strict=True):
        mixed = [row for pair in zip_longest(by_vector, by_words, fillvalue=-1) for row in pair]
        judged = {*judgement.positives, *judgement.negatives}
        mined = [
            row
            for row in dict.fromkeys(mixed)
            if row >= 0 and row not in judged and not _repeats(row, judgement, vectors, words)
        ]
        if judgement.negatives or mined:
            train.append(Example(judgement.query, judgement.positives, judgement.negatives, mined))
    held = _dense(encoder.encode_queries([judgement.query for judgement in judgements.dev]), vectors, dev_top_k)
    dev = [
        Held(judgement.query, candidates, judgement.positives)
        for judgement, candidates in zip(judgements.dev, held.tolist(), strict=True)
    ]
    return _compact(passages, train, dev)


def _dense(queries: FloatArray, passages: FloatArray, top_k: int) -> RowArray:
    """Return the rows of the best passages, int64 (n, min(top_k, passages)), best first."""
    top_k = min(top_k, len(passages))
    found = np.empty((len(queries), top_k), dtype=np.int64)
    for start in range(0, len(queries), _BLOCK):
        scores = queries[start : start + _BLOCK] @ passages.T
        found[start : start + _BLOCK] = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return found


def _lexical(queries: Sequence[str], passages: Sequence[str], top_k: int, analyzer: Analyzer) -> RowArray:
    """Return the rows of the best passages by BM25, int64 (n, k <= top_k), best first; -1 where no word is shared."""
    import bm25s

    words = [analyzer.terms(passage) for passage in passages]
    if not any(words):
        return np.empty((len(queries), 0), dtype=np.int64)
    index = bm25s.BM25()
    index.index(words, show_progress=False)
    terms = [analyzer.terms(query) for query in queries]
    found, scores = index.retrieve(terms, k=min(top_k, len(passages)), show_progress=False)
    return np.where(scores > 0, found, -1).astype(np.int64)


class _Words:
    """The distinct words of passages, worked out when they are asked for."""

    def __init__(self, passages: Sequence[str]) -> None:
        self._passages = passages
        self._known: dict[int, set[str]] = {}

    def __getitem__(self, row: int) -> set[str]:
        if row not in self._known:
            self._known[row] = set(self._passages[row].casefold().split())
        return self._known[row]


def _repeats(row: int, judgement: Judgement, vectors: FloatArray, words: _Words) -> bool:
    if float((vectors[judgement.positives] @ vectors[row]).max()) >= SAME_VECTOR:
        return True
    mine = words[row]
    return any(
        len(mine & words[positive]) >= SAME_WORDS * max(1, min(len(mine), len(words[positive])))
        for positive in judgement.positives
    )


def _compact(passages: Sequence[str], train: Sequence[Example], dev: Sequence[Held]) -> Examples:
    """Keep only the passages that are used."""
    rows = sorted(
        {row for example in train for row in (*example.positives, *example.given, *example.mined)}
        | {row for held in dev for row in (*held.candidates, *held.relevant)}
    )
    place = {row: number for number, row in enumerate(rows)}

    def moved(old: list[int]) -> list[int]:
        return [place[row] for row in old]

    return Examples(
        [passages[row] for row in rows],
        [
            Example(example.query, moved(example.positives), moved(example.given), moved(example.mined))
            for example in train
        ],
        [Held(held.query, moved(held.candidates), moved(held.relevant)) for held in dev],
    )
