"""Remembers the vectors of the queries that were asked last: people ask the same things again and again."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from shoal.records import FloatArray


class QueryCache:
    """Puts a memory of the `size` queries used last before an encoder. Not safe for concurrent calls.

    Args:
        encode: As `Encoder.encode_queries`. `asked` and `hits` count queries since the start; a query that occurs twice
            in one call is encoded once and counts as a hit.
    """

    def __init__(self, encode: Callable[..., FloatArray], size: int) -> None:
        self._encode = encode
        self._size = size
        self._vectors: OrderedDict[tuple[str | None, str], FloatArray] = OrderedDict()
        self.asked = 0
        self.hits = 0

    def encode_queries(self, queries: Sequence[str], instruction: str | None = None) -> FloatArray:
        """Return float32 (n, dim), L2-normalised, in input order.

        instruction: See `shoal.encoders.InstructedEncoder`; the same query with another one is another query.
        """
        encode = self._encode if instruction is None else partial(self._encode, instruction=instruction)
        if not self._size or not queries:
            self.asked += len(queries)
            return encode(queries)
        keys = {query: (instruction, query) for query in queries}
        known = {query: self._vectors[key] for query, key in keys.items() if key in self._vectors}
        new = [query for query in dict.fromkeys(queries) if query not in known]
        if new:
            # Copied row by row: a view would keep the whole batch alive.
            known.update((query, vector.copy()) for query, vector in zip(new, encode(new), strict=True))
        self.asked += len(queries)
        self.hits += len(queries) - len(new)
        for query in queries:
            self._vectors[keys[query]] = known[query]
            self._vectors.move_to_end(keys[query])
        while len(self._vectors) > self._size:
            self._vectors.popitem(last=False)
        return np.stack([known[query] for query in queries])
