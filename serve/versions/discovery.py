"""The services that serve index versions of one shape, and how an ingress finds those beside its own. No Ray."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from shoal.records import FloatArray, ScoreScale
from shoal.search.services import EmbedService, EncodeService, RerankService, ShardService
from shoal.serving.plan import ServingShape

logger = logging.getLogger("ray.serve")

SERVICE_SETTINGS = ("reranker", "encoder_replicas", "retriever_replicas", "reranker_min_replicas")
"""Settings that describe services: an ingress answers by those that they were started with, not by its own."""
WHOLE = frozenset({"RUNNING"})
"""Statuses of an application none of whose replicas is missing."""
STARTED = WHOLE | {"UNHEALTHY"}
"""Statuses of an application whose replicas have all been there."""
STARTING = STARTED | {"DEPLOYING"}
"""Statuses of an application that answers, or may soon."""


class Clock(Protocol):
    """A service that can be asked for the time on its machine."""

    async def clock(self, deadline: float) -> float:
        """Return the time, in seconds since the epoch."""
        ...


class EncoderServer(EncodeService, EmbedService, Clock, Protocol):
    """What an ingress asks of the encoder: vectors of queries for its searches, and of passages for who wants them."""

    async def encode_passages(self, texts: Sequence[str], deadline: float) -> FloatArray:
        """Return float32 (n, dim), L2-normalised, in input order: the vectors that a build gives these texts."""
        ...


class ShardControl(Protocol):
    """What an activation asks of one shard. Deadlines are by `time.monotonic` of this process."""

    async def prepare(self, version: str, deadline: float) -> None:
        """Load a version in every replica. Raises what makes that impossible."""
        ...

    async def retire(self, keep: Sequence[str], deadline: float) -> None:
        """Close every version but these in every replica."""
        ...

    async def holds(self, version: str, deadline: float) -> bool:
        """Whether a replica has the version loaded."""
        ...


class ShardServer(ShardService, ShardControl, Clock, Protocol):
    """What an ingress asks of a shard: searches, and which versions it holds."""


class RerankServer(RerankService, Clock, Protocol):
    """What an ingress asks of the reranker."""


@dataclass(frozen=True, slots=True, eq=False)
class ServiceSet:
    """The services that serve versions of one shape. Two of them are equal only if they are the same object.

    Args:
        shape: The versions that they can serve.
        encoder: Encodes queries and passages.
        shards: Every shard, in order.
        reranker: None if there is none.
        reranker_kind: The kind of the reranker, if its name does not tell.
        service_settings: Those of SERVICE_SETTINGS in which they may differ from the ingress.
        reranker_scale: Where the scores of the reranker lie, if that is known.
    """

    shape: ServingShape
    encoder: EncoderServer
    shards: Sequence[ShardServer]
    reranker: RerankServer | None
    reranker_kind: str | None = None
    service_settings: Mapping[str, Any] = field(default_factory=dict)
    reranker_scale: ScoreScale | None = None

    def clocks(self) -> dict[str, Clock]:
        """The services, each by a name for people."""
        clocks: dict[str, Clock] = {"encoder": self.encoder}
        clocks |= {f"shard {number}": shard for number, shard in enumerate(self.shards)}
        return clocks | ({"reranker": self.reranker} if self.reranker is not None else {})


@dataclass(frozen=True, slots=True)
class ServiceAnnouncement:
    """What an application serves, and how. It travels from the application's encoder to the endpoint.

    Args:
        index: URI of the index root.
        shape: The versions that the application serves.
        shards: A handle of every shard, in order.
        reranker: The handle of the reranker, None if there is none.
        reranker_kind: The kind of the reranker, if its name does not tell.
        service_settings: Those of SERVICE_SETTINGS, as the application was started with them.
        reranker_scale: Where the scores of the reranker lie.
    """

    index: str
    shape: ServingShape
    shards: Sequence[Any]
    reranker: Any
    reranker_kind: str | None
    service_settings: Mapping[str, Any]
    reranker_scale: ScoreScale | None = None


class Applications(Protocol):
    """The applications beside that of this ingress."""

    async def statuses(self) -> Mapping[str, str]:
        """Return the status of every application that may be of services, by its name. Raises Unavailable."""
        ...

    async def look_up(self, name: str) -> tuple[ServiceAnnouncement, Callable[[], ServiceSet]]:
        """Return what an application announces, and what connects to it. Raises if it announces nothing."""
        ...


FindServices: TypeAlias = Callable[[ServingShape, ServiceSet | None], Awaitable[ServiceSet | None]]
"""Gives services for versions of a shape, or None; by those that are in use, if there are any (`ServiceDiscovery`)."""


async def find_no_services(shape: ServingShape, in_use: ServiceSet | None) -> ServiceSet | None:
    """Find nothing: for an ingress that has nothing beside it."""
    return None


class ServiceDiscovery:
    """Finds services of an index in the applications beside that of an ingress.

    Args:
        index: URI of the index root whose versions they serve.
        applications: Those beside.
    """

    def __init__(self, index: str, applications: Applications) -> None:
        self._index = index
        self._applications = applications
        self._connected: dict[str, ServiceSet] = {}

    async def find_services(self, shape: ServingShape, in_use: ServiceSet | None) -> ServiceSet | None:
        """Return services for versions of a shape, once their replicas have all been there; None if there are none.

        An ingress that serves nothing takes those too that have just been started. Those that are whole go before
        others, then the ones that it uses. Raises Unavailable if it cannot be told which applications there are.

        Args:
            shape: What they must be able to serve.
            in_use: The services that searches are answered from, None if there are none yet.
        """
        eligible = STARTING if in_use is None else STARTED
        statuses = await self._applications.statuses()
        names = [name for name, status in statuses.items() if status in eligible]
        self._connected = {name: services for name, services in self._connected.items() if name in statuses}

        def rank(name: str) -> tuple[bool, bool]:
            return statuses[name] not in WHOLE, self._connected.get(name) is not in_use

        for name in sorted(names, key=rank):
            if (services := await self._look_up(name)) and services.shape.fits(shape):
                return services
        return None

    async def _look_up(self, name: str) -> ServiceSet | None:
        """The services of an application, the same object as long as they stay what they are; None if it has none."""
        try:
            announcement, connect = await self._applications.look_up(name)
            index, announced = announcement.index, _description(announcement)
        except Exception as error:  # one that is being built, or of other code, or something else, stops no other
            logger.info("%s tells of no services: %r", name, error)
            return None
        if index != self._index:
            return None
        services = self._connected.get(name)
        if services is None or _description(services) != announced:
            services = self._connected[name] = connect()
        return services


def _description(services: ServiceAnnouncement | ServiceSet) -> tuple[Any, ...]:
    """What makes services others than they were."""
    return services.shape, services.reranker_kind, services.service_settings, services.reranker_scale
