"""Texts for whoever wants their vectors, made in slices by the encoder that searches need too."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.encoders import Encoder, TokenCounter, TokenEncoder
from shoal.encoders._absent import is_absent
from shoal.errors import InvalidArgument
from shoal.records import EmbeddedTexts, InputType
from shoal.search.batching import Batcher
from shoal.search.hedging import retried
from shoal.search.query_cache import QueryCache
from shoal.search.services import EmbedService, NullObserver, Observer
from shoal.search.slices import failing_as, in_turn
from shoal.settings import ServeSettings
from shoal.system import spans, tracing

SLICE_CHARACTERS = 4096
"""Characters of the texts of one call, which are some thousand tokens: a search that comes meanwhile waits for one
call at most. A longer text has a call of its own, and an encoder reads no more of it than `max_length` tokens, or
`passage_tokens`."""


def embed_texts(
    encoder: Encoder, cache: QueryCache, texts: Sequence[str], input_type: InputType, with_tokens: bool
) -> EmbeddedTexts:
    """Make vectors of texts. Blocks, and is not safe for concurrent calls of one encoder.

    Args:
        encoder: What makes them.
        cache: Its memory for queries.
        texts: In the order of the answer.
        input_type: What they are.
        with_tokens: Whether the vectors of their tokens are wanted too.

    Raises:
        InvalidArgument: The encoder has no vectors of tokens, or there is none.
    """
    if is_absent(encoder.fingerprint().model):
        raise InvalidArgument(
            f"this index has no encoder: its vectors of {encoder.dim} dimensions come from elsewhere",
            param="inputs",
        )
    fingerprint, are_queries = encoder.fingerprint(), input_type == "query"
    lengths = [0] * len(texts)
    if isinstance(encoder, TokenCounter):
        lengths = (encoder.count_query_tokens if are_queries else encoder.count_passage_tokens)(texts)
    tokens: list[NDArray[np.floating]] | None = None
    if with_tokens and texts:
        if not isinstance(encoder, TokenEncoder):
            raise InvalidArgument("the encoder has no token vectors; leave tokens out of include", param="include")
        both = (cache.encode_query_tokens if are_queries else encoder.encode_passage_tokens)(texts)
        vectors, tokens = np.stack([text.vector for text in both]), [text.tokens for text in both]
    else:
        vectors = (cache.encode_queries if are_queries else encoder.encode_passages)(texts)
    most = fingerprint.max_length if are_queries else fingerprint.passage_length
    return EmbeddedTexts(fingerprint.model, vectors, list(lengths), most, tokens)


@dataclass(frozen=True, slots=True)
class _Slice:
    """Some texts of a request."""

    texts: Sequence[str]
    input_type: InputType
    with_tokens: bool
    deadline: float
    requests: tuple[str, ...]
    spans: tuple[Any, ...]

    @property
    def characters(self) -> int:
        return sum(map(len, self.texts))

    def reads_like(self, other: "_Slice") -> bool:
        """Whether one call can serve both."""
        return (self.input_type, self.with_tokens) == (other.input_type, other.with_tokens)


class EmbedStage:
    """Embeds texts with a service, a slice at a time, so that searches get their turn between two of them.

    Slices of small requests that wait together share a call.

    Args:
        encoder: Makes the vectors.
        settings: Of the server.
        clock: That of deadlines, in seconds.
        observer: Hears of the calls.
    """

    def __init__(
        self,
        encoder: EmbedService,
        settings: ServeSettings,
        clock: Callable[[], float] = time.monotonic,
        observer: Observer | None = None,
    ) -> None:
        self._encoder = encoder
        self._observer = observer or NullObserver()
        self._at_once = max(1, settings.encoder_replicas)
        self._slice_texts = settings.max_batch
        self._most_tokens = settings.max_token_vectors
        self._queue: Batcher[_Slice, EmbeddedTexts] = Batcher(
            self._embed_batch,
            max_batch=settings.max_batch,
            max_waiting=settings.max_waiting,
            concurrency=self._at_once,
            fits=self._fits,
            cost=lambda part: part.characters,
            name="encoder",
            clock=clock,
        )

    async def embed(
        self, texts: Sequence[str], input_type: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        """Embed texts until an absolute deadline.

        Raises:
            Overloaded: At once when too many wait.
            InvalidArgument: Token vectors that the encoder has not, or more of them than an answer may hold.
            DeadlineExceeded, Unavailable, ShoalError: As a search.
        """
        tokens = 0

        async def embed_slice(part: Sequence[str]) -> EmbeddedTexts:
            nonlocal tokens
            item = _Slice(part, input_type, with_tokens, deadline, tracing.requests(), spans.current())
            embedded = await self._queue.submit(item, deadline)
            tokens += sum(map(len, embedded.token_vectors or ()))
            if tokens > self._most_tokens:
                raise InvalidArgument(
                    f"inputs have more than {self._most_tokens:,} tokens, which is as many as one answer may hold the "
                    "vectors of; send fewer texts, or leave tokens out of include",
                    param="inputs",
                )
            return embedded

        slices = list(self._slices(texts)) or [[]]
        return EmbeddedTexts.join(await in_turn(embed_slice, slices, self._at_once))

    def _slices(self, texts: Sequence[str]) -> Iterator[Sequence[str]]:
        start = characters = 0
        for position, text in enumerate(texts):
            full = characters + len(text) > SLICE_CHARACTERS or position - start >= self._slice_texts
            if full and position > start:
                yield texts[start:position]
                start, characters = position, 0
            characters += len(text)
        if start < len(texts):
            yield texts[start:]

    def _fits(self, batch: list[_Slice], part: _Slice) -> bool:
        together = [*batch, part]
        return (
            part.reads_like(batch[0])
            and sum(other.characters for other in together) <= SLICE_CHARACTERS
            and sum(len(other.texts) for other in together) <= self._slice_texts
        )

    async def _embed_batch(self, batch: list[_Slice]) -> list[EmbeddedTexts]:
        tracing.work_for(*(part.requests for part in batch))
        spans.work_under(*(part.spans for part in batch))
        first, latest = batch[0], max(part.deadline for part in batch)
        texts = [text for part in batch for text in part.texts]
        self._observer.batch("embed", len(texts))
        with failing_as("the encoder failed; the server's log says why"):
            embedded = await retried(
                lambda: self._encoder.embed(texts, first.input_type, latest, with_tokens=first.with_tokens)
            )
            if len(embedded.vectors) != len(texts) or not np.isfinite(embedded.vectors).all():
                raise ValueError("a vector is missing or not finite; check the encoder and its dtype")
        bounds = np.cumsum([0, *(len(part.texts) for part in batch)]).tolist()
        return [embedded.part(slice(start, stop)) for start, stop in pairwise(bounds)]
