"""Metrics of the deployments, for Prometheus through Ray's exporter, which puts `ray_` before their names."""

from typing import Any

from ray.util.metrics import Counter

from serve.deployments import QueryEncoder
from shoal.records import FloatArray


class MeteredQueryEncoder(QueryEncoder):
    """A query encoder that counts `shoal_encoder_queries` and, of these, `shoal_encoder_cache_hits`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._asked = Counter("shoal_encoder_queries", "Queries that the query encoder was asked for.")
        self._hits = Counter("shoal_encoder_cache_hits", "Of these, queries whose vector was remembered.")
        self._reported = (0, 0)

    async def encode(self, queries: list[str], deadline: float) -> FloatArray:
        """Return float32 (n, dim), L2-normalised, in input order."""
        try:
            return await super().encode(queries, deadline)
        finally:
            asked, hits = self._reported
            self._reported = (self.cache.asked, self.cache.hits)
            _add(self._asked, self._reported[0] - asked)
            _add(self._hits, self._reported[1] - hits)


def _add(counter: Counter, count: int) -> None:
    if count > 0:  # a Counter refuses 0
        counter.inc(count)
