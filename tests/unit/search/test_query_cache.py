from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.records import FloatArray
from shoal.search.query_cache import QueryCache


class Encoder:
    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode(self, queries: Sequence[str], instruction: str | None = None) -> FloatArray:
        self.calls.append([query if instruction is None else f"{instruction}: {query}" for query in queries])
        return np.array([[len(query), *query.encode()[:1]] for query in queries], dtype=np.float32)


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


def test_a_known_query_is_not_encoded_again(encoder: Encoder) -> None:
    cache = QueryCache(encoder.encode, 10)
    first = cache.encode_queries(["a", "bb", "a"])
    second = cache.encode_queries(["bb", "ccc"])
    assert encoder.calls == [["a", "bb"], ["ccc"]]
    assert first[:, 0].tolist() == [1, 2, 1]
    assert second[:, 0].tolist() == [2, 3]
    assert (cache.asked, cache.hits) == (5, 2)


def test_a_query_with_another_instruction_is_another_query(encoder: Encoder) -> None:
    cache = QueryCache(encoder.encode, 10)
    for instruction in (None, "claims", "claims", "facts", None):
        cache.encode_queries(["a"], instruction)
    assert encoder.calls == [["a"], ["claims: a"], ["facts: a"]]


def test_the_query_used_longest_ago_is_forgotten(encoder: Encoder) -> None:
    cache = QueryCache(encoder.encode, 2)
    for query in ("a", "b", "a", "c", "a", "b"):
        cache.encode_queries([query])
    assert encoder.calls == [["a"], ["b"], ["c"], ["b"]]


def test_a_cache_of_no_size_keeps_nothing(encoder: Encoder) -> None:
    cache = QueryCache(encoder.encode, 0)
    cache.encode_queries(["a"])
    cache.encode_queries(["a"])
    assert (len(encoder.calls), cache.asked, cache.hits) == (2, 2, 0)


@given(st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=6), max_size=12), st.integers(0, 4))
def test_answers_are_those_of_the_encoder(calls: list[list[str]], size: int) -> None:
    cache = QueryCache(Encoder().encode, size)
    for queries in calls:
        assert np.array_equal(cache.encode_queries(queries), Encoder().encode(queries))
