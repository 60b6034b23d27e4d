"""What replicas are given, as far as it can be looked at without starting Serve."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle

from serve.ray_adapters.handles import EncoderHandle, RerankerHandle, ShardHandle
from serve.ray_adapters.services import OwnServices, ServeApplications
from serve.replicas.encoder import QueryEncoder
from serve.replicas.reranker import SpareReranker
from serve.replicas.shard import Retriever
from serve.telemetry import NullMeter
from serve.versions.discovery import ServiceAnnouncement, ServiceDiscovery
from shoal.encoders import load_encoder
from shoal.serving.plan import ServingShape
from shoal.settings import EncoderSettings, RerankerSettings, ServeSettings
from tests.support.engine import HASHING
from tests.support.indexes import passages, publish

SHAPE = ServingShape(load_encoder(HASHING).fingerprint(), 2)


async def test_an_endpoint_learns_what_services_were_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    handle: Any = object()
    announced = ServiceAnnouncement("/nowhere", SHAPE, [handle, handle], handle, "late_interaction", {"reranker": "x"})

    async def call(*_: Any, **__: Any) -> ServiceAnnouncement:
        return announced

    running = SimpleNamespace(
        get_app_handle=lambda name: handle,
        get_replica_context=lambda: SimpleNamespace(app_name="shoal"),
    )
    status = SimpleNamespace(status=SimpleNamespace(value="RUNNING"))
    statuses = [SimpleNamespace(name=name, app_status=status) for name in ("shoal", "shoal-green", "other")]
    monkeypatch.setattr("serve.ray_adapters.services.serve", running)
    monkeypatch.setattr("serve.ray_adapters.services.application_statuses", lambda: statuses)
    monkeypatch.setattr("serve.ray_adapters.services.call", call)
    applications = ServeApplications()
    assert await applications.statuses() == {"shoal-green": "RUNNING"}
    services = await ServiceDiscovery("/nowhere", applications).find_services(SHAPE, None)
    assert services is not None
    assert (services.reranker_kind, services.service_settings) == ("late_interaction", {"reranker": "x"})
    assert [type(shard) for shard in services.shards] == [ShardHandle] * 2
    assert (type(services.encoder), type(services.reranker)) == (EncoderHandle, RerankerHandle)


def test_services_of_its_own_are_deployments_or_parts_of_the_replica(tmp_path: Any) -> None:
    publish(tmp_path, "v1", passages(20))
    settings = ServeSettings(index=str(tmp_path), encoder="hashing:64", reranker="none")
    handle: Any = SimpleNamespace()
    apart = OwnServices(settings, SHAPE, handle, [handle, handle], handle, "overlap").connect(NullMeter())
    assert [type(shard) for shard in apart.shards] == [ShardHandle] * 2
    assert (type(apart.encoder), type(apart.reranker)) == (EncoderHandle, RerankerHandle)
    encoder = EncoderSettings(encoder="hashing:64")
    inside = OwnServices(settings, SHAPE, encoder, None, None, None).connect(NullMeter())
    assert [type(shard) for shard in inside.shards] == [Retriever] * 2
    assert (type(inside.encoder), inside.reranker) == (QueryEncoder, None)
    spare = RerankerSettings(reranker="overlap")
    seldom = OwnServices(settings, SHAPE, encoder, None, spare, "overlap").connect(NullMeter())
    assert isinstance(seldom.reranker, SpareReranker)
    assert seldom.service_settings == {"reranker_min_replicas": 0}  # whoever asks whether it is ready would load it


def test_what_a_replica_is_given_travels_to_it() -> None:
    given = (
        OwnServices(ServeSettings(index="/nowhere"), SHAPE, HASHING, None, None, None).connect,
        ServiceDiscovery("/nowhere", ServeApplications()).find_services,
    )
    connect, find = cloudpickle.loads(cloudpickle.dumps(given))
    assert connect.__self__ == given[0].__self__
    assert find.__self__._index == "/nowhere"
