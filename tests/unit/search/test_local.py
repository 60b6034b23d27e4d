"""Models in threads of this process."""

import asyncio
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from shoal.encoders import load_encoder
from shoal.errors import DeadlineExceeded
from shoal.records import FloatArray
from shoal.search.local import SLICE_PAIRS, LocalModels
from shoal.settings import EncoderSettings, ServeSettings


class HeldReranker:
    """Scores a passage by its number, once `go_on` is set; notes how many pairs each call has."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.order: list[str] = []

    def name(self) -> str:
        return "held"

    def score(self, query: str, passages: Sequence[str]) -> FloatArray:
        return self.score_pairs([(query, passage) for passage in passages])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        self.order.append(f"score {len(pairs)}")
        self.begun.set()
        self.go_on.wait()
        return np.array([float(passage) for _, passage in pairs], np.float32)


def make_models(reranker: HeldReranker, *, shared: bool) -> LocalModels:
    encoder = load_encoder(EncoderSettings(encoder="hashing:16"))
    encode = encoder.encode_queries

    def noted(texts: Sequence[str]) -> FloatArray:
        reranker.order.append("encode")
        return encode(texts)

    encoder.encode_queries = noted  # type: ignore[method-assign]
    return LocalModels(encoder, reranker, ServeSettings(index="root"), shared=shared)


async def test_a_query_is_encoded_between_the_calls_of_a_reranker_that_has_the_same_model() -> None:
    reranker = HeldReranker()
    models = make_models(reranker, shared=True)
    assert models.reranker is not None
    deadline = time.monotonic() + 60
    passages = [str(number) for number in range(2 * SLICE_PAIRS + 1)]
    scoring = asyncio.ensure_future(models.reranker.score("query", passages, deadline))
    await asyncio.to_thread(reranker.begun.wait)
    encoding = asyncio.ensure_future(models.encoder.encode(["query"], deadline))
    await asyncio.sleep(0)  # it waits for the thread now
    reranker.go_on.set()
    assert (await encoding).shape == (1, 16)
    assert (await scoring).tolist() == list(range(len(passages)))
    assert reranker.order == [f"score {SLICE_PAIRS}", "encode", f"score {SLICE_PAIRS}", "score 1"]
    assert (await models.reranker.score("query", [], deadline)).shape == (0,)
    models.close()


async def test_scores_that_come_too_late_are_given_up_and_the_next_query_is_encoded() -> None:
    reranker = HeldReranker()
    models = make_models(reranker, shared=True)
    assert models.reranker is not None
    with pytest.raises(DeadlineExceeded):
        await models.reranker.score("query", ["1"] * 10 * SLICE_PAIRS, time.monotonic() + 0.2)
    reranker.go_on.set()
    assert (await models.encoder.encode(["query"], time.monotonic() + 60)).shape == (1, 16)
    assert reranker.order == [f"score {SLICE_PAIRS}", "encode"]
    models.close()


async def test_models_of_their_own_do_not_wait_for_each_other() -> None:
    reranker = HeldReranker()
    models = make_models(reranker, shared=False)
    assert models.reranker is not None
    deadline = time.monotonic() + 60
    scoring = asyncio.ensure_future(models.reranker.score("query", ["1"] * 2 * SLICE_PAIRS, deadline))
    await asyncio.to_thread(reranker.begun.wait)
    assert (await models.encoder.encode(["query"], deadline)).shape == (1, 16)
    reranker.go_on.set()
    await scoring
    assert reranker.order == [f"score {2 * SLICE_PAIRS}", "encode"]
    models.close()
