"""How much of the exact nearest passages an index finds, measured shard by shard and merged over the corpus.

An approximate index is measured with all search parameters worth trying; the cheapest that find enough are chosen by
costs that are computed, because equal builds have to choose alike whatever else the machine does.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray

from shoal.errors import Conflict
from shoal.index_root.manifest import CurvePoint, VectorIndexInfo
from shoal.indexes import Effort, ShardIndex
from shoal.indexing.commits import NearestSample, Trial
from shoal.records import FloatArray, RowArray
from shoal.settings import IndexSettings

T = TypeVar("T")

RECALL_AT = 10
"""Nearest passages of which recall is the share that was found."""
_POOL = 100
"""Nearest passages of a shard whose exact scores are known; a found passage beyond them scores no more than these."""
_BLOCK_ROWS = 4096
"""Vectors that are compared with all queries at once."""
_TIE = 1e-5
"""Cosines closer than this are equal: two orders of summation differ by less, two different passages rarely do."""


class ExactSearch:
    """The nearest rows of a shard by exact search, gathered while its blocks stream by.

    Memory: q times (100 + 4096 + the rows of a block) scores, and the vectors of a block.

    Args:
        queries: float32 (q, dim).
    """

    def __init__(self, queries: FloatArray) -> None:
        self.queries = queries
        self._scores = np.zeros((len(queries), 0), np.float32)
        self._rows = np.zeros((len(queries), 0), np.int64)
        self._count = 0

    def tee(self, blocks: Iterable[tuple[T, FloatArray]]) -> Iterator[tuple[T, FloatArray]]:
        """Hand blocks of vectors, float32 (n, dim), through and remember the nearest rows."""
        if len(self.queries) == 0:
            yield from blocks
            return
        waiting: list[FloatArray] = []
        for block, vectors in blocks:
            waiting.append(self.queries @ vectors.T)
            if sum(scores.shape[1] for scores in waiting) >= _BLOCK_ROWS:
                self._add(waiting)
                waiting = []
            yield block, vectors
        self._add(waiting)

    def _add(self, blocks: list[FloatArray]) -> None:
        scores = np.concatenate([self._scores, *blocks], axis=1)
        added = scores.shape[1] - self._scores.shape[1]
        rows = np.broadcast_to(np.arange(self._count, self._count + added), (len(self.queries), added))
        rows = np.concatenate([self._rows, rows], axis=1)
        self._count += added
        if scores.shape[1] > _POOL:
            best = np.argpartition(scores, -_POOL, axis=1)[:, -_POOL:]
            scores, rows = np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)
        self._scores, self._rows = scores, rows

    def compare(self, found_scores: FloatArray, found_rows: RowArray) -> NearestSample:
        """Compare with what the index found: scores (q, k) descending and rows (q, k), padded with -1."""
        exact = -np.sort(-self._scores, axis=1)[:, :RECALL_AT]
        found, found_exact = [], []
        for query in range(len(self.queries)):
            known = dict(zip(self._rows[query].tolist(), self._scores[query].tolist(), strict=True))
            least = min(known.values(), default=-np.inf)
            valid = found_rows[query] >= 0
            scores, rows = found_scores[query][valid].tolist(), found_rows[query][valid].tolist()
            found.append(scores)
            found_exact.append([known.get(row, min(score, least)) for row, score in zip(rows, scores, strict=True)])
        return NearestSample(exact=exact.tolist(), found=found, found_exact=found_exact)


def measure(
    opened: Callable[[], ShardIndex], queries: FloatArray, step: int | None = None, search_params: str = ""
) -> tuple[FloatArray, RowArray, float | None]:
    """Search an index with queries float32 (q, dim), one by one.

    Args:
        step: Rows to be searched at a time, each time through a new mapping of the file, so that no more of it is
            resident; None searches all at once.
        search_params: As in `ShardIndex.search`.

    Returns:
        Scores (q, 10), rows (q, 10) and the median time of one query over all rows in milliseconds, None without
        queries.
    """
    scores = np.full((len(queries), RECALL_AT), -np.inf, np.float32)
    rows = np.full((len(queries), RECALL_AT), -1, np.int64)
    if not len(queries):
        return scores, rows, None
    seconds = np.zeros(len(queries))
    count = opened().count
    for start in range(0, max(count, 1), step or max(count, 1)):
        index, selector = opened(), None if step is None else faiss.IDSelectorRange(start, start + step)
        for number in range(len(queries)):
            began = time.perf_counter()
            found = index.search(queries[number : number + 1], RECALL_AT, selector, search_params=search_params)
            seconds[number] += time.perf_counter() - began
            both = np.concatenate([scores[number], found[0][0]]), np.concatenate([rows[number], found[1][0]])
            best = np.argsort(-both[0], kind="stable")[:RECALL_AT]
            scores[number], rows[number] = both[0][best], both[1][best]
    return scores, rows, round(float(np.median(seconds)) * 1000, 3)


def attempt(opened: Callable[[], ShardIndex], exact: ExactSearch, step: int | None = None) -> list[Trial]:
    """Measure an index as it is opened, and with every effort that its kind has to try.

    Memory: ten scores a query and effort.

    Args:
        step: As in `measure`.
    """
    efforts = [Effort("", 0.0), *(opened().efforts() if len(exact.queries) else [])]
    trials = []
    for effort in efforts:
        scores, rows, latency_ms = measure(opened, exact.queries, step, effort.search)
        nearest = exact.compare(scores, rows)
        trials.append(Trial(search=effort.search, cost=effort.cost, nearest=nearest, latency_ms=latency_ms))
    return trials


class CorpusRecall:
    """Recall at 10 over all shards: the merged index results against the merged exact ones, by score.

    A found passage counts when its exact score reaches that of the tenth nearest passage: of equal vectors, any
    ten are right.
    """

    def __init__(self) -> None:
        self._exact: NDArray[np.float64] = np.empty((0, RECALL_AT))
        self._found = self._found_exact = self._exact

    def add(self, sample: NearestSample) -> None:
        """Merge what one shard gave; the order of the shards does not matter but for ties."""
        if not len(self._exact):  # as many queries as were sampled: a small corpus has fewer than were asked for
            self._exact = self._found = self._found_exact = np.full((len(sample.exact), RECALL_AT), -np.inf)
        self._exact = -np.sort(-np.concatenate([self._exact, _padded(sample.exact)], axis=1), axis=1)[:, :RECALL_AT]
        found = np.concatenate([self._found, _padded(sample.found)], axis=1)
        found_exact = np.concatenate([self._found_exact, _padded(sample.found_exact)], axis=1)
        best = np.argsort(-found, axis=1, kind="stable")[:, :RECALL_AT]
        self._found = np.take_along_axis(found, best, axis=1)
        self._found_exact = np.take_along_axis(found_exact, best, axis=1)

    def value(self) -> float | None:
        """The share found, rounded to four decimals; None if there were no queries."""
        wanted = np.isfinite(self._exact)
        if not wanted.any():
            return None
        tenth = np.where(wanted, self._exact, np.inf).min(axis=1, keepdims=True)
        hits = np.isfinite(self._found) & (self._found_exact >= tenth - _TIE)
        return round(float(np.minimum(hits.sum(axis=1), wanted.sum(axis=1)).sum() / wanted.sum()), 4)


class Tuning:
    """The trials of all shards, merged: the recall-latency curve of a version, and what it is searched with."""

    def __init__(self) -> None:
        self._queries = 0
        self._recalls: list[CorpusRecall] = []
        self._searches: list[str] = []
        self._costs: list[float] = []
        self._latencies: list[list[float]] = []

    def add(self, trials: Sequence[Trial]) -> None:
        """Merge what one shard gave; all shards have tried the same.

        Raises Conflict when another run of the build has measured this shard with more or fewer queries meanwhile.
        """
        queries = len(trials[0].nearest.exact)
        if not self._recalls:
            self._queries = queries
            self._searches = [trial.search for trial in trials]
            self._recalls = [CorpusRecall() for _ in trials]
            self._costs = [0.0] * len(trials)
            self._latencies = [[] for _ in trials]
        if queries != self._queries:
            raise Conflict(
                f"another run of this build measures recall with {queries} queries, this one with {self._queries}; run "
                "the same command again when it has ended"
            )
        for place, trial in enumerate(trials):
            self._recalls[place].add(trial.nearest)
            self._costs[place] += trial.cost
            if trial.latency_ms is not None:
                self._latencies[place].append(trial.latency_ms)

    def describe(self, settings: IndexSettings) -> VectorIndexInfo:
        """The index as the manifest describes it.

        Parameters that the settings name are kept. Else it is the cheapest of the curve that reach the recall target,
        or those that find most if none does.
        """
        recalls, latencies = [recall.value() for recall in self._recalls], list(map(_median, self._latencies))
        curve: list[CurvePoint] = []
        for place in sorted(range(1, len(recalls)), key=lambda place: (self._costs[place], place)):
            recall, latency_ms = recalls[place], latencies[place]
            if recall is not None and latency_ms is not None and (not curve or recall > curve[-1].recall):
                curve.append(CurvePoint(search=self._searches[place], recall=recall, latency_ms=latency_ms))
        kind = settings.index_kind
        if settings.index_search or not curve:
            first = (recalls[0], latencies[0]) if recalls else (None, None)
            search, recall, latency_ms = settings.index_search, *first
        else:
            chosen = next((point for point in curve if point.recall >= settings.recall_target), curve[-1])
            search, recall, latency_ms = chosen.search, chosen.recall, chosen.latency_ms
        return VectorIndexInfo(kind=kind, search=search, recall_at_10=recall, latency_ms=latency_ms, curve=curve)


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 3) if values else None


def _padded(rows: list[list[float]]) -> NDArray[np.float64]:
    padded = np.full((len(rows), RECALL_AT), -np.inf)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded
