"""An ingress replica: what answers for each of its indexes, and what all of these have in common."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serve.admitted_engine import IngressLimits
from serve.replicas.catalog_replica import CatalogOptions, ReplicaCatalog
from serve.replicas.clocks import COMPARE_S, ClockComparison
from serve.replicas.index_ingress import IndexIngress
from serve.replicas.lent_models import LentModels
from serve.telemetry import SAMPLE_S, Meter, NullMeter, Telemetry
from serve.versions.discovery import Clock, FindServices, ServiceSet, find_no_services
from serve.web.access import shared_keys
from serve.web.exchanges import Exchanges
from shoal.engine.description import IndexDescription
from shoal.serving.index_name import DEFAULT_NAME, index_name, no_such_index
from shoal.settings import ServeSettings

REPLY_S = 0.1
"""Seconds for the way back of what a call returns that waits until its deadline."""


class PortServer(Protocol):
    """What answers on a port of its own beside HTTP."""

    listening: bool
    """Whether clients can connect."""

    async def start_after(self, event: asyncio.Event) -> None:
        """Listen once something has happened."""
        ...

    async def stop(self, within_s: float) -> None:
        """Take nothing more, and end what is not answered within so many seconds."""
        ...


@dataclass(frozen=True, slots=True)
class FurtherIndex:
    """An index beside the default one, all of whose services are those of other applications.

    Args:
        settings: Of the server, with the root of this index.
        find_services: Gives services for its versions (`ServiceDiscovery.find_services`).
    """

    settings: ServeSettings
    find_services: FindServices


class IngressReplica:
    """What an ingress replica is beside the engines of its indexes: their catalog, and what all of them have in common.

    Args:
        settings: Of the server.
        shared: What its indexes have in common.
        engines: What answers for those that have replicas of their own, by their names.
        catalog: The catalog whose indexes are served in this replica; None where there is none.
    """

    def __init__(
        self,
        settings: ServeSettings,
        shared: IngressLimits,
        engines: Mapping[str, IndexIngress],
        catalog: CatalogOptions | None,
    ) -> None:
        self.engines = engines
        """What answers for each index that has replicas of its own, by its name."""
        lend = LentModels(lambda: [engine.services for engine in engines.values()], settings.reranker)
        self.catalog = None if catalog is None else ReplicaCatalog(catalog, shared, lend)
        """The catalog; None where there is none."""
        self.exchanges = Exchanges()
        self._common = settings
        self._measures = shared.telemetry
        self._sampling = asyncio.create_task(self._sample())

    async def _sample(self) -> None:
        settings = self._common
        keys = shared_keys(settings.api_keys_file, 1 / settings.ingress_replicas)
        while True:
            if keys is not None:
                keys.look()  # nobody may ask for a while, and the operator wants to know all the same
            self._measures.key_file(keys is not None and keys.problem is not None)
            engines = self.engines.values()
            in_catalog = self.catalog is not None and self.catalog.compactions.any_problem
            self._measures.compaction(in_catalog or any(engine.noted_problem() is not None for engine in engines))
            waiting = [engine.queues() for engine in engines]
            for stage in dict.fromkeys(stage for queues in waiting for stage in queues):
                self._measures.queue(stage, sum(queues.get(stage, 0) for queues in waiting))
            await asyncio.sleep(SAMPLE_S)

    async def note(self, problem: str, deadline: float, index: str | None = None) -> None:
        """Tell a problem of the server that runs this ingress, until that has not repeated it for a while.

        index: The name of the index that it concerns; None for the default one.
        """
        if self.catalog is not None and index is not None and index not in self.engines:
            self.catalog.note(index, problem)
        else:
            self._engine(index).note_problem(problem)

    async def describe_index(self, index: str) -> IndexDescription:
        """Describe what is served of an index that has replicas of its own. Raises NotFound."""
        return await self._engine(index).describe()

    def _engine(self, index: str | None) -> IndexIngress:
        name = next(iter(self.engines), DEFAULT_NAME) if index is None else index
        if name not in self.engines:
            raise no_such_index(name)
        return self.engines[name]

    async def loaded_names(self, deadline: float) -> list[str]:
        """Name the indexes of the catalog that are in the memory of this replica."""
        return [] if self.catalog is None else self.catalog.loaded_names()

    async def ready(self) -> list[str]:
        """Name what is missing until indexes can be searched; empty means ready."""
        return [] if self.catalog is None else self.catalog.missing()

    async def finish(self, deadline: float) -> int:
        """Refuse HTTP exchanges from now on, and wait until none is under way, or until shortly before the deadline.

        Returns how many still are.
        """
        self.exchanges.closed = True
        return await self.exchanges.finish(deadline - REPLY_S)


class CatalogIngress(IngressReplica):
    """An ingress replica of a server that has a catalog alone.

    Args:
        settings: Of the server.
        make_meter: Makes what measures.
        catalog: The catalog.
    """

    def __init__(self, settings: ServeSettings, make_meter: Callable[[], Meter], catalog: CatalogOptions) -> None:
        super().__init__(settings, _shared_limits(settings, make_meter()), {}, catalog)


class Ingress(IndexIngress, IngressReplica):
    """The engines behind the HTTP dialects: itself that of the default index, and one for each further one.

    Args:
        settings: Of the server.
        connect_services: Makes the services that belong to this ingress; None if it has none of its own.
        find_services: Gives services of others for versions of another shape (`ServiceDiscovery.find_services`).
        make_meter: Makes what measures.
        make_grpc_server: Makes what answers over gRPC too, from the ingress; None where nothing does.
        further: The indexes beside that of the settings.
        catalog: The catalog whose indexes are served in this replica; None where there is none.
    """

    def __init__(
        self,
        settings: ServeSettings,
        connect_services: Callable[[Meter], ServiceSet] | None,
        find_services: FindServices = find_no_services,
        make_meter: Callable[[], Meter] = NullMeter,
        make_grpc_server: Callable[["Ingress"], PortServer] | None = None,
        further: Sequence[FurtherIndex] = (),
        catalog: CatalogOptions | None = None,
    ) -> None:
        meter = make_meter()
        services = connect_services(meter) if connect_services is not None else None
        shared = _shared_limits(settings, meter)
        IndexIngress.__init__(self, settings, services, find_services, shared)
        self._further = {
            index_name(each.settings.index): IndexIngress(each.settings, None, each.find_services, shared)
            for each in further
        }
        engines: dict[str, IndexIngress] = {index_name(settings.index): self, **self._further}
        IngressReplica.__init__(self, settings, shared, engines, catalog)
        self._comparing = asyncio.create_task(self._compare_clocks())
        self._grpc_server = make_grpc_server(self) if make_grpc_server is not None else None
        if self._grpc_server is not None:  # a replica that cannot answer yet takes no connections from one that can
            self._opening_grpc = asyncio.create_task(self._grpc_server.start_after(self._activation.settled))

    async def _compare_clocks(self) -> None:
        comparison = ClockComparison(self._telemetry.clock)
        while True:
            if clocks := self._all_clocks():
                await comparison.compare(clocks)
            await asyncio.sleep(COMPARE_S if clocks else SAMPLE_S)

    def _all_clocks(self) -> dict[str, Clock]:
        """The services of all indexes; those of a further one say whose they are."""
        further = {
            f"{service} of {name}": clock
            for name, engine in self._further.items()
            for service, clock in engine.clocks().items()
        }
        return self.clocks() | further

    async def ready(self) -> list[str]:
        """Name what is missing until every shard of each active version can be searched; empty means ready."""
        further = asyncio.gather(*(engine.ready() for engine in self._further.values()))
        missing = [*await IndexIngress.ready(self), *await IngressReplica.ready(self)]
        if self._grpc_server is not None and not self._grpc_server.listening:
            missing = [*missing, "the port of gRPC"]
        for name, lacking in zip(self._further, await further, strict=True):
            missing = [*missing, *(f"{name}: {each}" for each in lacking)]
        return missing

    async def stop_grpc(self) -> None:
        """Answer the calls over gRPC that are under way, and take no more; for a replica that is stopped."""
        if self._grpc_server is not None:
            self._opening_grpc.cancel()
            await self._grpc_server.stop(self._settings.drain_s)


def _shared_limits(settings: ServeSettings, meter: Meter) -> IngressLimits:
    return IngressLimits(settings, Telemetry(meter, settings.slow_query_ms, settings.log_queries))
