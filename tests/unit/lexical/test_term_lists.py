"""Whatever is left out of the adding up, the best rows and their scores are those of adding up everything."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.lexical import term_lists
from shoal.lexical.term_lists import Sums, TermList, scores_of
from shoal.records import FloatArray

NONE = np.zeros(0, np.int64)


def term_list(rows: Any, scores: Any, looseness: float = 1.0) -> TermList:
    values = np.asarray(scores, np.float32)
    return TermList(np.asarray(rows, np.int32), values.__getitem__, lambda: float(values.max()) * looseness)


def added_up(lists: Sequence[TermList], count: int) -> FloatArray:
    """Every row's score, float32 (count,), term after term."""
    scores = np.zeros(count, np.float32)
    for each in lists:
        scores[each.rows] += each.scores_at(slice(None))
    return scores


def lists_of(random: np.random.Generator, count: int, looseness: float) -> list[TermList]:
    """Lists of terms from rare to frequent, which add the less the more frequent they are; scores are often equal."""
    lists = []
    for share in random.choice([0.001, 0.01, 0.1, 0.5, 1.0], random.integers(0, 8)):
        rows = np.sort(random.choice(count, max(1, int(share * count)), replace=False))
        lists.append(term_list(rows, (1 - np.log(share)) * random.integers(1, 6, len(rows)) / 7, looseness))
    return lists + lists[: int(random.integers(0, 2))]  # some terms stand twice in a query


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.sampled_from([1, 7, 100, 3000]),
    top_k=st.sampled_from([1, 3, 20, 200]),
    limits=st.fixed_dictionaries(
        {
            "SHORT": st.sampled_from([0, 2**15]),
            "TRACKED_SHARE": st.sampled_from([0, 1, 16, 10**6]),
            "SEARCH_FACTOR": st.sampled_from([0, 4, 10**6]),
        }
    ),
    looseness=st.sampled_from([1.0, 1.3]),
    filtered=st.booleans(),
)
def test_the_best_are_those_of_adding_up_everything(
    seed: int, count: int, top_k: int, limits: dict[str, int], looseness: float, filtered: bool
) -> None:
    random, sums = np.random.default_rng(seed), Sums(count)
    with pytest.MonkeyPatch.context() as patch:
        for name, limit in limits.items():
            patch.setattr(term_lists, name, limit)
        for _ in range(2):  # the second search finds the memory of the first
            lists, known = lists_of(random, count, looseness), random.integers(0, count, 5)
            mask = random.random(count) < random.choice([0.01, 0.5]) if filtered else np.ones(count, np.bool_)
            found = sums.best(lists, top_k, mask.__getitem__ if filtered else None, known)
            expected = added_up(lists, count)
            among = np.where(mask, expected, 0)
            last = max(np.sort(among)[::-1][:top_k][-1], np.float32(1e-9))
            assert (np.diff(found.rows) > 0).all()
            assert mask[found.rows].all()
            assert set(np.flatnonzero(among >= last).tolist()) <= set(found.rows.tolist())
            assert found.scores.tolist() == expected[found.rows].tolist()
            assert found.known_scores.tolist() == expected[known].tolist()


def test_a_frequent_term_is_only_looked_up_once_it_cannot_bring_rows_among_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(term_lists, "SHORT", 0)
    read: list[int] = []

    def common(places: Any) -> FloatArray:
        scores = np.full(count, 0.5, np.float32)[places]
        read.append(len(scores))
        return scores

    count = 10_000
    rare = term_list(np.arange(0, count, 100), np.linspace(5, 6, 100))
    frequent = TermList(np.arange(count, dtype=np.int32), common, lambda: 0.5)
    found = Sums(count).best([frequent, rare], 10, None, NONE)
    assert set(found.rows.tolist()) >= set(range(9000, count, 100))
    assert sum(read) < count / 20


def test_rows_are_scored_one_by_one_as_all_are_together() -> None:
    lists = lists_of(np.random.default_rng(3), 500, 1.0)
    rows = np.array([3, 499, 0, 3])
    assert scores_of(lists, rows).tolist() == added_up(lists, 500)[rows].tolist()
    assert scores_of([], rows).tolist() == [0, 0, 0, 0]
