"""What tests of the search path share: time that passes only when nothing else can happen, and services in memory."""

import asyncio
import functools
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.encoders import TextVectors
from shoal.filters import Filter
from shoal.records import FloatArray, Hits, Passage, Queries, ShardHits
from shoal.search.services import Fetched
from shoal.settings import ServeSettings
from shoal.testing.virtual_time import VirtualLoop

DIM = 8


def virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in virtual time; `now` is its clock."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


def now() -> float:
    return asyncio.get_running_loop().time()


def corpus(size: int, *, title: bool = False) -> list[Passage]:
    return [
        Passage(f"p{number:04d}", f"text of passage {number}", f"title {number}" if title else None, {"number": number})
        for number in range(size)
    ]


def vector_of(text: str) -> FloatArray:
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    vector = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def words_shared(query: str, passage: Passage) -> float:
    """The fakes' score by words."""
    return float(len(set(query.split()) & set(passage.text.split())))


def exact(passages: Sequence[Passage], query: str, top_k: int) -> list[tuple[str, float]]:
    """The plain answer: (id, score) of every passage, sorted once."""
    scored = [(passage.id, float(vector_of(passage.text) @ vector_of(query))) for passage in passages]
    return sorted(scored, key=lambda entry: (-entry[1], entry[0]))[:top_k]


@dataclass
class Behaviour:
    """Seconds that a fake service takes, what it raises in its next calls, and a hook that may do anything else."""

    delay: float = 0.0
    errors: list[Exception] = field(default_factory=list)
    hook: Callable[[], Awaitable[None]] | None = None

    async def __call__(self) -> None:
        if self.hook:
            await self.hook()
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.errors:
            raise self.errors.pop(0)


class FakeEncoder:
    def __init__(self) -> None:
        self.behaviour = Behaviour()
        self.calls: list[list[str]] = []
        self.deadlines: list[float] = []

    async def encode(self, queries: Sequence[str], deadline: float) -> FloatArray:
        self.calls.append(list(queries))
        self.deadlines.append(deadline)
        await self.behaviour()
        return np.stack([vector_of(query) for query in queries])

    async def encode_tokens(self, queries: Sequence[str], deadline: float) -> list[TextVectors]:
        return [TextVectors(vector, vector[None]) for vector in await self.encode(queries, deadline)]


@dataclass
class SearchCall:
    version: str
    queries: int
    modes: list[str]
    top_k: int
    deadline: float
    with_passages: bool
    filters: list[Filter | None] | None
    efforts: list[str] | None = None


class FakeShard:
    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = list(passages)
        self.vectors = np.stack([vector_of(p.text) for p in passages]) if passages else np.zeros((0, DIM), np.float32)
        self.behaviour = Behaviour()
        self.fetch_behaviour = Behaviour()
        self.calls: list[SearchCall] = []
        self.fetches: list[list[int]] = []
        self.score_behaviour = Behaviour()
        self.scores: list[list[int]] = []
        self.cancelled = 0
        self.message_rows: int | None = None
        """Passages that fit into one message; None: any number."""

    async def search(
        self,
        version: str,
        queries: Queries,
        top_k: int,
        deadline: float,
        with_passages: bool,
        filters: Sequence[Filter | None] | None = None,
    ) -> ShardHits:
        wanted = list(filters) if filters else None
        self.calls.append(
            SearchCall(
                version,
                len(queries.texts),
                list(queries.modes),
                top_k,
                deadline,
                with_passages,
                wanted,
                queries.efforts,
            )
        )
        try:
            await self.behaviour()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        vectors = queries.vectors if queries.vectors.shape[1] else np.zeros((len(queries.texts), DIM), np.float32)
        dense = vectors @ self.vectors.T
        lexical = np.array(
            [[words_shared(text, passage) for passage in self.passages] for text in queries.texts], np.float32
        ).reshape(dense.shape)
        return ShardHits(
            self._hits(dense, lexical, queries, "lexical", top_k, with_passages),
            self._hits(lexical, dense, queries, "dense", top_k, with_passages),
        )

    def _hits(
        self, own: FloatArray, other: FloatArray, queries: Queries, without: str, top_k: int, with_passages: bool
    ) -> Hits | None:
        """The best passages by `own` for queries of other modes than `without`."""
        if all(mode == without for mode in queries.modes):
            return None
        scores = np.full((len(own), top_k), -np.inf, np.float32)
        rows = np.full(scores.shape, -1, np.int64)
        others = np.full(scores.shape, -np.inf, np.float32)
        ids: list[list[str]] = []
        passages: list[list[Passage]] = []
        for query, mode in enumerate(queries.modes):
            order = [] if mode == without else range(len(self.passages))
            if without == "dense":
                order = [row for row in order if own[query, row] > 0]
            order = sorted(order, key=lambda row: (-own[query, row], self.passages[row].id))[:top_k]
            scores[query, : len(order)] = own[query, order]
            rows[query, : len(order)] = order
            if mode == "hybrid":
                others[query, : len(order)] = other[query, order]
            ids.append([self.passages[row].id for row in order])
            passages.append([self.passages[row] for row in order])
        fits = self.message_rows is None or sum(map(len, ids)) <= self.message_rows
        return Hits(scores, rows, ids, passages if with_passages and fits else None, others)

    async def fetch(self, version: str, rows: Sequence[int], deadline: float, with_vectors: bool = False) -> Fetched:
        self.fetches.append(list(rows))
        await self.fetch_behaviour()
        rows = rows[: self.message_rows]
        return Fetched([self.passages[row] for row in rows], self.vectors[list(rows)] if with_vectors else None)

    async def score(self, version: str, query: TextVectors, rows: Sequence[int], deadline: float) -> FloatArray:
        """Prefers what the reranker prefers: later passages of the corpus."""
        self.scores.append(list(rows))
        await self.score_behaviour()
        return np.array([float(self.passages[row].text.split()[-1]) for row in rows], np.float32)


class FakeReranker:
    """Prefers later passages of the corpus; by its number in the text, so that the best order is known."""

    def __init__(self) -> None:
        self.behaviour = Behaviour()
        self.calls: list[tuple[str, list[str], float]] = []

    async def score(self, query: str, passages: Sequence[str], deadline: float) -> FloatArray:
        self.calls.append((query, list(passages), deadline))
        await self.behaviour()
        return np.array([float(passage.split()[-1]) for passage in passages], np.float32)


def serve_settings(**changes: Any) -> ServeSettings:
    return ServeSettings.model_validate({"index": "/nowhere", **changes})
