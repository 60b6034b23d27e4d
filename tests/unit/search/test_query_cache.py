import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.encoders import TextVectors
from shoal.records import FloatArray
from shoal.search.local_encoder import LocalEncoder
from shoal.search.query_cache import QueryCache
from shoal.system.threads import Threads


class Encoder:
    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    dim = 2

    def encode_queries(self, queries: Sequence[str], instruction: str | None = None) -> FloatArray:
        self.calls.append([query if instruction is None else f"{instruction}: {query}" for query in queries])
        return np.array([[len(query), *query.encode()[:1]] for query in queries], dtype=np.float32)

    def encode_query_tokens(self, queries: Sequence[str], instruction: str | None = None) -> list[TextVectors]:
        """A token for each character, of four bytes."""
        vectors = self.encode_queries(queries, instruction)
        tokens = [np.array([[ord(letter)] for letter in query], np.float32) for query in queries]
        return [TextVectors(vector, of_text) for vector, of_text in zip(vectors, tokens, strict=True)]

    encode_passages, encode_passage_tokens = encode_queries, encode_query_tokens

    def fingerprint(self) -> Any:
        raise NotImplementedError


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


def test_a_known_query_is_not_encoded_again(encoder: Encoder) -> None:
    cache = QueryCache(encoder, 10)
    first = cache.encode_queries(["a", "bb", "a"])
    second = cache.encode_queries(["bb", "ccc"])
    assert encoder.calls == [["a", "bb"], ["ccc"]]
    assert first[:, 0].tolist() == [1, 2, 1]
    assert second[:, 0].tolist() == [2, 3]
    assert (cache.asked, cache.hits) == (5, 2)


def test_a_query_with_another_instruction_is_another_query(encoder: Encoder) -> None:
    cache = QueryCache(encoder, 10)
    for instruction in (None, "claims", "claims", "facts", None):
        cache.encode_queries(["a"], instruction)
    assert encoder.calls == [["a"], ["claims: a"], ["facts: a"]]


def test_the_query_used_longest_ago_is_forgotten(encoder: Encoder) -> None:
    cache = QueryCache(encoder, 2)
    for query in ("a", "b", "a", "c", "a", "b"):
        cache.encode_queries([query])
    assert encoder.calls == [["a"], ["b"], ["c"], ["b"]]


def test_what_is_recalled_counts_as_used(encoder: Encoder) -> None:
    cache = QueryCache(encoder, 2)
    assert cache.recall("a") is None
    first, _ = cache.encode_queries(["a", "b"])
    recalled = cache.recall("a")
    assert recalled is not None
    assert recalled.tolist() == first.tolist()
    cache.encode_queries(["c"])  # forgets b
    assert (cache.recall("b"), cache.recall("a", "claims")) == (None, None)
    assert cache.recall("a") is not None
    assert (cache.asked, cache.hits) == (5, 2)


def test_a_cache_of_no_size_keeps_nothing(encoder: Encoder) -> None:
    cache = QueryCache(encoder, 0)
    cache.encode_queries(["a"])
    cache.encode_queries(["a"])
    assert (len(encoder.calls), cache.asked, cache.hits) == (2, 2, 0)


@given(st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=6), max_size=12), st.integers(0, 4))
def test_answers_are_those_of_the_encoder(calls: list[list[str]], size: int) -> None:
    cache = QueryCache(Encoder(), size)
    for queries in calls:
        assert np.array_equal(cache.encode_queries(queries), Encoder().encode_queries(queries))


def test_token_vectors_are_remembered_beside_vectors(encoder: Encoder) -> None:
    cache = QueryCache(encoder, 10)
    first = cache.encode_query_tokens(["ab", "c", "ab"])
    again = cache.encode_query_tokens(["c", "ab"], None)
    assert encoder.calls == [["ab", "c"]]
    assert (cache.asked, cache.hits) == (5, 3)
    for found, expected in zip(
        [*first, *again], Encoder().encode_query_tokens(["ab", "c", "ab", "c", "ab"]), strict=True
    ):
        np.testing.assert_array_equal(found.vector, expected.vector)
        np.testing.assert_array_equal(found.tokens, expected.tokens)
    cache.encode_query_tokens(["ab"], "claims")
    assert encoder.calls[1:] == [["claims: ab"]]


def test_token_vectors_of_what_was_asked_last_stay_within_their_bytes(encoder: Encoder) -> None:
    cache = QueryCache(encoder, 10, token_bytes=2 * (8 + 4 * 5))  # two queries of five characters
    for query in ("query", "other", "query", "third", "query", "other"):
        cache.encode_query_tokens([query])
    assert encoder.calls == [["query"], ["other"], ["third"], ["other"]]
    cache.encode_query_tokens(["one that is longer than all that is kept"])
    cache.encode_query_tokens(["query"])
    assert encoder.calls[4:] == [["one that is longer than all that is kept"], ["query"]]


def test_a_cache_of_no_size_keeps_no_token_vectors(encoder: Encoder) -> None:
    cache = QueryCache(encoder, 0)
    for _ in range(2):
        cache.encode_query_tokens(["a"])
    assert (len(encoder.calls), cache.asked, cache.hits) == (2, 2, 0)


class BatchEncoder(Encoder):
    """Gives views of one array for a whole batch, as networks do."""

    def encode_query_tokens(self, queries: Sequence[str], instruction: str | None = None) -> list[TextVectors]:
        batch = np.zeros((len(queries), 1000, 2), np.float32)
        return [TextVectors(rows[0], rows[1:2]) for rows in batch]


def test_what_is_remembered_does_not_keep_its_batch() -> None:
    for text in QueryCache(BatchEncoder(), 10).encode_query_tokens(["a", "b"]):
        assert text.vector.base is None
        assert text.tokens.base is None


async def test_what_stored_tokens_rerank_with_is_made_once(encoder: Encoder) -> None:
    thread = Threads(1, "encoder")
    try:
        service = LocalEncoder(encoder, thread, 10)
        deadline = time.monotonic() + 60
        (first,), (again,) = [await service.encode_tokens(["ab"], deadline) for _ in range(2)]
    finally:
        thread.close()
    assert encoder.calls == [["ab"]]
    np.testing.assert_array_equal(first.tokens, again.tokens)
