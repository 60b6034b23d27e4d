"""The rows that score highest for the terms of a query, without adding up what cannot matter (MaxScore).

Terms are taken from the rarest to the most frequent (Turtle & Flood 1995, "Query evaluation: strategies and
optimizations"). Whatever the terms that are left could add at most, rows that stay below the `top_k` best so far are
dropped; once this holds for rows without any of the earlier terms, the lists of the frequent ones are not gone through
any more, but searched for the rows that remain.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.records import FloatArray, RowArray

Rows = NDArray[np.int32]
"""Rows as lists hold them: to search an array for those of another type copies it."""
Places = slice | NDArray[np.integer[Any]]
"""Places in the list of a term."""
SHORT = 2**15
"""Places of all lists up to which they are added up in the order of the query, which leaves nothing to be done anew."""
TRACKED_SHARE = 16
"""Rows are noted one by one until the lists that hold them have one place for so many rows of the shard."""
SEARCH_FACTOR = 16
"""To search a list for a row takes about as long as to go through so many of its places."""
_ROUNDING = 2.0**-22
"""What sums of numbers of four bytes are off for each number, relatively, and more."""


@dataclass(frozen=True, slots=True, eq=False)
class TermList:
    """The rows of one shard that hold a term of a query, and what it adds to their scores.

    rows: int32 (n,), ascending.
    scores_at: gives the scores at places of the list, float32, all above 0.
    max_score: gives a number that none of them is above.
    """

    rows: Rows
    scores_at: Callable[[Places], FloatArray]
    max_score: Callable[[], float]

    def __len__(self) -> int:
        return len(self.rows)

    def scores_of(self, rows: Rows) -> FloatArray:
        """Return what the term adds to rows, float32 (n,); 0 for those that do not hold it."""
        places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        scores: FloatArray = self.scores_at(places) * (self.rows[places] == rows)
        return scores


def scores_of(lists: Sequence[TermList], rows: RowArray) -> FloatArray:
    """Score rows, int64 (n,), for the terms of a query in their order; returns float32 (n,), 0 where there is none."""
    scores, wanted = np.zeros(len(rows), np.float32), rows.astype(np.int32)
    for each in lists:
        scores += each.scores_of(wanted)
    return scores


@dataclass(frozen=True, slots=True, eq=False)
class TermHits:
    """What was found for the terms of a query.

    rows: int64 (n,) ascending, every one that scores as high as the last of the best, and maybe some more.
    scores: float32 (n,), theirs, the same to the last bit as `scores_of` has them. known_scores: those of known rows.
    """

    rows: RowArray
    scores: FloatArray
    known_scores: FloatArray


class Sums:
    """Adds up the scores of the rows of a shard, for one query at a time. Its memory serves the next one.

    Args:
        count: Rows.
    """

    def __init__(self, count: int) -> None:
        self._sums = np.zeros(count, np.float32)

    def best(
        self, lists: Sequence[TermList], top_k: int, holds: Callable[[Rows], NDArray[np.bool_]] | None, known: RowArray
    ) -> TermHits:
        """Find the rows whose scores are the `top_k` highest above 0.

        Args:
            lists: Those of the terms of the query in their order, none of them empty.
            top_k: At least 1.
            holds: Tells of rows, (n,), which may be found; None for all.
            known: int64 (m,), rows whose scores are wanted too.
        """
        is_short = sum(map(len, lists)) <= SHORT
        ordered = list(lists) if is_short else sorted(lists, key=len)
        rows = np.sort(_Search(self._sums, ordered, top_k, holds).run(prunes=not is_short)).astype(np.int64)
        if is_short:
            hits = TermHits(rows, self._sums[rows], self._sums[known])
        else:
            hits = TermHits(rows, *np.split(scores_of(lists, np.concatenate([rows, known])), [len(rows)]))
        self._clear(ordered)
        return hits

    def _clear(self, lists: Sequence[TermList]) -> None:
        if TRACKED_SHARE * sum(map(len, lists)) > len(self._sums):
            self._sums.fill(0)
            return
        for each in lists:
            self._sums[each.rows] = 0


class _Search:
    """One search: rows that are candidates still, and a score that the last of the best has at least.

    Args:
        sums: float32 (count,), zeros, of which those of candidates are right at the end.
        lists, top_k, holds: As for `Sums.best`, the lists in the order in which they are added.
    """

    def __init__(
        self,
        sums: FloatArray,
        lists: Sequence[TermList],
        top_k: int,
        holds: Callable[[Rows], NDArray[np.bool_]] | None,
    ) -> None:
        self._sums, self._lists, self._top_k, self._holds = sums, lists, top_k, holds
        self._slack = (len(lists) + 2) * _ROUNDING
        self._rows: Rows = np.zeros(0, np.int32)
        self._is_complete = True  # whether any other row with a score of this far is known to be no candidate
        self._threshold = 0.0

    def run(self, prunes: bool) -> Rows:
        """Return the candidates after all lists; `prunes` is whether the greatest scores of lists are looked at."""
        greatest = [each.max_score() for each in self._lists] if prunes else []
        rests = [*accumulate(reversed(greatest), initial=0.0)][::-1] if prunes else [np.inf] * len(self._lists) + [0.0]
        added = 0
        for each, rest, rest_after in zip(self._lists, rests, rests[1:], strict=False):
            added += len(each)
            if self._is_beyond_reach(rest):
                self._complete(rest)
                self._add_to_candidates(each)
            else:
                self._add(each, tracks=TRACKED_SHARE * added <= len(self._sums))
            self._narrow(rest_after)
        self._complete(0.0)
        return self._rows

    def _is_beyond_reach(self, score: float) -> bool:
        """Whether a row of this score at most is not among the best."""
        return score * (1 + self._slack) < self._threshold

    def _add(self, each: TermList, tracks: bool) -> None:
        """Add a list to the sums of all of its rows, and note those that are new unless they are many."""
        if tracks:
            new = each.rows[self._sums[each.rows] == 0]
            self._rows = np.concatenate([self._rows, self._allowed(new)])
        else:
            self._is_complete = False
        np.add.at(self._sums, each.rows, each.scores_at(slice(None)))

    def _add_to_candidates(self, each: TermList) -> None:
        """Add a list to the sums of candidates at least."""
        if SEARCH_FACTOR * len(self._rows) < len(each):
            self._sums[self._rows] += each.scores_of(self._rows)
        else:
            np.add.at(self._sums, each.rows, each.scores_at(slice(None)))

    def _narrow(self, rest: float) -> None:
        """Raise the threshold, and drop candidates that stay below it even if so much is added."""
        if len(self._rows) <= self._top_k or rest == np.inf:
            return
        scores = self._sums[self._rows]
        last = float(np.partition(scores, len(scores) - self._top_k)[len(scores) - self._top_k])
        self._threshold = max(self._threshold, last * (1 - self._slack))
        self._rows = self._rows[(scores + rest) * (1 + self._slack) >= self._threshold]

    def _complete(self, rest: float) -> None:
        """Collect the candidates where not all were noted."""
        if self._is_complete:
            return
        least = max((self._threshold / (1 + self._slack) - rest) * (1 - self._slack), 0.0)
        found = np.flatnonzero(self._sums >= least if least else self._sums > 0)
        self._rows, self._is_complete = self._allowed(found.astype(np.int32)), True
        self._narrow(rest)

    def _allowed(self, rows: Rows) -> Rows:
        return rows if self._holds is None else rows[self._holds(rows)]
