"""`shoal serve --local`: the HTTP server over an engine in the same process, for a laptop and for tests. No Ray.

docs/serving.md says what it has not that a server on Ray has.
"""

import asyncio
import json
import logging
import math
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI

from serve.local_indexes import CatalogIndexes, LocalIngress
from serve.versions.compacting import compacting
from serve.versions.planned_indexes import check_indexes, given_roots
from serve.web.access import KeyRing, is_loopback
from serve.web.api import create_api
from serve.web.connections import bounded_connection
from serve.web.indexes import Indexes, IndexSource, SingleIndex
from serve.web.origins import LOOPBACK_NAMES
from shoal.catalog.catalog import Catalog
from shoal.engine.engine import LocalEngine
from shoal.errors import InvalidArgument
from shoal.settings import CatalogSettings, RunSettings, ServeSettings
from shoal.system.processes import STOPS

logger = logging.getLogger(__name__)

RAY_ONLY = (
    *("proxy", "metrics_port", "max_connections_per_source", "trusted_proxies", "log_dir", "replicas_per_node"),
    *("ingress_replicas", "encoder_replicas", "retriever_replicas", "cpus_per_replica", "gpus_per_replica"),
    *("reranker_min_replicas", "reranker_max_replicas", "reranker_idle_s", "hedge_percentile", "hedge_budget"),
    *("health_check_period_s", "health_check_timeout_s"),
)
"""Settings of replicas, their processes and the proxy, none of which there are here."""
BACKLOG = 2048
"""Connections that may wait to be accepted."""


def check_local(settings: RunSettings) -> None:
    """Raise InvalidArgument for settings that mean nothing without Ray."""
    for name in RAY_ONLY:
        if getattr(settings, name) != type(settings).model_fields[name].default:
            option = f"--{name.replace('_', '-')}"
            raise InvalidArgument(
                f"{option} means nothing with --local, which starts no Ray; leave one out", param=option
            )


def serve_locally(settings: RunSettings, say_ready: Callable[[], None]) -> None:
    """Serve until SIGINT, SIGTERM or the end of the terminal; `say_ready` is called once the index can be searched.

    Raises what opening an index raises, and InvalidArgument for settings that mean nothing here.
    """
    check_local(settings)
    check_indexes(settings)
    _log_to_stderr(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # what Ray Serve uses; sockets cost half as much
        runner.run(_serve(settings, say_ready))


async def _serve(settings: RunSettings, say_ready: Callable[[], None]) -> None:
    catalog = Catalog(settings_of_all(settings), settings.part(CatalogSettings), given_roots(settings))
    with compacting(settings, catalog.loaded_roots, logger.info) as compactor:
        await _serve_indexes(CatalogIndexes(catalog, compactor), settings, say_ready)


async def _serve_indexes(source: CatalogIndexes, settings: RunSettings, say_ready: Callable[[], None]) -> None:
    catalog, indexes, keys = source.catalog, Indexes(source), KeyRing.of(settings.api_keys_file)
    server = LocalServer(indexes_api(indexes, keys, settings), settings, say_ready)

    async def open_and_serve() -> None:
        await catalog.open()
        async with grpc_beside(indexes, keys, settings):
            await server.serve([_listen(settings.host, settings.port)])

    serving = asyncio.ensure_future(open_and_serve())
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if server.should_exit or not server.started:  # a second signal ends the waiting for what has come
            serving.cancel()
        server.should_exit = True

    for number in STOPS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop)
    try:
        await serving
        await source.settle()
    except asyncio.CancelledError:
        if not server.should_exit:
            raise
    finally:
        catalog.close()


def settings_of_all(settings: RunSettings) -> ServeSettings:
    """The settings of all indexes that are served; which root they name counts for nothing."""
    return settings.part(ServeSettings, index=settings.index or settings.catalog)


def local_api(engine: LocalEngine | IndexSource, settings: RunSettings) -> FastAPI:
    """Build the HTTP application over an engine or several indexes, with the keys and names of the settings."""
    served = settings_of_all(settings)
    source = SingleIndex(LocalIngress(engine, served), served) if isinstance(engine, LocalEngine) else engine
    return indexes_api(Indexes(source), KeyRing.of(settings.api_keys_file), settings)


def indexes_api(indexes: Indexes, keys: KeyRing | None, settings: RunSettings) -> FastAPI:
    """Build the HTTP application over indexes. keys: who may ask; None lets everybody."""
    names = [*LOOPBACK_NAMES, settings.host, *(settings.allowed_hosts or ())]
    hosts = settings.allowed_hosts if keys is not None else names
    served = settings_of_all(settings)
    return create_api(indexes, served, keys=keys, keyless_writes=is_loopback(settings.host), hosts=hosts)


@asynccontextmanager
async def grpc_beside(indexes: Indexes, keys: KeyRing | None, settings: RunSettings) -> AsyncIterator[None]:
    """Answer over gRPC too for as long as the block lasts, for the default index, where there is a port for it."""
    if settings.grpc_port is None:
        yield
        return
    from serve.grpc_server.server import GrpcServer

    server = GrpcServer(indexes, settings_of_all(settings), settings.host, keys=keys)
    await server.start()
    try:
        yield
    finally:
        await server.stop(settings.drain_s)


class LocalServer(uvicorn.Server):
    """uvicorn in an event loop and with signals that are not its own."""

    def __init__(self, app: FastAPI, settings: RunSettings, say_ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=bounded_connection(settings.body_timeout_s),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=math.ceil(settings.drain_s),
            )
        )
        self._say_ready = say_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        self._say_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever runs this."""
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop in good order."""
        self.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # Connections have it from here. asyncio sets it only for sockets that name their protocol, and without it the body
    # of an answer waits until the client has acknowledged the head, which takes it 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _log_to_stderr(settings: ServeSettings) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonLines() if settings.log_format == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "httpx", "openvino"):
        logging.getLogger(name).setLevel(logging.WARNING)


class JsonLines(logging.Formatter):
    """One JSON object a line, with what the text form says and the fields of Shoal's own lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line: dict[str, Any] = {
            "asctime": self.formatTime(record),
            "levelname": record.levelname,
            "message": record.getMessage(),
        }
        line |= {name: vars(record)[name] for name in ("request_id", "slow_query") if name in vars(record)}
        if record.exc_info:
            line["exc_text"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
