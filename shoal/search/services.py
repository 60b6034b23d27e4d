"""What the search pipeline asks of the services behind it. `serve/` adapts Ray handles to these, tests use fakes.

All deadlines are by the monotonic clock of this process, in seconds. Between processes travels what remains of them
(`shoal.system.deadlines`), so that no clock need agree with another.
"""

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from shoal.encoders import TextVectors
from shoal.fingerprint import Fingerprint
from shoal.records import EmbeddedTexts, FloatArray, InputType, RowArray, ScoreScale, Span, TermWeights
from shoal.shard.messages import Fetched, ShardHits, ShardSearch
from shoal.shard.questions import ShardQuestion

T = TypeVar("T")


class EncodeService(Protocol):
    """The query encoder."""

    async def encode(self, queries: Sequence[str], deadline: float, instruction: str | None = None) -> FloatArray:
        """Return float32 (n, dim), L2-normalised, in input order.

        instruction: See `shoal.encoders.InstructedEncoder`; only for an encoder that reads one.
        """
        ...

    async def encode_tokens(
        self, queries: Sequence[str], deadline: float, instruction: str | None = None
    ) -> list[TextVectors]:
        """Return the vectors and those of the tokens, in input order; instruction: as of `encode`."""
        ...

    async def encode_terms(self, queries: Sequence[str], deadline: float) -> list[TermWeights]:
        """Return what the sparse model beside the encoder makes of queries, in input order; only where there is one."""
        ...

    async def count_tokens(self, queries: Sequence[str], deadline: float) -> list[int]:
        """Return how many tokens whole queries have, in input order; 0 where that is not known or does not matter."""
        ...

    async def locate_tokens(self, passages: Sequence[str], deadline: float) -> list[RowArray] | None:
        """Return where the tokens of each passage lie in it, int64 (t, 2), in characters; None if that is not known."""
        ...


@runtime_checkable
class RememberingEncoder(Protocol):
    """An `EncodeService` in this process, which remembers vectors."""

    def recall(self, query: str, instruction: str | None = None) -> FloatArray | None:
        """Return the vector of a query, float32 (dim,), L2-normalised, where it is remembered; callers only read it."""
        ...


class EmbedService(Protocol):
    """The encoder, for texts whose vectors somebody wants."""

    async def embed(
        self, texts: Sequence[str], input_type: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        """Return the vectors of texts, and those of their tokens if asked for, in input order."""
        ...


class ShardService(Protocol):
    """One shard. Its position in the pipeline's list is its number."""

    async def search(self, batch: ShardSearch, deadline: float) -> ShardHits:
        """Search this shard for a batch of queries."""
        ...

    async def fetch(self, version: str, rows: Sequence[int], deadline: float, with_vectors: bool = False) -> Fetched:
        """Return the passages (and, if asked for, the vectors) of rows of this shard, in the order asked.

        Only of the first rows, at least one, if all of them exceed MESSAGE_BYTES: the caller asks for the rest.
        """
        ...

    async def score(self, version: str, query: TextVectors, rows: Sequence[int], deadline: float) -> FloatArray:
        """Return, float32 (n,), what late interaction gives rows of this shard by their stored token vectors."""
        ...

    async def locate(self, version: str, ids: Sequence[str], deadline: float, min_position: int = 0) -> list[int]:
        """Return the row of each id, -1 for one that is not in this shard.

        Raises Behind where the shard has not seen a position of the log by the deadline.
        """
        ...

    async def list_ids(
        self, version: str, prefix: str, after: str | None, limit: int, deadline: float, min_position: int = 0
    ) -> list[str]:
        """Return the first ids, in the order of their UTF-8 bytes, that begin with a prefix and come after an id.

        Raises as `locate`.
        """
        ...

    async def ask(self, version: str, question: ShardQuestion[T], deadline: float) -> T:
        """Return what this shard answers to a question about its rows."""
        ...


@runtime_checkable
class PromptShard(Protocol):
    """A `ShardService` in this process, which does short searches where they are asked for."""

    def prompt_size(self, version: str, kind: Hashable) -> int:
        """How many queries of a kind (`ShardSearch.pace_kind`) are searched for in a moment; 0 where it is not known.

        A moment is `shoal.system.threads.SHORT_S`.
        """
        ...

    def search_at_once(self, batch: ShardSearch) -> ShardHits:
        """Search this shard for a batch of queries in this very thread."""
        ...


class RerankService(Protocol):
    """The pool of rerankers."""

    async def score(self, query: str, passages: Sequence[str], deadline: float) -> FloatArray:
        """Return float32 (n,), higher is better, in input order."""
        ...

    async def score_sentences(
        self, query: str, passages: Sequence[str], sentences: Sequence[Sequence[Span]], deadline: float
    ) -> list[FloatArray | None]:
        """Return how well each sentence of some passages matches a query; see `shoal.rerankers.SentenceScorer`."""
        ...

    async def count_tokens(self, query: str, passages: Sequence[str], deadline: float) -> int:
        """Count the tokens that scoring these passages reads; 0 where that is not known."""
        ...


class ModelEncoder(EncodeService, EmbedService, Protocol):
    """An encoder, for searches and for whoever wants vectors."""


class SearchModels(Protocol):
    """The models of a search."""

    @property
    def fingerprint(self) -> Fingerprint:
        """What decides the vectors of the encoder."""
        ...

    @property
    def encoder(self) -> ModelEncoder:
        """Encodes queries, and passages for who asks for their vectors."""
        ...

    @property
    def reranker(self) -> RerankService | None:
        """The second stage; None without one."""
        ...

    @property
    def reranker_kind(self) -> str | None:
        """What the reranker is (`shoal.rerankers.kind_of`); None without one."""
        ...

    @property
    def reranker_scale(self) -> ScoreScale | None:
        """Where its scores lie (`shoal.rerankers.scale_of`)."""
        ...

    def close(self) -> None:
        """Let go of what they hold."""
        ...


class Observer(Protocol):
    """Hears what the pipeline does for several queries at once, which no single answer tells."""

    def batch(self, stage: str, size: int) -> None:
        """Hear that a call for so many queries begins."""
        ...

    def shard(self, shard: int, seconds: float) -> None:
        """Hear how long a shard took to answer a search."""
        ...


class NullObserver:
    """An observer that nobody asks."""

    def batch(self, stage: str, size: int) -> None:
        """Do nothing."""

    def shard(self, shard: int, seconds: float) -> None:
        """Do nothing."""
