"""What a dialect can ask of the server beside searches, over the whole server in this process."""

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve.replicas.encoder import QueryEncoder
from serve.replicas.ingress import Ingress
from serve.telemetry import BATCHES, EMBEDDED, RERANKED
from serve.versions.discovery import ServiceSet
from serve.web.access import Admission
from shoal.encoders import load_encoder
from shoal.errors import DeadlineExceeded, InvalidArgument, Overloaded, Unavailable
from shoal.records import SearchRequest
from shoal.rerankers.overlap import load as load_overlap
from shoal.settings import RerankerSettings, ServeSettings
from tests.support.engine import HASHING, local_engine
from tests.support.indexes import passages, publish
from tests.support.meters import RecordingMeter

TEXTS = ["a red fish", "an otter", "no word of it", "a red fish"]


def soon() -> float:
    return time.monotonic() + 30


@pytest.fixture
def settings(tmp_path: Path) -> ServeSettings:
    publish(tmp_path, "v1", passages(20))
    return ServeSettings(index=str(tmp_path), encoder="hashing:64", reranker="overlap", max_batch=3)


@pytest.fixture
async def engine(settings: ServeSettings) -> Ingress:
    return await local_engine(settings)


async def test_texts_get_the_vectors_of_queries_or_those_that_a_build_gives_them(engine: Ingress) -> None:
    model = load_encoder(HASHING)
    np.testing.assert_array_equal((await engine.embed(TEXTS, "query", soon())).vectors, model.encode_queries(TEXTS))
    np.testing.assert_array_equal((await engine.embed(TEXTS, "passage", soon())).vectors, model.encode_passages(TEXTS))


async def test_many_texts_are_encoded_a_batch_at_a_time(engine: Ingress, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine._services is not None
    encoder = engine._services.encoder
    assert isinstance(encoder, QueryEncoder)
    sizes, encode = [], encoder._encoder.encode_passages

    def recorded(texts: list[str]) -> object:
        sizes.append(len(texts))
        return encode(texts)

    monkeypatch.setattr(encoder._encoder, "encode_passages", recorded)
    assert (await engine.embed(TEXTS * 2, "passage", soon())).vectors.shape == (8, 64)
    assert sizes == [3, 3, 2]


async def test_no_texts_have_no_vectors(engine: Ingress) -> None:
    assert (await engine.embed([], "passage", soon())).vectors.shape == (0, 64)
    assert (await engine.embed([], "query", soon())).vectors.shape == (0, 64)


async def test_documents_get_the_scores_of_the_reranker(engine: Ingress) -> None:
    expected = load_overlap("overlap", RerankerSettings(reranker="overlap")).score_pairs(
        [("red otter", text) for text in TEXTS]
    )
    np.testing.assert_array_equal((await engine.rerank("red otter", TEXTS, soon())).scores, expected)
    assert (await engine.rerank("red otter", [], soon())).scores.shape == (0,)


async def test_without_a_reranker_nothing_is_reranked(engine: Ingress, settings: ServeSettings) -> None:
    assert engine._services is not None
    alone: ServiceSet = replace(engine._services, reranker=None)
    other = Ingress(settings, lambda _: alone)
    await other._activation.follow()
    with pytest.raises(InvalidArgument, match="has no reranker"):
        await other.rerank("fish", TEXTS, soon())
    assert (await other.describe()).models.reranker is None


async def test_what_is_over_its_deadline_is_given_up(engine: Ingress) -> None:
    with pytest.raises(DeadlineExceeded):
        await engine.embed(TEXTS, "passage", time.monotonic() - 1)
    with pytest.raises(DeadlineExceeded):
        await engine.rerank("fish", TEXTS, time.monotonic() - 1)


async def test_all_that_computes_counts_against_one_limit(engine: Ingress, settings: ServeSettings) -> None:
    engine._admission = Admission(settings.model_copy(update={"max_requests": 1}))
    with engine._admission.one_more():
        with pytest.raises(Overloaded):
            await engine.embed(TEXTS, "query", soon())
        with pytest.raises(Overloaded):
            await engine.rerank("fish", TEXTS, soon())
    assert (await engine.embed(TEXTS, "query", soon())).vectors.shape == (4, 64)


async def test_before_a_version_is_served_there_is_nothing_to_ask(settings: ServeSettings, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    nothing = Ingress(settings.model_copy(update={"index": str(tmp_path / "empty")}), None)
    with pytest.raises(Unavailable, match="no index version is served yet"):
        await nothing.embed(TEXTS, "query", time.monotonic() + 0.05)
    with pytest.raises(Unavailable, match=r"no current version|being loaded"):
        await nothing.describe()


async def test_it_describes_what_is_served(engine: Ingress) -> None:
    description = await engine.describe()
    assert (description.version, description.passages, description.shards) == ("v1", 20, 2)
    assert (description.models.encoder, description.models.reranker) == ("hashing:64", "overlap")
    assert description.problem is None


async def test_texts_and_documents_are_counted_by_how_their_request_ended(settings: ServeSettings) -> None:
    meter = RecordingMeter()
    engine = await local_engine(settings, meter=meter)
    await engine.embed(TEXTS, "passage", soon())
    await engine.rerank("red otter", TEXTS[:3], soon())
    for wrong in (engine.embed(["", "a"], "query", soon()), engine.rerank("", ["a"], soon())):
        with pytest.raises(InvalidArgument):
            await wrong
    for late in (engine.embed(["a"], "query", 0.0), engine.rerank("a", ["a"], 0.0)):
        with pytest.raises(DeadlineExceeded):
            await late
    for metric, counts in ((EMBEDDED, (4, 2, 1)), (RERANKED, (3, 1, 1))):
        assert tuple(meter.counted(metric, outcome=end) for end in ("complete", "invalid", "deadline")) == counts
    assert meter.observed(BATCHES, stage="embed") == [3, 1]


async def test_a_search_waits_for_one_slice_of_a_large_request_at_most(
    engine: Ingress, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine._services is not None
    encoder = engine._services.encoder
    assert isinstance(encoder, QueryEncoder)
    begun, encoded, release = threading.Event(), [], threading.Event()
    encode_passages, encode = encoder._encoder.encode_passages, encoder.encode

    def blocked(texts: list[str]) -> object:
        encoded.append(texts[0])
        begun.set()
        assert release.wait(30)
        return encode_passages(texts)

    async def encode_and_release(queries: list[str], deadline: float) -> object:
        waiting = asyncio.ensure_future(encode(queries, deadline))
        await asyncio.sleep(0)  # now it waits for the thread
        release.set()
        return await waiting

    monkeypatch.setattr(encoder._encoder, "encode_passages", blocked)
    monkeypatch.setattr(encoder, "encode", encode_and_release)
    large = asyncio.ensure_future(engine.embed([f"text {number}" for number in range(12)], "passage", soon()))
    await asyncio.to_thread(begun.wait, 30)
    await engine.search([SearchRequest(query="red fish", top_k=3, top_n=3, rerank=False, deadline=soon())])
    assert len((await large).vectors) == 12
    assert encoded == ["text 0", "red fish", "text 3", "text 6", "text 9"]
