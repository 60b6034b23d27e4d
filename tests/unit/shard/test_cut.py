import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.records import RowArray
from shoal.shard import cut

few_scores = st.lists(st.sampled_from([-0.5, -0.0, 0.0, 0.25, 1.0]), max_size=60)


class Ids:
    """Ids that do not ascend with the rows; counts for how many it was asked at most."""

    def __init__(self, count: int, random: object) -> None:
        self.names = [f"é{number}" if number % 3 else f"z{number}" for number in range(count)]
        random.shuffle(self.names)  # type: ignore[attr-defined]
        self.most = 0

    def __call__(self, rows: RowArray) -> pa.StringArray:
        assert (np.diff(rows) > 0).all()
        self.most = max(self.most, len(rows))
        return pa.array([self.names[row] for row in rows.tolist()], pa.string())


@given(few_scores, st.integers(0, 70), st.randoms(use_true_random=False))
def test_the_best_are_those_of_one_sort_by_score_and_id(scores: list[float], top_k: int, random: object) -> None:
    ids = Ids(2 * len(scores), random)
    rows = np.arange(len(scores)) * 2  # some of all rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut, "_BLOCK", 4)
        found = cut.best(np.array(scores, np.float32), rows, top_k, ids)
    wanted = sorted(range(len(scores)), key=lambda place: (-scores[place], ids.names[rows[place]]))[:top_k]
    assert found.tolist() == wanted
    assert ids.most <= top_k + 4


def test_ids_are_asked_for_only_where_scores_are_equal() -> None:
    def refuse(rows: RowArray) -> pa.StringArray:
        raise AssertionError(f"asked for {rows}")

    scores = np.random.default_rng(1).permutation(1000).astype(np.float32)
    assert scores[cut.best(scores, np.arange(1000), 10, refuse)].tolist() == list(range(999, 989, -1))


@given(st.lists(st.sampled_from([0.0, 0.25, 1.0]), max_size=60), st.integers(1, 70), st.randoms(use_true_random=False))
def test_what_scores_nothing_is_not_among_the_best(scores: list[float], top_k: int, random: object) -> None:
    ids = Ids(len(scores), random)
    held = [row for row, score in enumerate(scores) if score]
    wanted = sorted(held, key=lambda row: (-scores[row], ids.names[row]))[:top_k]
    assert cut.best_positive(np.array(scores, np.float32), top_k, ids).tolist() == wanted
