"""What tests of the search path share: time that passes only when nothing else can happen, and services in memory."""

import asyncio
import functools
import hashlib
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np

from shoal.encoders import TextVectors
from shoal.filters import Filter
from shoal.fingerprint import Fingerprint
from shoal.index_root.manifest import VectorIndexInfo
from shoal.metadata import FieldTypes
from shoal.modes import RETRIEVERS_OF, Mode
from shoal.records import EmbeddedTexts, FloatArray, InputType, Passage, RowArray, Span, TermWeights
from shoal.search.served_version import ServedVersion
from shoal.settings import ServeSettings
from shoal.shard.messages import Fetched, Hits, ShardHits, ShardQuery, ShardSearch
from shoal.shard.questions import ShardQuestion
from shoal.testing.virtual_time import VirtualLoop

T = TypeVar("T")

DIM = 8
"""Dimensions of the vectors of the fakes."""


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
        self.instructions: list[str | None] = []
        self.deadlines: list[float] = []
        self.count_behaviour = Behaviour()
        self.counted: list[list[str]] = []
        self.sparse_calls: list[list[str]] = []
        self.embedded: list[list[str]] = []
        self.locate_behaviour = Behaviour()
        self.located: list[list[str]] = []

    async def encode(self, queries: Sequence[str], deadline: float, instruction: str | None = None) -> FloatArray:
        self.calls.append(list(queries))
        self.instructions.append(instruction)
        self.deadlines.append(deadline)
        await self.behaviour()
        return np.stack([vector_of(query) for query in queries])

    async def encode_terms(self, queries: Sequence[str], deadline: float) -> list[TermWeights]:
        """A term is the length of a word, its weight how many words have it."""
        self.sparse_calls.append(list(queries))
        await self.behaviour()
        counted = [np.unique([len(word) for word in query.split()], return_counts=True) for query in queries]
        return [TermWeights(terms.astype(np.int32), counts.astype(np.float32)) for terms, counts in counted]

    async def count_tokens(self, queries: Sequence[str], deadline: float) -> list[int]:
        """A token is a word."""
        self.counted.append(list(queries))
        await self.count_behaviour()
        return [len(query.split()) for query in queries]

    async def locate_tokens(self, passages: Sequence[str], deadline: float) -> list[RowArray] | None:
        """A token is a word."""
        self.located.append(list(passages))
        await self.locate_behaviour()
        return [_words(passage) for passage in passages]

    async def embed(
        self, texts: Sequence[str], input_type: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        """A token is a word; 8 are read."""
        self.embedded.append(list(texts))
        await self.behaviour()
        vectors = np.stack([vector_of(text) for text in texts]) if texts else np.zeros((0, DIM), np.float32)
        tokens = [np.stack([vector_of(word) for word in text.split()[:8]]) for text in texts] if with_tokens else None
        return EmbeddedTexts("fake", vectors, [len(text.split()) for text in texts], 8, tokens)

    async def encode_tokens(
        self, queries: Sequence[str], deadline: float, instruction: str | None = None
    ) -> list[TextVectors]:
        return [TextVectors(vector, vector[None]) for vector in await self.encode(queries, deadline, instruction)]


@dataclass
class SearchCall:
    """A call that a fake shard got. filters, search_params: one a query; None if no query has any."""

    version: str
    queries: int
    modes: list[Mode]
    top_k: int
    deadline: float
    with_passages: bool
    filters: list[Filter | None] | None
    search_params: list[str] | None = None


@dataclass(frozen=True)
class FakeRetriever:
    """Scores a passage for a query; what it does not find by its score, it scores for other retrievers."""

    score: Callable[[ShardQuery, Passage], float]
    finds: Callable[[float], bool] = lambda score: True


def _cosine(query: ShardQuery, passage: Passage) -> float:
    return 0.0 if query.vector is None else float(vector_of(passage.text) @ query.vector)


FAKE_RETRIEVERS: Mapping[str, FakeRetriever] = {
    "dense": FakeRetriever(_cosine),
    "lexical": FakeRetriever(lambda query, passage: words_shared(query.text, passage), lambda score: score > 0),
}
"""What a fake shard searches with unless told otherwise."""


class FakeShard:
    """A shard in memory. retrievers: by the names that modes know them by (`shoal.modes.RETRIEVERS_OF`)."""

    def __init__(self, passages: Sequence[Passage], retrievers: Mapping[str, FakeRetriever] = FAKE_RETRIEVERS) -> None:
        self.retrievers = retrievers
        self.passages = list(passages)
        self.vectors = np.stack([vector_of(p.text) for p in passages]) if passages else np.zeros((0, DIM), np.float32)
        self.behaviour = Behaviour()
        self.fetch_behaviour = Behaviour()
        self.calls: list[SearchCall] = []
        self.fetches: list[list[int]] = []
        self.score_behaviour = Behaviour()
        self.lookup_behaviour = Behaviour()
        self.scores: list[list[int]] = []
        self.questions: list[ShardQuestion[Any]] = []
        self.answer: Callable[[ShardQuestion[Any]], Any] = lambda question: None
        """What questions about rows are answered with."""
        self.cancelled = 0
        self.message_rows: int | None = None
        """Passages that fit into one message; None: any number."""

    async def search(self, batch: ShardSearch, deadline: float) -> ShardHits:
        self.calls.append(_search_call(batch, deadline))
        try:
            await self.behaviour()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        scores = {
            name: np.array(
                [[retriever.score(query, passage) for passage in self.passages] for query in batch.queries], np.float32
            ).reshape(len(batch.queries), len(self.passages))
            for name, retriever in self.retrievers.items()
        }
        used = {name for query in batch.queries for name in RETRIEVERS_OF[query.mode]}
        return ShardHits({name: self._hits(name, scores, batch) for name in scores if name in used})

    def _hits(self, name: str, scores_of_rows: Mapping[str, FloatArray], batch: ShardSearch) -> Hits:
        """The best passages by a retriever for the queries whose mode uses it."""
        own = scores_of_rows[name]
        scores = np.full((len(own), batch.top_k), -np.inf, np.float32)
        rows = np.full(scores.shape, -1, np.int64)
        other_scores = {other: scores.copy() for other in scores_of_rows if other != name}
        ids: list[list[str]] = []
        passages: list[list[Passage]] = []
        for number, query in enumerate(batch.queries):
            used = RETRIEVERS_OF[query.mode]
            searched = range(len(self.passages)) if name in used else range(0)
            order = [row for row in searched if self.retrievers[name].finds(float(own[number, row]))]
            order = sorted(order, key=lambda row: (-own[number, row], self.passages[row].id))[: batch.top_k]
            scores[number, : len(order)] = own[number, order]
            rows[number, : len(order)] = order
            for other in other_scores.keys() & set(used):
                other_scores[other][number, : len(order)] = scores_of_rows[other][number, order]
            ids.append([self.passages[row].id for row in order])
            passages.append([self.passages[row] for row in order])
        fits = self.message_rows is None or sum(map(len, ids)) <= self.message_rows
        return Hits(scores, rows, ids, passages if batch.with_passages and fits else None, other_scores or None)

    async def fetch(self, version: str, rows: Sequence[int], deadline: float, with_vectors: bool = False) -> Fetched:
        self.fetches.append(list(rows))
        await self.fetch_behaviour()
        rows = rows[: self.message_rows]
        return Fetched([self.passages[row] for row in rows], self.vectors[list(rows)] if with_vectors else None)

    async def locate(self, version: str, ids: Sequence[str], deadline: float, min_position: int = 0) -> list[int]:
        await self.lookup_behaviour()
        rows = {passage.id: row for row, passage in enumerate(self.passages)}
        return [rows.get(id_, -1) for id_ in ids]

    async def list_ids(
        self, version: str, prefix: str, after: str | None, limit: int, deadline: float, min_position: int = 0
    ) -> list[str]:
        await self.lookup_behaviour()
        ids = sorted(passage.id for passage in self.passages if passage.id.startswith(prefix))
        return [id_ for id_ in ids if after is None or id_ > after][:limit]

    async def ask(self, version: str, question: ShardQuestion[T], deadline: float) -> T:
        self.questions.append(question)
        await self.lookup_behaviour()
        return cast("T", self.answer(question))

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
        self.sentence_behaviour = Behaviour()
        self.sentence_calls: list[tuple[str, list[str]]] = []

    async def score(self, query: str, passages: Sequence[str], deadline: float) -> FloatArray:
        self.calls.append((query, list(passages), deadline))
        await self.behaviour()
        return np.array([float(passage.split()[-1]) for passage in passages], np.float32)

    async def score_sentences(
        self, query: str, passages: Sequence[str], sentences: Sequence[Sequence[Span]], deadline: float
    ) -> list[FloatArray | None]:
        """Prefers later sentences."""
        self.sentence_calls.append((query, list(passages)))
        await self.sentence_behaviour()
        return [np.arange(len(spans), dtype=np.float32) for spans in sentences]

    async def count_tokens(self, query: str, passages: Sequence[str], deadline: float) -> int:
        """A token is a word."""
        return sum(len(query.split()) + len(passage.split()) for passage in passages)


def _words(text: str) -> RowArray:
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    return np.array(spans, np.int64).reshape(-1, 2)


def _search_call(batch: ShardSearch, deadline: float) -> SearchCall:
    filters = [query.filter for query in batch.queries]
    search_params = [query.search_params for query in batch.queries]
    return SearchCall(
        batch.version,
        len(batch.queries),
        [query.mode for query in batch.queries],
        batch.top_k,
        deadline,
        batch.with_passages,
        filters if any(filters) else None,
        search_params if any(search_params) else None,
    )


def served_version(
    name: str,
    counts: Sequence[int],
    fields: FieldTypes | None = None,
    lexical: bool = False,
    index: VectorIndexInfo | None = None,
    late: bool = False,
    retrievers: Sequence[str] = (),
) -> ServedVersion:
    """A version with so many passages in each shard, and with what searches may ask for.

    Args:
        name: Of the version.
        counts: Passages of each shard.
        fields: Types of its metadata fields.
        lexical: Whether it can be searched by words.
        index: Its vector index.
        late: Whether its shards hold token vectors.
        retrievers: Names of those of its shards, if they are others.
    """
    names = tuple(retrievers) or (("dense", "lexical") if lexical else ("dense",))
    return ServedVersion(name, tuple(counts), names, fields or {}, index, late)


def fingerprint(max_tokens: int) -> Fingerprint:
    """Of an encoder that reads so many tokens."""
    return Fingerprint(
        model="fake", weights="fake-v1", dim=DIM, pooling="mean", query_prompt="", passage_prompt="",
        max_length=max_tokens, dtype="float32",
    )  # fmt: skip


def serve_settings(**changes: Any) -> ServeSettings:
    return ServeSettings.model_validate({"index": "/nowhere", **changes})
