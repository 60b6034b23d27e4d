import pickle

import numpy as np
import pytest

from shoal.records import Passage, Timings, relevance_of


@pytest.mark.parametrize(
    "passage", [Passage("a", "text"), Passage("b", "text", "title", {"year": 2020}, np.ones(3, np.float32))]
)
def test_a_passage_travels_whole(passage: Passage) -> None:
    arrived = pickle.loads(pickle.dumps(passage))
    assert arrived == passage
    np.testing.assert_array_equal(arrived.vector, passage.vector)


def test_timings_name_every_stage_in_its_order() -> None:
    names = ("queue", "encode", "retrieve", "merge", "fetch", "rerank", "total")
    assert list(Timings(1, 2, 3, 4, 5, 6, 7).stages()) == [(name, place) for place, name in enumerate(names, 1)]


def test_relevance_lies_between_0_and_1_in_the_order_of_the_scores() -> None:
    scores = np.array([-200, -1, 0, 0.5, 1, 200], np.float32)
    for scale in ("unit", "cosine", "logit", None):
        relevance = relevance_of(scores, scale)  # type: ignore[arg-type]
        assert relevance.dtype == np.float32
        assert relevance.min() >= 0
        assert relevance.max() <= 1
        assert (np.diff(relevance) >= 0).all()
    np.testing.assert_allclose(relevance_of(scores, "logit")[1:4], [0.268941, 0.5, 0.622459], atol=1e-5)
    np.testing.assert_allclose(relevance_of(scores, "cosine"), [0, 0, 0, 0.5, 1, 1])
