"""Several queries searched with several retrievers.

Each retriever scores what the others found for the same query.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from shoal.errors import InvalidArgument
from shoal.modes import how_to_build, retrievers_of
from shoal.records import FloatArray, RowArray
from shoal.shard.messages import ShardQuery
from shoal.shard.retriever import ShardRetriever
from shoal.shard.selection import Selection


@dataclass(frozen=True, slots=True)
class RetrieverHits:
    """What one retriever found for b queries; the arrays of `shoal.shard.messages.Hits`, (b, k)."""

    scores: FloatArray
    rows: RowArray
    other_scores: dict[str, FloatArray] = field(default_factory=dict)

    def rows_of(self, query: int) -> RowArray:
        """The rows that were found for a query, int64 (n,)."""
        rows: RowArray = self.rows[query][self.rows[query] >= 0]
        return rows

    def add_scores(self, retriever: str, query: int, scores: FloatArray) -> None:
        """Note the scores, float32 (n,), that another retriever gives the rows found for a query."""
        if retriever not in self.other_scores:
            self.other_scores[retriever] = np.full(self.scores.shape, -np.inf, np.float32)
        self.other_scores[retriever][query, : len(scores)] = scores


def retrieve(
    retrievers: Mapping[str, ShardRetriever],
    queries: Sequence[ShardQuery],
    top_k: int,
    selections: Sequence[Selection | None],
) -> dict[str, RetrieverHits]:
    """Search for b queries with the retrievers that their modes use; returns hits of b rows by retriever.

    Of two retrievers that a query uses, the later one scores what the earlier found while it searches, because it may
    have the scores of all rows at hand then; the earlier one scores what the later found when that is known.

    Raises:
        InvalidArgument: A mode uses a retriever that the shard has not, or a query lacks what a retriever reads.
    """
    used = [retrievers_of(query.mode, retrievers) for query in queries]
    for name in dict.fromkeys(chain.from_iterable(used)):
        if name not in retrievers:
            raise InvalidArgument(f"this version has no {name} index; {how_to_build(name)}", param="mode")
    found: dict[str, RetrieverHits] = {}
    for name, retriever in retrievers.items():
        numbers = [number for number, names in enumerate(used) if name in names]
        if not numbers:
            continue
        earlier = [[other for other in found if other in used[number]] for number in numbers]
        known_rows = [
            _joined([found[other].rows_of(number) for other in others])
            for number, others in zip(numbers, earlier, strict=True)
        ]
        asked = [queries[number] for number in numbers]
        raw = retriever.search(asked, top_k, [selections[number] for number in numbers], known_rows)
        found[name] = hits = _spread(raw.scores, raw.rows, numbers, len(queries))
        for number, query, others, known_scores in zip(numbers, asked, earlier, raw.known_scores, strict=True):
            _share_scores(found, name, others, number, known_scores)
            for other in others:
                before = found[other]
                own = before.scores[number, : len(before.rows_of(number))]
                hits.add_scores(other, number, retrievers[other].score(query, hits.rows_of(number), own))
    return found


def _share_scores(
    found: Mapping[str, RetrieverHits], name: str, others: Sequence[str], query: int, known_scores: FloatArray
) -> None:
    """Give the hits of earlier retrievers the scores of a later one, which lie one retriever after the other."""
    start = 0
    for other in others:
        end = start + len(found[other].rows_of(query))
        found[other].add_scores(name, query, known_scores[start:end])
        start = end


def _spread(scores: FloatArray, rows: RowArray, numbers: Sequence[int], count: int) -> RetrieverHits:
    """Put what was found for some of `count` queries into their rows; nothing was found for the others."""
    if len(numbers) == count:
        return RetrieverHits(scores, rows)
    shape = (count, scores.shape[1])
    hits = RetrieverHits(np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64))
    hits.scores[numbers], hits.rows[numbers] = scores, rows
    return hits


def _joined(lines: Sequence[RowArray]) -> RowArray:
    return np.concatenate(lines) if lines else np.zeros(0, np.int64)
