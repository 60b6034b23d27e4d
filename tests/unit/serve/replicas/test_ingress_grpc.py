"""When an ingress replica answers over gRPC: once it serves a version, until it is stopped."""

import asyncio

from serve.replicas.encoder import QueryEncoder
from serve.replicas.ingress import Ingress
from serve.replicas.reranker import Reranker
from serve.replicas.shard import Retriever
from serve.versions.discovery import ServiceSet
from shoal.encoders import load_encoder
from shoal.serving.plan import ServingShape
from shoal.settings import RerankerSettings, ServeSettings
from tests.support.replicas import HASHING


class Port:
    """A port without sockets."""

    def __init__(self) -> None:
        self.listening = False
        self.stopped: list[float] = []
        self.opened = asyncio.Event()

    async def start_after(self, event: asyncio.Event) -> None:
        await event.wait()
        await self.opened.wait()
        self.listening = True

    async def stop(self, within_s: float) -> None:
        self.listening = False
        self.stopped.append(within_s)


async def test_a_replica_listens_once_it_serves_a_version_and_is_ready_when_it_listens(settings: ServeSettings) -> None:
    fingerprint, port = load_encoder(HASHING).fingerprint(), Port()
    services = ServiceSet(
        ServingShape(fingerprint, 2),
        QueryEncoder(HASHING, fingerprint, 10),
        [Retriever(settings, shard) for shard in (0, 1)],
        Reranker(RerankerSettings(reranker="overlap"), max_waiting=10),
    )
    ingress = Ingress(settings, lambda _: services, make_grpc_server=lambda _: port)
    await ingress._activation.follow()
    ingress._readiness._found_at = 0.0
    assert await ingress.ready() == ["the port of gRPC"]
    ingress._activation.settled.set()
    port.opened.set()
    await ingress._opening_grpc
    assert await ingress.ready() == []
    await ingress.stop_grpc()
    assert port.stopped == [settings.drain_s]
    ingress._watch.cancel()
