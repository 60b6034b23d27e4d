"""Vectors of what is written: a few passages at a time, so that queries have their turn between them."""

import asyncio
from collections.abc import Iterator, Sequence

import numpy as np

from shoal.late.codec import Codec, Codes
from shoal.records import EmbeddedTexts, FloatArray
from shoal.search.embed_stage import SLICE_CHARACTERS
from shoal.search.hedging import retried
from shoal.search.services import EmbedService
from shoal.search.slices import failing_as

SLICE = 8
"""Passages that are encoded in one go, at most: a query that comes meanwhile waits for no more than these."""


class PassageEncoder:
    """Encodes the texts of all writes of a process one slice after another. Belongs to one event loop.

    Args:
        encoder: The encoder, which queries use too.
    """

    def __init__(self, encoder: EmbedService) -> None:
        self._encoder = encoder
        self._turn = asyncio.Lock()

    async def encode(
        self, texts: Sequence[str], codec: Codec | None, deadline: float
    ) -> tuple[FloatArray, list[Codes | None]]:
        """Return float32 (n, dim), L2-normalised, and of each text the codes of its tokens, None without a codec.

        Raises DeadlineExceeded, Overloaded, Unavailable, and ShoalError for an encoder that fails.
        """
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # alike in length, alike in cost
        vectors: dict[int, FloatArray] = {}
        codes: dict[int, Codes | None] = {}
        for places in _slices(order, texts):
            embedded = await self._embed([texts[place] for place in places], codec is not None, deadline)
            vectors.update(zip(places, embedded.vectors, strict=True))
            for place, tokens in zip(places, embedded.token_vectors or (), strict=codec is not None):
                codes[place] = None if codec is None else codec.encode(tokens)
        return np.stack([vectors[place] for place in range(len(texts))]), [
            codes.get(place) for place in range(len(texts))
        ]

    async def _embed(self, texts: Sequence[str], with_tokens: bool, deadline: float) -> EmbeddedTexts:
        async with self._turn:
            with failing_as("the encoder failed; the server's log says why"):
                embedded = await retried(
                    lambda: self._encoder.embed(texts, "passage", deadline, with_tokens=with_tokens)
                )
                if len(embedded.vectors) != len(texts) or not np.isfinite(embedded.vectors).all():
                    raise ValueError("a vector is missing or not finite; check the encoder and its dtype")
                return embedded


def _slices(order: Sequence[int], texts: Sequence[str]) -> Iterator[list[int]]:
    places: list[int] = []
    characters = 0
    for place in order:
        if places and (len(places) == SLICE or characters + len(texts[place]) > SLICE_CHARACTERS):
            yield places
            places, characters = [], 0
        places.append(place)
        characters += len(texts[place])
    if places:
        yield places
