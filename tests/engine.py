"""The whole server in one process, without Ray: the real ingress over a real encoder, shards and reranker."""

from collections.abc import Sequence

from serve.deployments import Ingress, QueryEncoder, Reranker, Retriever, Services
from serve.telemetry import Meter, NoMeter
from shoal.encoders import load_encoder
from shoal.serving import Shape
from shoal.settings import EncoderSettings, RerankerSettings, ServeSettings

HASHING = EncoderSettings(encoder="hashing:64")


class LocalShard(Retriever):
    """A retriever called directly, where the ingress has a handle."""

    async def prepare(self, version: str, deadline: float = 0) -> bool:  # type: ignore[override]
        return await super().prepare(version)

    async def retire(self, keep: Sequence[str], deadline: float = 0) -> bool:  # type: ignore[override]
        return await super().retire(list(keep))

    async def holds(self, version: str, deadline: float) -> bool:
        return version in await self.versions()


async def local_engine(settings: ServeSettings, shards: int = 2, meter: Meter | None = None) -> Ingress:
    """Serve an index root of `tests.indexes.publish`; returns when it can be searched."""
    fingerprint = load_encoder(HASHING).fingerprint()

    def make() -> Meter:
        return meter or NoMeter()

    services = Services(
        Shape(fingerprint, shards),
        QueryEncoder(HASHING, fingerprint, settings.query_cache, make),  # type: ignore[arg-type]
        [LocalShard(settings, shard, make) for shard in range(shards)],  # type: ignore[misc]
        Reranker(RerankerSettings(reranker="overlap"), settings.max_waiting, make),  # type: ignore[arg-type]
    )
    ingress = Ingress(settings, services, meter=make)
    await ingress._activation.follow()
    return ingress
