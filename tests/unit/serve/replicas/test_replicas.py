"""Replicas without Ray: the encoder, the shards and the reranker."""

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve import telemetry
from serve.replicas.encoder import QueryEncoder
from serve.replicas.reranker import Reranker, SpareReranker
from serve.replicas.shard import Retriever
from shoal.encoders import TokenEncoder, load_encoder
from shoal.errors import CorruptIndex, DeadlineExceeded, EncoderMismatch, InvalidArgument, NotFound, Overloaded
from shoal.filters import Compare
from shoal.index_root import versions
from shoal.index_root.storage import Storage
from shoal.records import FloatArray, SearchRequest
from shoal.rerankers.late_interaction import LateInteraction
from shoal.serving.plan import ServingShape
from shoal.settings import EncoderSettings, LateSettings, RerankerSettings, ServeSettings
from shoal.shard.messages import Fetched, Hits, ShardSearch, dense_queries
from shoal.shard.reader import Shard
from shoal.system.threads import SEEN_SHORT, Threads
from tests.support.engine import local_engine
from tests.support.indexes import damage, passages, publish
from tests.support.meters import RecordingMeter
from tests.support.replicas import HASHING, soon
from tests.support.sparse import WordWeights, word_weights

__all__ = ["word_weights"]


def query(text: str) -> FloatArray:
    return load_encoder(HASHING).encode_queries([text])


class TestQueryEncoder:
    async def test_gives_the_vectors_of_the_encoder(self) -> None:
        model = load_encoder(HASHING)
        encoder = QueryEncoder(HASHING, model.fingerprint(), 10)
        np.testing.assert_array_equal(
            await encoder.encode(["red fish", "otter"], soon()), model.encode_queries(["red fish", "otter"])
        )

    async def test_gives_the_tokens_of_the_encoder(self) -> None:
        model = load_encoder(HASHING)
        assert isinstance(model, TokenEncoder)
        encoder = QueryEncoder(HASHING, model.fingerprint(), 10)
        found, expected = await encoder.encode_tokens(["red fish"], soon()), model.encode_query_tokens(["red fish"])
        np.testing.assert_array_equal(found[0].tokens, expected[0].tokens)
        np.testing.assert_array_equal(found[0].vector, expected[0].vector)

    async def test_gives_the_terms_of_the_sparse_model_beside_it(self, word_weights: WordWeights) -> None:
        settings = HASHING.model_copy(update={"sparse_encoder": "words"})
        encoder = QueryEncoder(settings, load_encoder(settings).fingerprint(), 10)
        (found,), (expected,) = (
            await encoder.encode_terms(["red fish"], soon()),
            word_weights.encode(["red fish"], are_queries=True),
        )
        np.testing.assert_array_equal(found.terms, expected.terms)
        np.testing.assert_array_equal(found.weights, expected.weights)
        alone = QueryEncoder(HASHING, load_encoder(HASHING).fingerprint(), 10)
        with pytest.raises(InvalidArgument, match="no sparse model"):
            await alone.encode_terms(["red fish"], soon())

    async def test_finds_the_tokens_of_passages(self) -> None:
        encoder = QueryEncoder(HASHING, load_encoder(HASHING).fingerprint(), 10)
        located = await encoder.locate_tokens(["a red, red fish", "größe"], soon())
        assert located is not None
        assert [offsets.tolist() for offsets in located] == [[[0, 1], [2, 5], [7, 10], [11, 15]], [[0, 5]]]

    async def test_refuses_an_index_of_another_encoder_and_names_both(self) -> None:
        other = load_encoder(EncoderSettings(encoder="hashing:32")).fingerprint()
        with pytest.raises(EncoderMismatch) as refused:
            QueryEncoder(HASHING, other, 10)
        assert "hashing:64" in str(refused.value)
        assert "hashing:32" in str(refused.value)

    async def test_measures_its_calls_and_counts_what_was_remembered(self) -> None:
        meter = RecordingMeter()
        encoder = QueryEncoder(HASHING, load_encoder(HASHING).fingerprint(), 10, lambda: meter)
        await asyncio.gather(encoder.encode(["red fish", "otter"], soon()), encoder.encode(["heron"], soon()))
        assert meter.counted(telemetry.ENCODED) == 3
        assert meter.counted(telemetry.REMEMBERED) == 0
        assert encoder.recall("heron") is not None
        assert encoder.recall("unknown") is None
        assert (meter.counted(telemetry.ENCODED), meter.counted(telemetry.REMEMBERED)) == (4, 1)
        await encoder.encode(["otter", "snail"], soon())
        assert meter.counted(telemetry.ENCODED) == 6
        assert meter.counted(telemetry.REMEMBERED) == 2
        assert len(meter.observed(telemetry.COMPUTE, call="encode")) == 4

    async def test_embeds_texts_and_measures_it(self) -> None:
        meter, model = RecordingMeter(), load_encoder(HASHING)
        encoder = QueryEncoder(HASHING, model.fingerprint(), 10, lambda: meter)
        queries = await encoder.embed(["red fish", "red fish"], "query", soon())
        np.testing.assert_array_equal(queries.vectors, model.encode_queries(["red fish"] * 2))
        assert (meter.counted(telemetry.ENCODED), meter.counted(telemetry.REMEMBERED)) == (2, 1)
        passages_ = await encoder.embed(["red fish"], "passage", soon(), with_tokens=True)
        assert passages_.token_vectors is not None
        assert passages_.tokens_used == len(passages_.token_vectors[0]) == 2
        assert meter.counted(telemetry.ENCODED) == 2
        await encoder.embed(["red fish"], "query", soon(), with_tokens=True)
        assert meter.counted(telemetry.ENCODED) == 3
        assert len(meter.observed(telemetry.COMPUTE, call="embed")) == 3


async def dense(retriever: Retriever, version: str, top_k: int, with_passages: bool) -> Hits:
    hits = await retriever.search(ShardSearch(version, dense_queries(query("n7")), top_k, with_passages), soon())
    assert list(hits.by_retriever) == ["dense"]
    return hits.by_retriever["dense"]


class TestThreads:
    async def test_work_whose_deadline_passes_while_it_waits_is_never_started(self) -> None:
        threads, free, started = Threads(1, "test"), threading.Event(), []
        first = asyncio.ensure_future(threads.run(soon(), free.wait, 30))
        late = asyncio.ensure_future(threads.run(time.monotonic(), started.append, "late"))
        await asyncio.sleep(0)
        free.set()
        assert await first
        with pytest.raises(DeadlineExceeded, match="before the test had answered"):
            await late
        assert not started

    async def test_nobody_waits_beyond_the_deadline_for_work_that_hangs(self) -> None:
        threads, free = Threads(1, "test"), threading.Event()
        with pytest.raises(DeadlineExceeded, match="before the test had answered"):
            await threads.run(time.monotonic() + 0.05, free.wait, 30)
        free.set()

    async def test_the_loop_goes_on_meanwhile(self) -> None:
        threads, free = Threads(1, "test"), threading.Event()
        asyncio.get_running_loop().call_soon(free.set)
        assert await threads.run(soon(), free.wait, 30)


async def test_the_shards_rerank_and_the_server_says_that_they_can(tmp_path: Path) -> None:
    stored = LateSettings(late_interaction="stored", late_dims=32, late_bits=8)
    publish(tmp_path / "root", "v1", passages(40), late=stored)
    engine = await local_engine(ServeSettings(index=str(tmp_path / "root"), encoder="hashing:64", reranker="overlap"))
    assert (await engine.describe()).late_interaction == "stored"
    (answer,) = await engine.search(
        [SearchRequest(query="the red fish number n5", top_k=12, top_n=3, rerank="late", deadline=soon())]
    )
    assert (answer.reranker, answer.degraded) == ("late", None)
    scores = [result.rerank_score for result in answer.results]
    model = load_encoder(HASHING)
    assert isinstance(model, TokenEncoder)
    texts = [result.passage.content for result in answer.results]
    expected = LateInteraction(model, 0).score("the red fish number n5", texts)
    np.testing.assert_allclose(np.array(scores, np.float32), expected, atol=0.1)


class TestRetriever:
    async def test_searches_the_version_that_a_call_names(self, settings: ServeSettings) -> None:
        retrievers = [Retriever(settings, shard) for shard in (0, 1)]
        hits = [await dense(one, "v1", 5, True) for one in retrievers]
        assert {passage_id for one in hits for passage_id in one.ids[0]} <= {f"p{number}" for number in range(40)}
        assert hits[0].passages is not None
        assert all("new" not in passage.text for passage in hits[0].passages[0])
        hits_v2 = await dense(retrievers[0], "v2", 5, True)
        assert hits_v2.passages is not None
        assert all("new" in passage.text for passage in hits_v2.passages[0])
        assert retrievers[0].versions == ["v1", "v2"]

    async def test_searches_only_what_the_filter_of_each_query_lets_through(self, settings: ServeSettings) -> None:
        retrievers = [Retriever(settings, shard) for shard in (0, 1)]
        both, filters = np.concatenate([query("n7"), query("n7")]), [Compare("number", "lte", 6), None]
        found = [
            await one.search(ShardSearch("v1", dense_queries(both, filters), 40, False), soon()) for one in retrievers
        ]
        hits = [one.by_retriever["dense"] for one in found]
        assert len(hits) == 2
        assert {passage_id for one in hits for passage_id in one.ids[0]} == {f"p{number}" for number in range(7)}
        assert "p7" in {passage_id for one in hits for passage_id in one.ids[1]}

    async def test_searches_at_once_once_it_knows_that_this_is_short(
        self, settings: ServeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(time, "thread_time", lambda: 0.0)
        retriever = Retriever(settings, 0)
        (version,) = retriever.versions
        batch = ShardSearch(version, dense_queries(query("red fish")), 3, with_passages=True)
        assert retriever.prompt_size(version, batch.pace_kind) == 0
        for _ in range(SEEN_SHORT):
            hits = await retriever.search(batch, soon())
        assert retriever.prompt_size(version, batch.pace_kind) > 0
        assert retriever.prompt_size("another", batch.pace_kind) == 0
        found, expected = (each.by_retriever["dense"] for each in (retriever.search_at_once(batch), hits))
        assert (found.ids, found.scores.tolist()) == (expected.ids, expected.scores.tolist())

    async def test_fetches_passages_and_vectors(self, settings: ServeSettings) -> None:
        retriever = Retriever(settings, 0)
        hits = await dense(retriever, "v1", 2, False)
        fetched = await retriever.fetch("v1", hits.rows[0].tolist(), soon(), True)
        assert isinstance(fetched, Fetched)
        assert [passage.id for passage in fetched.passages] == hits.ids[0]
        assert fetched.vectors is not None
        np.testing.assert_allclose(fetched.vectors @ query("n7")[0], hits.scores[0], atol=1e-5)

    async def test_a_version_that_many_calls_want_is_loaded_once(
        self, settings: ServeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        retriever, opened = Retriever(settings, 0), []
        open_shard = Shard.open

        def counted(*args: Any, **options: Any) -> Shard:
            opened.append(args[1].version)
            return open_shard(*args, **options)

        monkeypatch.setattr(Shard, "open", counted)
        await asyncio.gather(
            retriever.prepare("v2", soon()),
            retriever.prepare("v2", soon()),
            retriever.search(ShardSearch("v2", dense_queries(query("n7")), 2, False), soon()),
        )
        await retriever.prepare("v2", soon())
        assert opened == ["v2"]

    async def test_retiring_forgets_all_other_versions(self, settings: ServeSettings) -> None:
        retriever = Retriever(settings, 0)
        await retriever.prepare("v2", soon())
        await retriever.retire(["v2"], soon())
        assert retriever.versions == ["v2"]
        await retriever.search(ShardSearch("v1", dense_queries(query("n7")), 1, False), soon())
        assert retriever.versions == ["v1", "v2"], "a version in the root is loaded again when a call names it"

    async def test_an_unknown_version_is_not_found(self, settings: ServeSettings) -> None:
        with pytest.raises(NotFound, match="no published version v9"):
            await Retriever(settings, 0).search(ShardSearch("v9", dense_queries(query("n7")), 1, False), soon())

    async def test_a_damaged_version_is_refused_and_may_be_tried_again(
        self, root: Path, settings: ServeSettings
    ) -> None:
        retriever = Retriever(settings, 0)
        damage(root, "v2")
        for _ in range(2):
            with pytest.raises(CorruptIndex, match="shard-00000"):
                await retriever.prepare("v2", soon())
        assert retriever.versions == ["v1"]
        damage(root, "v2")
        await retriever.prepare("v2", soon())
        assert retriever.versions == ["v1", "v2"]

    def test_starts_on_the_version_before_a_broken_one(self, root: Path, settings: ServeSettings) -> None:
        versions.activate(Storage(str(root)), "v2")
        damage(root, "v2")
        assert Retriever(settings, 0).versions == ["v1"]
        assert Retriever(settings, 1).versions == ["v2"]

    def test_starts_without_a_version_of_another_shape(self, root: Path, settings: ServeSettings) -> None:
        """Its own may not be current yet, or not any more; which one it is, it is told when it is to load it."""
        wide = publish(root, "v3", passages(40), shards=3)
        shape = ServingShape(wide.encoder, 2)
        assert Retriever(settings, 0, shape=shape).versions == ["v1"]
        versions.activate(Storage(str(root)), "v2")
        assert Retriever(settings, 2, shape=ServingShape.of(wide)).versions == ["v3"]
        versions.activate(Storage(str(root)), "v1")
        assert Retriever(settings, 2, shape=ServingShape.of(wide)).versions == []

    def test_does_not_start_on_nothing(self, root: Path, settings: ServeSettings, tmp_path: Path) -> None:
        damage(root, "v1")
        with pytest.raises(CorruptIndex):
            Retriever(settings, 0)
        (tmp_path / "empty").mkdir()
        with pytest.raises(NotFound, match="shoal build"):
            Retriever(settings.model_copy(update={"index": str(tmp_path / "empty")}), 0)


class TestReranker:
    async def test_scores_waiting_queries_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reranker = Reranker(RerankerSettings(reranker="overlap"), max_waiting=10)
        sizes, score_pairs = [], reranker._reranker.score_pairs

        def recorded(pairs: Sequence[tuple[str, str]]) -> FloatArray:
            sizes.append(len(pairs))
            return score_pairs(pairs)

        monkeypatch.setattr(reranker._reranker, "score_pairs", recorded)
        texts = ["a red fish", "an otter", "no word of it"]
        scores = await asyncio.gather(*(reranker.score(word, texts, soon()) for word in ("fish", "otter", "fish")))
        assert [int(np.argmax(row)) for row in scores] == [0, 1, 0]
        assert sum(sizes) == 9
        assert len(sizes) < 3

    async def test_what_it_cannot_score_in_time_does_not_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reranker = Reranker(RerankerSettings(reranker="overlap"), max_waiting=10)
        texts = [passage.text for passage in passages(5)]
        await reranker.score("fish", texts, soon())
        entered, leave, score_pairs = threading.Event(), threading.Event(), reranker._reranker.score_pairs

        def held(pairs: Sequence[tuple[str, str]]) -> FloatArray:
            entered.set()
            leave.wait()
            return score_pairs(pairs)

        monkeypatch.setattr(reranker._reranker, "score_pairs", held)
        reranker._batcher._pace = 10.0  # seconds a pair
        first = asyncio.ensure_future(reranker.score("fish", texts, soon()))
        try:
            await asyncio.to_thread(entered.wait)
            with pytest.raises(Overloaded, match="no time left"):
                await reranker.score("otter", texts, soon())
        finally:
            leave.set()
        assert (await first).shape == (5,)

    async def test_a_query_without_passages_has_no_scores(self) -> None:
        scores = await Reranker(RerankerSettings(reranker="overlap"), max_waiting=10).score("fish", [], soon())
        assert scores.shape == (0,)


class TestSpareReranker:
    async def test_is_loaded_once_when_it_is_asked(self) -> None:
        loaded: list[Reranker] = []

        def load() -> Reranker:
            loaded.append(Reranker(RerankerSettings(reranker="overlap"), max_waiting=10))
            return loaded[-1]

        spare, texts = SpareReranker(load), ["an otter", "a red fish"]
        assert loaded == []
        scores = await asyncio.gather(*(spare.score("fish", texts, soon()) for _ in range(3)))
        assert len(loaded) == 1
        for row in scores:
            np.testing.assert_array_equal(row, await loaded[0].score("fish", texts, soon()))
        sentences = [[(0, 8)], [(0, 10)]]
        given, expected = (each.score_sentences("fish", texts, sentences, soon()) for each in (spare, loaded[0]))
        assert await given == await expected
        assert await spare.count_tokens("fish", texts, soon()) == await loaded[0].count_tokens("fish", texts, soon())

    async def test_what_loads_for_too_long_is_there_for_the_next(self) -> None:
        leave = threading.Event()

        def load() -> Reranker:
            leave.wait()
            return Reranker(RerankerSettings(reranker="overlap"), max_waiting=10)

        spare = SpareReranker(load)
        with pytest.raises(DeadlineExceeded, match="is being loaded"):
            await spare.score("fish", ["a fish"], time.monotonic() + 0.01)
        leave.set()
        assert (await spare.score("fish", ["a fish"], soon())).shape == (1,)

    async def test_what_could_not_be_loaded_is_tried_again(self) -> None:
        failures = [CorruptIndex("for now")]

        def load() -> Reranker:
            if failures:
                raise failures.pop()
            return Reranker(RerankerSettings(reranker="overlap"), max_waiting=10)

        spare = SpareReranker(load)
        with pytest.raises(CorruptIndex):
            await spare.score("fish", ["a fish"], soon())
        assert (await spare.score("fish", ["a fish"], soon())).shape == (1,)
