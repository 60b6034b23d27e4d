"""Texts that somebody wants the vectors of: slices, their turns, and what is told of them."""

import asyncio
from typing import Any

import numpy as np
import pytest

from shoal.encoders import load_encoder
from shoal.errors import DeadlineExceeded, InvalidArgument, Overloaded, ShoalError, Unavailable
from shoal.records import EmbeddedTexts
from shoal.search.embed_stage import SLICE_CHARACTERS, EmbedStage, embed_texts
from shoal.search.query_cache import QueryCache
from shoal.settings import EncoderSettings
from shoal.testing.fakes import DIM, FakeEncoder, now, serve_settings, vector_of, virtual_time

LONG = "word " * (SLICE_CHARACTERS // 10 + 1)
"""A text of half a slice and a little more."""


def stage(encoder: FakeEncoder, **settings: Any) -> EmbedStage:
    return EmbedStage(encoder, serve_settings(**settings), clock=now)


@virtual_time
async def test_a_slice_is_bounded_by_its_texts_and_by_their_characters() -> None:
    encoder = FakeEncoder()
    texts = ["a", "b", "c", "d", LONG, LONG, "e", LONG * 5, "f"]
    embedded = await stage(encoder, max_batch=3).embed(texts, "passage", now() + 10)
    assert encoder.embedded == [["a", "b", "c"], ["d", LONG], [LONG, "e"], [LONG * 5], ["f"]]
    np.testing.assert_array_equal(embedded.vectors, [vector_of(text) for text in texts])
    assert embedded.truncated == [text.count("word") > 8 for text in texts]
    assert embedded.tokens_used == 5 + 1 + 3 * 8


@virtual_time
async def test_no_texts_have_no_vectors() -> None:
    embedded = await stage(FakeEncoder()).embed([], "query", now() + 10, with_tokens=True)
    assert (embedded.vectors.shape, embedded.truncated, embedded.tokens_used) == ((0, DIM), [], 0)


@virtual_time
async def test_a_small_request_has_its_turn_between_the_slices_of_a_large_one() -> None:
    encoder = FakeEncoder()
    encoder.behaviour.delay = 1
    embedding = stage(encoder, max_batch=2)
    large = asyncio.ensure_future(embedding.embed([f"large {n}" for n in range(8)], "passage", now() + 60))
    await asyncio.sleep(0.5)
    await embedding.embed(["small"], "passage", now() + 60)
    assert not large.done()
    assert len(encoder.embedded) <= 3
    assert len((await large).vectors) == 8


@virtual_time
async def test_small_requests_that_wait_together_share_a_call_unless_they_want_something_else() -> None:
    encoder = FakeEncoder()
    encoder.behaviour.delay = 1
    embedding, deadline = stage(encoder), now() + 60
    answers = await asyncio.gather(
        embedding.embed(["first"], "passage", deadline),
        embedding.embed(["one", "two"], "passage", deadline),
        embedding.embed(["three"], "passage", deadline),
        embedding.embed(["four"], "query", deadline),
        embedding.embed(["five"], "query", deadline, with_tokens=True),
    )
    assert encoder.embedded == [["first", "one", "two", "three"], ["four"], ["five"]]
    assert [len(answer.vectors) for answer in answers] == [1, 2, 1, 1, 1]
    np.testing.assert_array_equal(answers[1].vectors, [vector_of("one"), vector_of("two")])
    assert [answer.token_vectors is not None for answer in answers] == [False] * 4 + [True]


@virtual_time
async def test_several_encoders_work_side_by_side() -> None:
    encoder = FakeEncoder()
    encoder.behaviour.delay = 1
    started = now()
    await stage(encoder, max_batch=2, encoder_replicas=2).embed(["a", "b", "c", "d"], "passage", now() + 60)
    assert now() - started == pytest.approx(1)


@virtual_time
async def test_no_answer_holds_more_vectors_of_tokens_than_the_setting_says() -> None:
    embedding = stage(FakeEncoder(), max_token_vectors=5)
    embedded = await embedding.embed(["a b", "c d e"], "passage", now() + 10, with_tokens=True)
    assert embedded.token_vectors is not None
    assert [tokens.shape for tokens in embedded.token_vectors] == [(2, DIM), (3, DIM)]
    with pytest.raises(InvalidArgument, match="more than 5 tokens") as refused:
        await embedding.embed(["a b", "c d e", "f"], "passage", now() + 10, with_tokens=True)
    assert refused.value.param == "inputs"
    assert len((await embedding.embed(["a b c d e f"], "passage", now() + 10)).vectors) == 1


@virtual_time
async def test_what_cannot_be_done_is_an_error_and_no_other_slice_is_begun() -> None:
    encoder = FakeEncoder()
    embedding = stage(encoder, max_batch=1)
    encoder.behaviour.errors = [Unavailable("gone")]
    assert len((await embedding.embed(["once more"], "query", now() + 10)).vectors) == 1
    encoder.behaviour.errors = [RuntimeError("secret")]
    with pytest.raises(ShoalError, match="the encoder failed; the server's log says why"):
        await embedding.embed(["a", "b", "c"], "query", now() + 10)
    await asyncio.sleep(1)
    assert encoder.embedded[-1] == ["a"]
    with pytest.raises(DeadlineExceeded):
        await embedding.embed(["a"], "query", now())
    encoder.behaviour.delay = 60
    with pytest.raises(DeadlineExceeded):
        await embedding.embed(["a"], "query", now() + 1)


@virtual_time
async def test_who_comes_when_too_many_wait_is_told_so_at_once() -> None:
    encoder = FakeEncoder()
    encoder.behaviour.delay = 1
    embedding = stage(encoder, max_batch=1, max_waiting=1)
    waiting = [asyncio.ensure_future(embedding.embed([text], "query", now() + 9)) for text in "a"]
    await asyncio.sleep(0.5)
    waiting.append(asyncio.ensure_future(embedding.embed(["b"], "query", now() + 9)))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await embedding.embed(["c"], "query", now() + 9)
    await asyncio.gather(*waiting)


@virtual_time
async def test_vectors_that_are_not_finite_are_no_answer() -> None:
    class Broken(FakeEncoder):
        async def embed(self, *args: Any, **options: Any) -> EmbeddedTexts:
            return EmbeddedTexts("fake", np.full((1, DIM), np.nan, np.float32), [1], 8)

    with pytest.raises(ShoalError, match="the encoder failed"):
        await stage(Broken()).embed(["a"], "query", now() + 10)


@pytest.mark.parametrize("input_type", ["query", "passage"])
def test_an_encoder_gives_what_it_gives_otherwise_and_says_what_it_read(input_type: Any) -> None:
    encoder = load_encoder(EncoderSettings(encoder="hashing:64", max_length=8))
    texts = ["red fish", "one two three four five six seven eight", "one two three four five six seven eight nine"]
    cache = QueryCache(encoder, 10)
    embedded = embed_texts(encoder, cache, texts, input_type, with_tokens=True)
    assert embedded.model == "hashing:64"
    np.testing.assert_array_equal(embedded.vectors, encoder.encode_passages(texts))
    assert (embedded.lengths, embedded.truncated, embedded.tokens_used) == ([2, 8, 9], [False, False, True], 18)
    assert embedded.token_vectors is not None
    assert [len(tokens) for tokens in embedded.token_vectors] == [2, 8, 8]
    alone = embed_texts(encoder, cache, texts, input_type, with_tokens=False)
    np.testing.assert_array_equal(alone.vectors, embedded.vectors)
    assert alone.token_vectors is None
    assert cache.asked == (6 if input_type == "query" else 0)


def test_token_vectors_of_an_encoder_without_any_are_refused() -> None:
    class Plain:
        dim = 2

        def fingerprint(self) -> Any:
            return load_encoder(EncoderSettings(encoder="hashing:2")).fingerprint()

        def encode_queries(self, texts: Any) -> Any:
            return np.eye(2, dtype=np.float32)[: len(texts)]

        encode_passages = encode_queries

    plain = Plain()
    cache = QueryCache(plain, 0)
    with pytest.raises(InvalidArgument, match="has no token vectors; leave tokens out of include") as refused:
        embed_texts(plain, cache, ["a"], "query", with_tokens=True)
    assert refused.value.param == "include"
    embedded = embed_texts(plain, cache, ["a"], "query", with_tokens=False)
    assert (embedded.truncated, embedded.tokens_used) == ([False], 0)
