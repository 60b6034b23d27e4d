import pickle

import numpy as np
import pytest

from shoal.records import Passage, Timings


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
