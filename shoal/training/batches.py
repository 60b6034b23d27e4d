"""Which queries and passages every step sees: a function of seed and step alone, so a run can go on anywhere."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shoal.training.mining import Examples


@dataclass(frozen=True, slots=True)
class Listing:
    """One query of a step with its passages; the first is the one to rank first.

    rows: of `Examples.passages`, as many as `passages`. positives: all rows known to be relevant, whether shown or not.
    """

    query: str
    passages: list[str]
    rows: list[int]
    positives: frozenset[int]

    @property
    def characters(self) -> int:
        """Length of the longest passage."""
        return max(map(len, self.passages))


def steps_per_epoch(examples: Examples, batch_queries: int) -> int:
    """Steps in which every query is seen once; the last one of an epoch may have fewer."""
    return math.ceil(len(examples.train) / batch_queries)


def listings(examples: Examples, step: int, *, batch_queries: int, negatives: int, seed: int) -> list[Listing]:
    """Return the queries of a step, counted from 0, in a random order, with negatives drawn anew for every step.

    Negatives that came with the data go before mined ones.
    """
    epoch, number = divmod(step, steps_per_epoch(examples, batch_queries))
    order = np.random.default_rng([seed, 2, epoch]).permutation(len(examples.train))
    chance = np.random.default_rng([seed, 3, step])
    found = []
    for row in order[number * batch_queries : (number + 1) * batch_queries]:
        example = examples.train[row]
        positive = example.positives[chance.integers(len(example.positives))]
        shuffled = [pool[place] for pool in (example.given, example.mined) for place in chance.permutation(len(pool))]
        rows = [positive, *shuffled[:negatives]]
        passages = [examples.passages[row] for row in rows]
        found.append(Listing(example.query, passages, rows, frozenset(example.positives)))
    return found


def groups(found: Sequence[Listing], max_length: int, batch_tokens: int) -> Iterator[list[Listing]]:
    """Split the queries of a step into groups whose passages hold at most `batch_tokens`, of similar length."""
    ordered = sorted(found, key=lambda listing: listing.characters)
    largest = max((len(listing.rows) for listing in ordered), default=1)
    size = max(1, batch_tokens // (largest * max_length))
    for start in range(0, len(ordered), size):
        yield list(ordered[start : start + size])
