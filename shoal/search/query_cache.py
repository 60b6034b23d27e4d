"""Remembers the vectors of the queries that were asked last: people ask the same things again and again."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

from shoal.encoders import Encoder, TextVectors
from shoal.records import FloatArray

T = TypeVar("T")
TOKEN_BYTES = 64 * 2**20
"""Most bytes of the vectors of tokens that are remembered: some 2,000 queries of 20 tokens of 384 dimensions."""


class QueryCache:
    """Puts a memory of the `size` queries used last before an encoder. Only `recall` may run beside another call.

    Those whose token vectors were asked for have a memory of their own, of at most `token_bytes`.

    Args:
        encoder: What makes the vectors, and those of tokens where they are asked for. `asked` and `hits` count queries
            since the start; a query that occurs twice in one call is encoded once and counts as a hit.
    """

    def __init__(self, encoder: Encoder, size: int, token_bytes: int = TOKEN_BYTES) -> None:
        self._encoder: Any = encoder
        self._vectors: _Memory[FloatArray] = _Memory(size, None, lambda vector: vector.nbytes)
        self._tokens: _Memory[TextVectors] = _Memory(
            size, token_bytes, lambda text: text.vector.nbytes + text.tokens.nbytes
        )
        self._counting = threading.Lock()
        self.asked = 0
        self.hits = 0

    def encode_queries(self, queries: Sequence[str], instruction: str | None = None) -> FloatArray:
        """Return float32 (n, dim), L2-normalised, in input order.

        instruction: See `shoal.encoders.InstructedEncoder`; the same query with another one is another query.
        """
        encode = self._encoder.encode_queries

        def new_vectors(texts: Sequence[str]) -> list[FloatArray]:
            # Copied row by row: a view would keep the whole batch alive.
            return [vector.copy() for vector in _with(encode, instruction)(texts)]

        if not self._vectors.entries or not queries:
            self._tally(len(queries), 0)
            vectors: FloatArray = _with(encode, instruction)(queries)
            return vectors
        rows: list[FloatArray] = self._recalled(self._vectors, new_vectors, queries, instruction)
        return np.stack(rows)

    def recall(self, query: str, instruction: str | None = None) -> FloatArray | None:
        """Return the vector of a query where it is remembered, float32 (dim,), L2-normalised; callers only read it."""
        key = (instruction, query)
        if (vector := self._vectors.get(key)) is not None:
            self._vectors.put(key, vector)
            self._tally(1, 1)
        return vector

    def _tally(self, asked: int, hits: int) -> None:
        with self._counting:
            self.asked += asked
            self.hits += hits

    def encode_query_tokens(self, queries: Sequence[str], instruction: str | None = None) -> list[TextVectors]:
        """Return the vectors and those of the tokens of a `TokenEncoder`, in input order; callers only read them."""
        encode = self._encoder.encode_query_tokens

        def new_vectors(texts: Sequence[str]) -> list[TextVectors]:
            return [TextVectors(text.vector.copy(), text.tokens.copy()) for text in _with(encode, instruction)(texts)]

        return self._recalled(self._tokens, new_vectors, queries, instruction)

    def _recalled(
        self,
        memory: "_Memory[T]",
        encode: Callable[[Sequence[str]], list[T]],
        queries: Sequence[str],
        instruction: str | None,
    ) -> list[T]:
        """What is remembered of queries, and of the others what the encoder makes of them, each once."""
        known = {query: memory.get((instruction, query)) for query in queries}
        new = [query for query, kept in known.items() if kept is None]
        made = dict(zip(new, encode(new), strict=True)) if new else {}
        self._tally(len(queries), len(queries) - len(new) if memory.entries else 0)
        found = [made[query] if (kept := known[query]) is None else kept for query in queries]
        for query, value in zip(queries, found, strict=True):
            memory.put((instruction, query), value)
        return found


class _Memory(Generic[T]):
    """The values that were put last, bounded by their number and, unless that is None, by their bytes.

    Safe for concurrent calls.
    """

    def __init__(self, entries: int, max_bytes: int | None, size_of: Callable[[T], int]) -> None:
        self.entries = entries
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._kept: OrderedDict[tuple[str | None, str], T] = OrderedDict()
        self._bytes = 0
        self._putting = threading.Lock()

    def get(self, key: tuple[str | None, str]) -> T | None:
        return self._kept.get(key)

    def put(self, key: tuple[str | None, str], value: T) -> None:
        with self._putting:
            if (before := self._kept.pop(key, None)) is not None:
                self._bytes -= self._size_of(before)
            self._kept[key] = value
            self._bytes += self._size_of(value)
            while len(self._kept) > self.entries or (self._max_bytes is not None and self._bytes > self._max_bytes):
                _, forgotten = self._kept.popitem(last=False)
                self._bytes -= self._size_of(forgotten)


def _with(encode: Callable[..., Any], instruction: str | None) -> Callable[..., Any]:
    return encode if instruction is None else partial(encode, instruction=instruction)
