"""The ingress over replicas in one process: searches, versions, limits, readiness."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve import telemetry
from serve.replicas import ingress as ingress_module
from serve.replicas.encoder import QueryEncoder
from serve.replicas.ingress import Ingress
from serve.replicas.reranker import Reranker
from serve.replicas.shard import Retriever
from serve.versions.discovery import ServiceSet
from serve.versions.liveness import BUSY_S
from serve.web import access
from serve.web.errors import response_of
from shoal.encoders import load_encoder
from shoal.errors import DeadlineExceeded, Overloaded, ShoalError, Unavailable
from shoal.records import FloatArray, SearchRequest
from shoal.serving import keys
from shoal.serving.plan import ServingShape
from shoal.settings import EncoderSettings, RerankerSettings, ServeSettings
from tests.support.indexes import passages, publish
from tests.support.meters import RecordingMeter
from tests.support.replicas import HASHING, soon


async def test_the_ingress_searches_describes_and_switches(settings: ServeSettings) -> None:
    fingerprint = load_encoder(HASHING).fingerprint()
    shards = [Retriever(settings, shard) for shard in (0, 1)]
    reranker = Reranker(RerankerSettings(reranker="overlap"), max_waiting=10)
    encoder = QueryEncoder(HASHING, fingerprint, 10)
    ingress = Ingress(settings, lambda _: ServiceSet(ServingShape(fingerprint, 2), encoder, shards, reranker))
    request = SearchRequest(query="red fish n0", top_k=10, top_n=3, rerank=True, deadline=soon())
    assert await ingress.ready() == ["the index version is being loaded"]
    await ingress._activation.follow()
    ingress._readiness._found_at = 0.0
    assert await ingress.ready() == []
    (answer,) = await ingress.search([request])
    assert (answer.index_version, answer.reranked, answer.results[0].id) == ("v1", True, "p0")
    assert answer.coverage.answered == 2
    await ingress.activate("v2")
    (answer,) = await ingress.search([request])
    assert answer.index_version == "v2"
    assert (await ingress.describe()).previous == "v1"
    listed = [(each.version, each.state) for each in await ingress.list_versions(9)]
    assert listed == [("v2", "current"), ("v1", "previous")]
    await ingress.rollback()
    assert (await ingress.describe()).version == "v1"
    ingress._watch.cancel()


async def test_what_is_wrong_with_the_file_of_keys_is_measured_though_nobody_asks(
    settings: ServeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "LOOK_S", 0.0)
    monkeypatch.setattr(ingress_module, "SAMPLE_S", 0.001)
    (tmp_path / "keys").write_text(keys.line(keys.make(), "ui"))
    measurements: asyncio.Queue[float] = asyncio.Queue()

    class Announces(RecordingMeter):
        def set(self, metric: telemetry.Metric, value: float, **labels: str) -> None:
            if metric is telemetry.KEY_FILE:
                measurements.put_nowait(value)

    async def measured(value: float) -> None:
        while await measurements.get() != value:
            pass

    given = settings.model_copy(update={"api_keys_file": str(tmp_path / "keys")})
    ingress = Ingress(given, None, make_meter=Announces)
    async with asyncio.timeout(30):
        await measured(0.0)
        (tmp_path / "keys").write_text("nonsense")
        await measured(1.0)
        (tmp_path / "keys").write_text(keys.line(keys.make(), "ui"))
        await measured(0.0)
    for task in (ingress._watch, ingress._sampling, ingress._comparing):
        task.cancel()


async def test_that_nothing_is_compacted_is_measured_for_as_long_as_it_is_noted(
    settings: ServeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingress_module, "SAMPLE_S", 0.001)
    measurements: asyncio.Queue[float] = asyncio.Queue()

    class Announces(RecordingMeter):
        def set(self, metric: telemetry.Metric, value: float, **labels: str) -> None:
            if metric is telemetry.COMPACTION:
                measurements.put_nowait(value)

    ingress = Ingress(settings, None, make_meter=Announces)
    async with asyncio.timeout(30):
        assert await measurements.get() == 0.0
        await ingress.note("what was written is not compacted", time.monotonic() + 5)
        while await measurements.get() != 1.0:
            pass
        ingress._noted._until = 0.0
        while await measurements.get() != 0.0:
            pass
    for task in (ingress._watch, ingress._sampling, ingress._comparing):
        task.cancel()


async def test_the_ingress_goes_over_to_other_services_and_searches_under_way_end_with_theirs(
    root: Path, settings: ServeSettings
) -> None:
    """Version v3 has other shards and another encoder."""

    class Waits:
        """An encoder of the first services that answers when it is told to."""

        told = asyncio.Event()

        async def encode(self, queries: Sequence[str], deadline: float) -> FloatArray:
            await self.told.wait()
            return load_encoder(HASHING).encode_queries(list(queries))

    wide = publish(root, "v3", passages(40), shards=3, encoder="hashing:32", activate=False)
    first: list[Any] = [Retriever(settings, shard) for shard in (0, 1)]
    other: list[Any] = [Retriever(settings, shard, shape=ServingShape.of(wide)) for shard in (0, 1, 2)]
    narrow = ServiceSet(ServingShape(load_encoder(HASHING).fingerprint(), 2), Waits(), first, None)
    encoder: Any = QueryEncoder(EncoderSettings(encoder="hashing:32"), wide.encoder, 10)

    async def find(shape: ServingShape, in_use: ServiceSet | None) -> ServiceSet | None:
        services = ServiceSet(ServingShape.of(wide), encoder, other, None)
        return services if services.shape.fits(shape) else None

    ingress = Ingress(settings, lambda _: narrow, find)
    ingress._watch.cancel()
    request = SearchRequest(query="red fish n0", top_k=10, top_n=3, rerank=False, deadline=soon())
    await ingress._activation.follow()
    waiting = asyncio.ensure_future(ingress.search([request]))
    await asyncio.sleep(0)
    await ingress.activate("v3")
    (answer,) = await ingress.search([request])
    assert (answer.index_version, answer.coverage.answered, answer.results[0].id) == ("v3", 3, "p0")
    Waits.told.set()
    (answer,) = await waiting
    assert (answer.index_version, answer.coverage.answered, answer.results[0].id) == ("v1", 2, "p0")
    await ingress.rollback()
    (answer,) = await ingress.search([request])
    assert (answer.index_version, answer.coverage.answered) == ("v1", 2)


async def test_the_ingress_answers_by_what_services_were_started_with_and_not_by_its_own_settings(
    root: Path, settings: ServeSettings
) -> None:
    shards: list[Any] = [Retriever(settings, shard) for shard in (0, 1)]
    shape = ServingShape(load_encoder(HASHING).fingerprint(), 2)
    reranker: Any = Reranker(RerankerSettings(reranker="overlap"), max_waiting=10)
    given = {"reranker": "overlap", "encoder_replicas": 3, "retriever_replicas": 2, "reranker_min_replicas": 0}
    services = ServiceSet(shape, QueryEncoder(HASHING, shape.encoder, 10), shards, reranker, "overlap", given)

    async def find(shape: ServingShape, in_use: ServiceSet | None) -> ServiceSet:
        return services

    endpoint = settings.model_copy(update={"reranker": "late_interaction", "max_batch": 7})
    ingress = Ingress(endpoint, None, find)
    ingress._watch.cancel()
    await ingress._activation.follow()
    request = SearchRequest(query="red fish n0", top_k=10, top_n=3, rerank=True, deadline=soon())
    (answer,) = await ingress.search([request])
    assert answer.reranker == (await ingress.describe()).models.reranker == "overlap"
    assert ingress._pipeline is not None
    assert ingress._pipeline._settings == endpoint.model_copy(update=given)


async def test_a_search_waits_for_an_ingress_that_has_just_started(settings: ServeSettings, tmp_path: Path) -> None:
    shards: list[Any] = [Retriever(settings, shard) for shard in (0, 1)]
    shape = ServingShape(load_encoder(HASHING).fingerprint(), 2)
    services = ServiceSet(shape, QueryEncoder(HASHING, shape.encoder, 10), shards, None)
    request = SearchRequest(query="red fish n0", top_k=10, top_n=3, rerank=False, deadline=soon())
    (answer,) = await Ingress(settings, lambda _: services).search([request])
    assert (answer.index_version, answer.results[0].id) == ("v1", "p0")

    never = Ingress(settings, lambda _: services)
    never._watch.cancel()
    with pytest.raises(Unavailable, match="no index version is served yet"):
        await never.search([replace(request, deadline=time.monotonic() + 0.05)])
    (tmp_path / "empty").mkdir()
    nothing = Ingress(settings.model_copy(update={"index": str(tmp_path / "empty")}), lambda _: services)
    with pytest.raises(Unavailable, match="no index version is served yet"):  # at once, not at its deadline
        await asyncio.wait_for(nothing.search([request]), 20)


async def test_beyond_its_limit_the_ingress_refuses_at_once(settings: ServeSettings) -> None:
    class Waits:
        """An encoder that answers when it is told to."""

        told = asyncio.Event()

        async def encode(self, queries: Sequence[str], deadline: float) -> FloatArray:
            await self.told.wait()
            return load_encoder(HASHING).encode_queries(list(queries))

    encoder, meter = Waits(), RecordingMeter()
    shards: list[Any] = [Retriever(settings, shard) for shard in (0, 1)]
    limited = settings.model_copy(update={"max_requests": 2})
    services = ServiceSet(ServingShape(load_encoder(HASHING).fingerprint(), 2), encoder, shards, None)
    ingress = Ingress(limited, lambda _: services, make_meter=lambda: meter)
    ingress._watch.cancel()
    await ingress._activation.follow()
    request = SearchRequest(query="red fish n0", top_k=10, top_n=3, rerank=False, deadline=soon())
    inside = [asyncio.ensure_future(ingress.search([request])) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="works on 2 searches already") as refusal:
        await ingress.search([request])
    assert response_of(refusal.value).status_code == 429
    assert response_of(refusal.value).headers["retry-after"] == "1"
    inside[0].cancel()  # a client that goes away frees its place
    await asyncio.wait(inside[:1])
    inside[0] = asyncio.ensure_future(ingress.search([request]))
    await asyncio.sleep(0)
    encoder.told.set()
    for (answer,) in await asyncio.gather(*inside):
        assert answer.results[0].id == "p0"
    await ingress.search([request])
    assert meter.counted(telemetry.QUERIES, outcome="overloaded") == 1


async def test_however_many_ask_whether_the_server_is_ready_it_is_found_out_once(settings: ServeSettings) -> None:
    class Slow:
        """An encoder that is asked and told when to answer."""

        def __init__(self) -> None:
            self.asked = 0
            self.told = asyncio.Event()

        async def encode(self, queries: Sequence[str], deadline: float) -> FloatArray:
            self.asked += 1
            await self.told.wait()
            return np.zeros((1, 64), np.float32)

    encoder: Any = Slow()
    shards: list[Any] = [Retriever(settings, shard) for shard in (0, 1)]
    ingress = Ingress(
        settings, lambda _: ServiceSet(ServingShape(load_encoder(HASHING).fingerprint(), 2), encoder, shards, None)
    )
    ingress._watch.cancel()
    await ingress._activation.follow()
    first, *others = [asyncio.ensure_future(ingress.ready()) for _ in range(20)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    late = asyncio.ensure_future(ingress.ready())
    await asyncio.sleep(0)
    encoder.told.set()
    assert await asyncio.gather(*others, late) == [[]] * 20
    assert await ingress.ready() == []
    assert encoder.asked == 1
    ingress._readiness._found_at = 0.0
    assert await ingress.ready() == []
    assert encoder.asked == 2


async def test_a_busy_server_stays_ready_and_one_without_an_encoder_does_not(settings: ServeSettings) -> None:
    class Service:
        """An encoder and a reranker whose next probe ends as told."""

        outcome: ShoalError | None = None

        async def encode(self, queries: Sequence[str], deadline: float) -> FloatArray:
            return await self.score("", queries, deadline)

        async def score(self, query: str, passages: Sequence[str], deadline: float) -> FloatArray:
            if self.outcome is not None:
                raise self.outcome
            return np.zeros(len(passages), np.float32)

    encoder, reranker = Service(), Service()
    shards: list[Any] = [Retriever(settings, shard) for shard in (0, 1)]
    ingress = Ingress(
        settings, lambda _: ServiceSet(ServingShape(load_encoder(HASHING).fingerprint(), 2), encoder, shards, reranker)
    )
    ingress._watch.cancel()
    await ingress._activation.follow()

    async def told(of_encoder: ShoalError | None, of_reranker: ShoalError | None) -> list[str]:
        encoder.outcome, reranker.outcome = of_encoder, of_reranker
        ingress._readiness._found_at = 0.0
        return await ingress.ready()

    busy, full, gone = DeadlineExceeded("busy"), Overloaded("full"), Unavailable("gone")
    assert await told(busy, full) == ["busy", "full"], "they have never answered"
    assert await told(None, None) == []
    assert await told(full, busy) == []
    assert await told(gone, None) == ["gone"]
    assert await told(None, gone) == ["gone"]
    ingress._readiness._liveness._clock = lambda: time.monotonic() + 2 * BUSY_S
    assert await told(busy, busy) == ["busy"], "an encoder that is silent for long is gone, a reranker may be"


async def test_a_problem_that_the_server_notes_is_told_for_a_while(
    root: Path, settings: ServeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards: list[Any] = [Retriever(settings, shard) for shard in (0, 1)]
    fingerprint = load_encoder(HASHING).fingerprint()
    services = ServiceSet(ServingShape(fingerprint, 2), QueryEncoder(HASHING, fingerprint, 10), shards, None)
    ingress = Ingress(settings, lambda _: services)
    await ingress._activation.follow()
    assert (await ingress.describe()).problem is None
    await ingress.note("it cannot be compacted", soon())
    assert (await ingress.describe()).problem == "it cannot be compacted"
    monkeypatch.setattr("serve.replicas.noted.NOTED_S", -1.0)
    await ingress.note("it cannot be compacted", soon())
    assert (await ingress.describe()).problem is None
