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
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from serve.telemetry import NullMeter, Telemetry
from serve.versions.compacting import compacting
from serve.web.access import Admission, KeyRing, charge, is_loopback
from serve.web.api import create_api
from serve.web.connections import bounded_connection
from serve.web.origins import LOOPBACK_NAMES
from shoal.engine.description import IndexDescription
from shoal.engine.engine import LocalEngine
from shoal.engine.limits import RequestLimits
from shoal.errors import InvalidArgument
from shoal.records import (
    EmbeddedTexts,
    FetchedPassages,
    InputType,
    ListedIds,
    RerankedDocuments,
    ScoreScale,
    SearchAnswer,
    SearchRequest,
)
from shoal.settings import RunSettings, ServeSettings
from shoal.system.processes import STOPS
from shoal.writing.requests import Deleted, DeleteRequest, Updated, UpdateRequest, WriteRequest, Written

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
    _log_to_stderr(settings)
    with compacting(settings, logger.info) as problem, asyncio.Runner() as runner:
        runner.run(_serve(settings, say_ready, problem))


async def _serve(settings: RunSettings, say_ready: Callable[[], None], problem: Callable[[], str | None]) -> None:
    served = settings.part(ServeSettings)
    engine = LocalEngine(served)
    ingress, keys = LocalIngress(engine, served, problem), KeyRing.of(settings.api_keys_file)
    server = LocalServer(ingress_api(ingress, keys, settings), settings, say_ready)

    async def open_and_serve() -> None:
        await engine.open()
        async with grpc_beside(ingress, keys, settings):
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
    except asyncio.CancelledError:
        if not server.should_exit:
            raise
    finally:
        engine.close()


def local_api(engine: LocalEngine, settings: RunSettings, problem: Callable[[], str | None] = lambda: None) -> FastAPI:
    """Build the HTTP application over an engine, with the keys and names of the settings.

    problem: says what keeps the server from compacting by itself, if something does.
    """
    ingress = LocalIngress(engine, settings.part(ServeSettings), problem)
    return ingress_api(ingress, KeyRing.of(settings.api_keys_file), settings)


def ingress_api(ingress: "LocalIngress", keys: KeyRing | None, settings: RunSettings) -> FastAPI:
    """Build the HTTP application over an ingress. keys: who may ask; None lets everybody."""
    names = [*LOOPBACK_NAMES, settings.host, *(settings.allowed_hosts or ())]
    hosts = settings.allowed_hosts if keys is not None else names
    served = settings.part(ServeSettings)
    return create_api(ingress, served, keys=keys, keyless_writes=is_loopback(settings.host), hosts=hosts)


@asynccontextmanager
async def grpc_beside(ingress: "LocalIngress", keys: KeyRing | None, settings: RunSettings) -> AsyncIterator[None]:
    """Answer over gRPC too for as long as the block lasts, where there is a port for it."""
    if settings.grpc_port is None:
        yield
        return
    from serve.grpc_server.server import GrpcServer

    server = GrpcServer(lambda: ingress, settings.part(ServeSettings), settings.host, keys=keys)
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


class LocalIngress:
    """A `serve.dialects.base.Engine` over an engine in this process: with the limits and the log of an ingress."""

    def __init__(
        self, engine: LocalEngine, settings: ServeSettings, problem: Callable[[], str | None] = lambda: None
    ) -> None:
        self._engine = engine
        self._problem = problem
        self._limits = RequestLimits(settings)
        self._telemetry = Telemetry(NullMeter(), settings.slow_query_ms, settings.log_queries)
        self._admission = Admission(settings)

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer the queries of one HTTP request, in order. Raises Overloaded at once beyond `max_requests`."""
        started = time.monotonic()
        try:
            self._limits.check_search(requests)
            charge(len(requests))
            with self._admission.one_more():
                answers = await self._engine.search(requests)
        except BaseException as error:
            self._telemetry.ended(requests, error, 1000 * (time.monotonic() - started))
            raise
        self._telemetry.answered(requests, answers)
        return answers

    async def embed(
        self, texts: Sequence[str], input_type: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        """Return the vectors that the index compares, in input order. Raises as `search`."""
        with self._telemetry.embedding(len(texts)):
            self._limits.check_embed(texts, deadline, are_queries=input_type == "query")
            charge(len(texts))
            with self._admission.one_more():
                return await self._engine.embed(texts, input_type, deadline, with_tokens)

    async def rerank(self, query: str, documents: Sequence[str], deadline: float) -> RerankedDocuments:
        """Return the scores of documents, in input order. Raises as `search`."""
        with self._telemetry.reranking(len(documents)):
            self._limits.check_rerank(query, documents, deadline)
            charge(1)
            with self._admission.one_more():
                return await self._engine.rerank(query, documents, deadline)

    async def fetch(self, ids: Sequence[str], deadline: float, with_vectors: bool = False) -> FetchedPassages:
        """Return passages by their ids, in the order asked, and the ids that there are none of. Raises as `search`."""
        self._limits.check_fetch(ids, deadline, with_vectors=with_vectors)
        charge(1)
        with self._admission.one_more():
            return await self._engine.fetch(ids, deadline, with_vectors)

    async def list_ids(self, prefix: str, limit: int, cursor: str | None, deadline: float) -> ListedIds:
        """Return a page of the ids that begin with a prefix, in order. Raises as `search`."""
        self._limits.check_list(prefix, limit, deadline)
        charge(1)
        with self._admission.one_more():
            return await self._engine.list_ids(prefix, limit, cursor, deadline)

    async def write(self, request: WriteRequest) -> Written:
        """Write records; all of them durably, or none."""
        self._limits.check_write(request)
        charge(1)
        return await self._engine.write(request)

    async def delete(self, request: DeleteRequest) -> Deleted:
        """Delete records."""
        self._limits.check_write(request)
        charge(1)
        return await self._engine.delete(request)

    async def update(self, request: UpdateRequest) -> Updated:
        """Change the metadata of records."""
        self._limits.check_write(request)
        charge(1)
        return await self._engine.update(request)

    async def describe(self) -> IndexDescription:
        """Describe what is served."""
        description = await self._engine.describe()
        return replace(description, problem=description.problem or self._problem())

    def reranker_scale(self) -> ScoreScale | None:
        """Where the scores of the reranker lie; None if that is not known."""
        return self._engine.reranker_scale()

    async def activate(self, version: str) -> None:
        """Load a published version, then serve it and make it CURRENT."""
        await self._engine.activate(version)

    async def rollback(self) -> None:
        """Serve the previous version again and make it CURRENT."""
        await self._engine.rollback()

    async def ready(self) -> list[str]:
        """Name what is missing until the active version can be searched; empty means ready."""
        return await self._engine.ready()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


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
