"""What every reranker must pass. In the tests of one of your own:

    class TestMine(RerankerContract):
        @pytest.fixture(scope="class")
        def reranker(self) -> Reranker:
            return load_reranker(RerankerSettings(reranker="mine", dtype="float32"))

Computed in float32: half the precision orders texts that are nearly equal by how they were batched.
"""

import numpy as np
import pytest

from shoal.rerankers import PairTokenCounter, Reranker

QUERIES = ["red fish", "what does vitamin d do for bones", "", "日本語 🎉"]
"""Queries that every reranker must take."""
PASSAGES = [
    "a red fish and a blue fish",
    "",
    "vitamin d and bone disease " * 30,
    "the otter " * 5_000,
    "lone surrogate \ud800 and nul \x00",
    "the heron",
    "日本語のテキスト",
    "a red fish and a blue fish",
]
"""Passages that every reranker must take."""
PAIRS = [(query, passage) for passage in PASSAGES for query in QUERIES]
"""Every passage with every query: empty, long, repeated, with characters that no text should have."""


class RerankerContract:
    """The promises of `shoal.rerankers.Reranker`."""

    def test_there_is_one_finite_score_for_each_pair(self, reranker: Reranker) -> None:
        scores = reranker.score_pairs(PAIRS)
        assert scores.dtype == np.float32
        assert scores.shape == (len(PAIRS),)
        assert np.isfinite(scores).all()
        assert reranker.score_pairs([]).shape == (0,)
        assert reranker.score("red fish", []).shape == (0,)

    def test_scores_are_in_the_order_of_the_pairs(self, reranker: Reranker) -> None:
        scores = reranker.score_pairs(PAIRS)
        shuffled = np.random.default_rng(3).permutation(len(PAIRS))
        np.testing.assert_allclose(reranker.score_pairs([PAIRS[row] for row in shuffled]), scores[shuffled], atol=1e-4)
        for number, query in enumerate(QUERIES):
            np.testing.assert_allclose(reranker.score(query, PASSAGES), scores[number :: len(QUERIES)], atol=1e-4)

    def test_the_same_pairs_have_the_same_score(self, reranker: Reranker) -> None:
        assert np.array_equal(reranker.score_pairs(PAIRS), reranker.score_pairs(PAIRS))
        scores = reranker.score("red fish", PASSAGES)
        assert scores[0] == pytest.approx(scores[-1], abs=1e-5)

    def test_what_is_read_is_counted_if_anything_is(self, reranker: Reranker) -> None:
        if not isinstance(reranker, PairTokenCounter):
            pytest.skip("this reranker does not count")
        assert reranker.count_tokens([]) == 0
        short, long = (reranker.count_tokens([("red fish", "otter " * words)]) for words in (3, 30))
        assert long - short == 27
        assert reranker.count_tokens(PAIRS) > 0

    def test_a_reranker_has_a_name(self, reranker: Reranker) -> None:
        assert reranker.name()
