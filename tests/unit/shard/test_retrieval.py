"""Retrievers beside dense and lexical: a toy one takes part in a search by being named in a mode."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from shoal.errors import InvalidArgument
from shoal.records import FloatArray, RowArray
from shoal.search.fusion import fuse
from shoal.search.merge import merge_results
from shoal.search.shard_client import ShardResult
from shoal.shard.messages import Hits, ShardHits, ShardQuery
from shoal.shard.retrieval import retrieve
from shoal.shard.retriever import RawHits
from shoal.testing.fakes import serve_settings

NAMES = ("dense", "lexical", "toy")


class Fixed:
    """Gives every row the same score for every query."""

    def __init__(self, scores: Sequence[float]) -> None:
        self.scores = np.array(scores, np.float32)

    def search(
        self, queries: Sequence[ShardQuery], top_k: int, selections: Sequence[Any], known_rows: Sequence[RowArray]
    ) -> RawHits:
        order = np.argsort(-self.scores)[:top_k]
        count = len(queries)
        rows = np.repeat(order[None], count, axis=0)
        return RawHits(self.scores[rows], rows, [self.scores[known] for known in known_rows])

    def score(self, query: ShardQuery, rows: RowArray, found: FloatArray) -> FloatArray:
        return self.scores[rows]


RETRIEVERS = {
    "dense": Fixed([0.1, 0.9, 0.8, 0.2]),
    "lexical": Fixed([7, 1, 5, 6]),
    "toy": Fixed([2, 3, 4, 1]),
}


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = {"dense": ("dense",), "lexical": ("lexical",), "hybrid": NAMES}
    monkeypatch.setattr("shoal.modes.RETRIEVERS_OF", modes)


def test_each_of_three_retrievers_scores_what_the_others_found(three: None) -> None:
    queries = [ShardQuery("", None, "dense"), ShardQuery("", None, "hybrid")]
    found = retrieve(RETRIEVERS, queries, 2, [None, None])
    assert list(found) == list(NAMES)
    for name, hits in found.items():
        assert hits.other_scores.keys() == set(NAMES) - {name}
        for other, scores in hits.other_scores.items():
            assert np.isneginf(scores[0]).all()
            assert scores[1].tolist() == RETRIEVERS[other].scores[hits.rows[1]].tolist()
    assert found["dense"].rows.tolist() == [[1, 2], [1, 2]]
    assert found["toy"].rows.tolist() == [[-1, -1], [2, 1]]


def test_three_rankings_become_one(three: None) -> None:
    found = retrieve(RETRIEVERS, [ShardQuery("", None, "hybrid")], 3, [None])
    hits = {
        name: Hits(part.scores, part.rows, [[f"p{row}" for row in part.rows_of(0)]], None, part.other_scores)
        for name, part in found.items()
    }
    rankings = merge_results({4: ShardResult(ShardHits(hits), 0, 1.0, 1)}, NAMES, 3)
    fused = fuse(rankings, serve_settings(fusion="rrf", rrf_k=1))
    expected = {
        "p0": 1 / 2 + 1 / 4,  # first by words, third by the toy
        "p1": 1 / 2 + 1 / 3,
        "p2": 1 / 3 + 1 / 4 + 1 / 2,
        "p3": 1 / 4 + 1 / 3,
    }
    assert {one.id: one.score for one in fused} == pytest.approx(expected)
    for one in fused:
        assert one.ref == (4, int(one.id[1:]))
        assert one.scores == pytest.approx({name: float(RETRIEVERS[name].scores[one.ref.row]) for name in NAMES})


def test_a_mode_needs_its_retrievers() -> None:
    with pytest.raises(InvalidArgument, match="no lexical index; build it with --lexical"):
        retrieve({"dense": RETRIEVERS["dense"]}, [ShardQuery("", None, "hybrid")], 2, [None])
