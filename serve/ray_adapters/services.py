"""What a replica of Serve is given so that it can reach the services of an index, or hold them itself."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ray import serve
from ray.serve.handle import DeploymentHandle

from serve.ray_adapters.handles import RETRY_AFTER_S, EncoderHandle, RerankerHandle, ShardHandle, call
from serve.ray_adapters.statuses import application_statuses
from serve.replicas.encoder import QueryEncoder
from serve.replicas.reranker import MAX_WAITING, Reranker, SpareReranker
from serve.replicas.shard import Retriever
from serve.telemetry import Meter
from serve.versions.discovery import EncoderServer, RerankServer, ServiceAnnouncement, ServiceSet, ShardServer
from shoal.errors import Unavailable
from shoal.records import ScoreScale
from shoal.serving.plan import ServingShape
from shoal.settings import EncoderSettings, RerankerSettings, ServeSettings

CONTROLLER_S = 5.0
"""How long an endpoint waits for Serve's controller to name the applications, in seconds."""
LOOK_UP_S = 2.0
"""How long it waits for one of them to tell what it serves, in seconds: less than a new endpoint has patience."""


@dataclass(frozen=True, slots=True)
class OwnServices:
    """The services of an ingress's own application: deployments beside it, or parts of its replica.

    Args:
        settings: Of the server.
        shape: The versions that they serve.
        encoder: The handle of its deployment, or the settings of one inside the replica.
        shards: The handles of their deployments; None puts all of them into the replica.
        reranker: The handle of its deployment, or the settings of one inside the replica that is loaded when it is
            asked; None if there is none.
        reranker_kind: The kind of the reranker, if its name does not tell.
        reranker_scale: Where its scores lie.
    """

    settings: ServeSettings
    shape: ServingShape
    encoder: DeploymentHandle | EncoderSettings
    shards: Sequence[DeploymentHandle] | None
    reranker: DeploymentHandle | RerankerSettings | None
    reranker_kind: str | None
    reranker_scale: ScoreScale | None = None

    def connect(self, meter: Meter) -> ServiceSet:
        """Make the services within a replica: connect to deployments, and load what is inside."""
        return ServiceSet(
            self.shape,
            self._encoder(lambda: meter),
            self._shards(lambda: meter),
            self._reranker(lambda: meter),
            self.reranker_kind,
            {"reranker_min_replicas": 0} if isinstance(self.reranker, RerankerSettings) else {},
            self.reranker_scale,
        )

    def _encoder(self, make_meter: Callable[[], Meter]) -> EncoderServer:
        if isinstance(self.encoder, EncoderSettings):
            return QueryEncoder(self.encoder, self.shape.encoder, self.settings.query_cache, make_meter)
        return EncoderHandle(self.encoder)

    def _shards(self, make_meter: Callable[[], Meter]) -> Sequence[ShardServer]:
        if self.shards is None:
            return [Retriever(self.settings, number, make_meter, self.shape) for number in range(self.shape.shards)]
        return [ShardHandle(handle, number) for number, handle in enumerate(self.shards)]

    def _reranker(self, make_meter: Callable[[], Meter]) -> RerankServer | None:
        if isinstance(self.reranker, RerankerSettings):
            return SpareReranker(partial(Reranker, self.reranker, MAX_WAITING, make_meter))
        return RerankerHandle(self.reranker) if self.reranker is not None else None


class ServeApplications:
    """The applications of Serve whose names begin with that of this replica's, and a dash."""

    async def statuses(self) -> Mapping[str, str]:
        """Return the status of every such application, by its name. Raises Unavailable."""
        prefix = f"{serve.get_replica_context().app_name}-"
        try:
            async with asyncio.timeout(CONTROLLER_S):  # Serve answers from its controller, and blocks for as long
                applications = await asyncio.to_thread(application_statuses)
        except Exception as error:
            raise Unavailable("Serve's controller does not answer; try again", retry_after_s=RETRY_AFTER_S) from error
        return {each.name: each.app_status.status.value for each in applications if each.name.startswith(prefix)}

    async def look_up(self, name: str) -> tuple[ServiceAnnouncement, Callable[[], ServiceSet]]:
        """Return what an application announces, and what connects to it. Raises if it announces nothing."""
        async with asyncio.timeout(LOOK_UP_S):
            encoder = await asyncio.to_thread(serve.get_app_handle, name)
            announcement: ServiceAnnouncement = await call(encoder, "look_up", deadline=time.monotonic() + LOOK_UP_S)
        return announcement, lambda: connect(encoder, announcement)


def connect(encoder: DeploymentHandle, announcement: ServiceAnnouncement) -> ServiceSet:
    """Connect to the services that an application announces, of which `encoder` is the encoder's handle."""
    return ServiceSet(
        announcement.shape,
        EncoderHandle(encoder),
        [ShardHandle(handle, number) for number, handle in enumerate(announcement.shards)],
        RerankerHandle(announcement.reranker) if announcement.reranker is not None else None,
        announcement.reranker_kind,
        announcement.service_settings,
        announcement.reranker_scale,
    )
