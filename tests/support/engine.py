"""The whole server in one process, without Ray: the real ingress over a real encoder, shards and reranker."""

from serve.replicas.encoder import QueryEncoder
from serve.replicas.ingress import Ingress
from serve.replicas.reranker import Reranker
from serve.replicas.shard import Retriever
from serve.telemetry import Meter, NullMeter
from serve.versions.discovery import ServiceSet
from shoal.encoders import load_encoder
from shoal.serving.plan import ServingShape
from shoal.settings import EncoderSettings, RerankerSettings, ServeSettings

HASHING = EncoderSettings(encoder="hashing:64")


async def local_engine(settings: ServeSettings, shards: int = 2, meter: Meter | None = None) -> Ingress:
    """Serve an index root of `tests.support.indexes.publish`; returns when it can be searched."""
    fingerprint = load_encoder(HASHING).fingerprint()

    def make() -> Meter:
        return meter or NullMeter()

    services = ServiceSet(
        ServingShape(fingerprint, shards),
        QueryEncoder(HASHING, fingerprint, settings.query_cache, make),
        [Retriever(settings, shard, make) for shard in range(shards)],
        Reranker(RerankerSettings(reranker="overlap"), settings.max_waiting, make),
    )
    ingress = Ingress(settings, lambda _: services, make_meter=make)
    await ingress._activation.follow()
    return ingress
