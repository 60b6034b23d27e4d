"""The simulation that adaptive rerank depth was judged by."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.adaptive import TOP_N, Scored, adaptive_depth, ask, calibrate, needed_depth, ranking
from shoal.evaluation.asking import LocalAsker

FIRST, STEP = 12, 6
WEIGHTS = np.array([3.0, -1.0])


@st.composite
def queries(draw: st.DrawFn, noise: int = 20) -> Scored:
    """Whole numbers, so that sums are exact: up to 50 candidates, rerank = what WEIGHTS tell, an offset, and noise."""
    count = draw(st.integers(1, 50))

    def numbers(least: int, greatest: int) -> st.SearchStrategy[list[int]]:
        return st.lists(st.integers(least, greatest), min_size=count, max_size=count)

    features = np.array([draw(numbers(0, 9)), draw(numbers(0, 9))], float).T
    rerank = features @ WEIGHTS + draw(st.integers(-50, 50)) + np.array(draw(numbers(-noise, noise)), float)
    stage_one = np.array(draw(numbers(-9, 9)), float)
    return Scored([str(place) for place in range(count)], features, rerank, rerank + stage_one)


def whole(one: Scored) -> list[str]:
    order = sorted(range(len(one.ids)), key=lambda place: (-one.final[place], place))
    return [one.ids[place] for place in order[:TOP_N]]


@given(queries())
def test_with_an_infinite_margin_everything_is_read(one: Scored) -> None:
    depth = adaptive_depth(one, WEIGHTS, np.inf, FIRST, STEP)
    assert depth == len(one.ids)
    assert ranking(one, depth) == whole(one)


@given(queries(), st.floats(-100, 100))
def test_a_wider_margin_never_reads_less_and_waves_are_read_whole(one: Scored, margin: float) -> None:
    narrow, wide = (adaptive_depth(one, WEIGHTS, width, FIRST, STEP) for width in (margin, margin + 5))
    assert min(FIRST, len(one.ids)) <= narrow <= wide <= len(one.ids)
    assert (narrow - FIRST) % STEP == 0 or narrow == len(one.ids)


@given(queries(noise=0))
def test_nothing_is_lost_where_stage_one_tells_all(one: Scored) -> None:
    assert ranking(one, adaptive_depth(one, WEIGHTS, 0, FIRST, STEP)) == whole(one)


@given(queries())
def test_the_needed_depth_is_the_least_that_changes_nothing(one: Scored) -> None:
    needed = needed_depth(one)
    assert ranking(one, needed) == whole(one)
    members = set(whole(one))
    assert one.ids[needed - 1] in members
    assert not members & set(one.ids[needed:])


def test_what_was_not_read_follows_in_stage_one_order() -> None:
    one = Scored(["a", "b", "c", "d"], np.zeros((4, 2)), np.zeros(4), np.array([1.0, 2, 3, 4]))
    assert ranking(one, 2) == ["b", "a", "c", "d"]


def test_calibration_finds_the_weights_whatever_a_query_has_in_common() -> None:
    rng = np.random.default_rng(0)
    found = []
    for offset in (-40.0, 0.0, 900.0):
        features = rng.random((30, 2))
        rerank = features @ WEIGHTS + offset + rng.choice([-0.1, 0.1], 30)
        found.append(Scored([str(place) for place in range(30)], features, rerank, rerank))
    known = calibrate([*found, Scored([], np.empty((0, 2)), np.empty(0), np.empty(0))])
    assert known.weights == pytest.approx(WEIGHTS, abs=0.15)
    assert len(known.residuals) == 90
    assert (np.diff(known.residuals) >= 0).all()
    assert np.abs(known.residuals).max() < 0.3


def test_a_dense_query_has_no_weight_for_words() -> None:
    cosines = np.array([0.1, 0.5, 0.9])
    one = Scored(["a", "b", "c"], np.column_stack([cosines, np.zeros(3)]), 2 * cosines, 2 * cosines)
    assert calibrate([one]).weights == pytest.approx([2, 0])


def test_an_answer_is_brought_back_into_stage_one_order() -> None:
    results = [
        SimpleNamespace(id="b", score=3.0, retrieval_rank=2, rerank_score=1.0),
        SimpleNamespace(id="a", score=2.0, retrieval_rank=1, rerank_score=1.5),
    ]
    candidates = [
        {"id": "a", "dense_score": 0.5, "lexical_score": 4.0},
        {"id": "b", "dense_score": 0.25, "lexical_score": 8.0},
    ]
    answer = SimpleNamespace(degraded=None, explain={"candidates": candidates}, results=results)
    one = ask(cast(LocalAsker, SimpleNamespace(answer=lambda *_, **__: answer)), "q", "hybrid")
    assert one.ids == ["a", "b"]
    assert one.features.tolist() == [[0.5, 0.5], [0.25, 1.0]]
    assert (one.rerank.tolist(), one.final.tolist()) == ([1.5, 1.0], [2.0, 3.0])
    answer.degraded = "not reranked"
    with pytest.raises(RuntimeError, match="'q' was not answered whole: not reranked"):
        ask(cast(LocalAsker, SimpleNamespace(answer=lambda *_, **__: answer)), "q", "hybrid")
