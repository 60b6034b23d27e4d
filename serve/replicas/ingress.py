"""An ingress replica: what answers for each of its indexes, and what all of these have in common."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serve.replicas.clocks import COMPARE_S, ClockComparison
from serve.replicas.index_ingress import IndexIngress
from serve.telemetry import SAMPLE_S, Meter, NullMeter, Telemetry
from serve.versions.discovery import Clock, FindServices, ServiceSet, find_no_services
from serve.web.access import Admission, shared_keys
from serve.web.exchanges import Exchanges
from shoal.engine.description import IndexDescription
from shoal.serving.index_name import index_name, no_such_index
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


class Ingress(IndexIngress):
    """The engines behind the HTTP dialects: itself that of the default index, and one for each further one.

    Args:
        settings: Of the server.
        connect_services: Makes the services that belong to this ingress; None if it has none of its own.
        find_services: Gives services of others for versions of another shape (`ServiceDiscovery.find_services`).
        make_meter: Makes what measures.
        make_grpc_server: Makes what answers over gRPC too, from the ingress; None where nothing does.
        further: The indexes beside that of the settings.
    """

    def __init__(
        self,
        settings: ServeSettings,
        connect_services: Callable[[Meter], ServiceSet] | None,
        find_services: FindServices = find_no_services,
        make_meter: Callable[[], Meter] = NullMeter,
        make_grpc_server: Callable[["Ingress"], PortServer] | None = None,
        further: Sequence[FurtherIndex] = (),
    ) -> None:
        meter = make_meter()
        services = connect_services(meter) if connect_services is not None else None
        telemetry = Telemetry(meter, settings.slow_query_ms, settings.log_queries)
        super().__init__(settings, services, find_services, telemetry, Admission(settings))
        self._further = {
            index_name(each.settings.index): IndexIngress(
                each.settings, None, each.find_services, telemetry, self._admission
            )
            for each in further
        }
        self.engines: Mapping[str, IndexIngress] = {index_name(settings.index): self, **self._further}
        """What answers for each index, by its name."""
        self.exchanges = Exchanges()
        self._sampling = asyncio.create_task(self._sample())
        self._comparing = asyncio.create_task(self._compare_clocks())
        self._grpc_server = make_grpc_server(self) if make_grpc_server is not None else None
        if self._grpc_server is not None:  # a replica that cannot answer yet takes no connections from one that can
            self._opening_grpc = asyncio.create_task(self._grpc_server.start_after(self._activation.settled))

    async def _sample(self) -> None:
        keys = shared_keys(self._settings.api_keys_file, 1 / self._settings.ingress_replicas)
        while True:
            if keys is not None:
                keys.look()  # nobody may ask for a while, and the operator wants to know all the same
            self._telemetry.key_file(keys is not None and keys.problem is not None)
            engines = self.engines.values()
            self._telemetry.compaction(any(engine.noted_problem() is not None for engine in engines))
            waiting = [engine.queues() for engine in engines]
            for stage in dict.fromkeys(stage for queues in waiting for stage in queues):
                self._telemetry.queue(stage, sum(queues.get(stage, 0) for queues in waiting))
            await asyncio.sleep(SAMPLE_S)

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

    async def note(self, problem: str, deadline: float, index: str | None = None) -> None:
        """Tell a problem of the server that runs this ingress, until that has not repeated it for NOTED_S.

        index: The name of the index that it concerns; None for the default one.
        """
        self._engine(index).note_problem(problem)

    async def describe_index(self, index: str) -> IndexDescription:
        """Describe what is served of an index. Raises NotFound."""
        return await self._engine(index).describe()

    def _engine(self, index: str | None) -> IndexIngress:
        if index is None:
            return self
        if index not in self.engines:
            raise no_such_index(index)
        return self.engines[index]

    async def ready(self) -> list[str]:
        """Name what is missing until every shard of each active version can be searched; empty means ready."""
        further = asyncio.gather(*(engine.ready() for engine in self._further.values()))
        missing = await super().ready()
        if self._grpc_server is not None and not self._grpc_server.listening:
            missing = [*missing, "the port of gRPC"]
        for name, lacking in zip(self._further, await further, strict=True):
            missing = [*missing, *(f"{name}: {each}" for each in lacking)]
        return missing

    async def finish(self, deadline: float) -> int:
        """Refuse HTTP exchanges from now on, and wait until none is under way, or until shortly before the deadline.

        Returns how many still are.
        """
        self.exchanges.closed = True
        return await self.exchanges.finish(deadline - REPLY_S)

    async def stop_grpc(self) -> None:
        """Answer the calls over gRPC that are under way, and take no more; for a replica that is stopped."""
        if self._grpc_server is not None:
            self._opening_grpc.cancel()
            await self._grpc_server.stop(self._settings.drain_s)
