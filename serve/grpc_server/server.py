"""The gRPC server: one port, bounds on connections and messages, TLS where a certificate is given.

It runs in the process of the engine that it asks, also on Ray: docs/decisions says why not behind Serve's proxy.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from serve.dialects.base import Engine
from serve.dialects.pinecone_api.control import ServedIndex
from serve.grpc_server.exchange import DataPlane
from serve.grpc_server.exposure import check_grpc, read_certificate
from serve.web.access import KeyRing, is_loopback
from serve.web.exchanges import Exchanges
from serve.web.indexes import Indexes, indexes_of
from shoal.errors import InvalidArgument, Unavailable
from shoal.settings import ServeSettings

STREAMS = 128
"""Calls that one connection may have under way."""
SPARE_CALLS = 64
"""Calls that a server takes in beside as many as it may search for, so that it is the engine that refuses."""
METADATA_BYTES = 16_384
"""Bytes of what comes beside a message: keys and ids."""
IDLE_MS = 300_000
"""Milliseconds after which a connection without calls is closed; clients make another one when they need it."""
HANDSHAKE_MS = 10_000
"""Milliseconds in which a connection must be there."""
PROBE_MS = 60_000
"""Milliseconds of silence after which a client is asked whether it is still there."""
PROBED_MS = 20_000
"""Milliseconds that it may take to say so."""
UNCOMPRESSED = 1
"""The set of compressions that are understood: none. A message is bounded by what it was packed to, not by its size."""
AGAIN_S = 1.0
"""Seconds until a port that could not be had is tried again."""

logger = logging.getLogger("ray.serve")


class GrpcServer:
    """Pinecone's data plane over an engine, on a port. Belongs to the event loop in which it is made.

    Raises InvalidArgument for settings with which it must not be served.

    Args:
        engine: Answers; of several indexes the default one does.
        settings: Of the server, with grpc_port.
        host: The address to listen on.
        keys: Who may ask; None lets everybody read, and on loopback write.
        exchanges: Counts calls, with requests over HTTP; None for a count of its own.
        shares_port: Whether several processes may listen on the port, which the system then divides connections among.
    """

    def __init__(
        self,
        engine: Callable[[], Engine] | Indexes,
        settings: ServeSettings,
        host: str,
        *,
        keys: KeyRing | None,
        exchanges: Exchanges | None = None,
        shares_port: bool = False,
    ) -> None:
        check_grpc(settings, host)
        self._settings = settings
        self._address = f"[{host}]:{settings.grpc_port}" if ":" in host else f"{host}:{settings.grpc_port}"
        data_plane = DataPlane(ServedIndex(indexes_of(engine, settings), settings), keys, is_loopback(host), exchanges)
        self._server = aio.server(
            handlers=[data_plane.handler()],
            options=_options(settings, shares_port),
            maximum_concurrent_rpcs=settings.max_requests + settings.max_writes + SPARE_CALLS,
        )
        self.listening = False
        """Whether clients can connect."""

    async def start(self) -> None:
        """Listen. Raises Unavailable where the port cannot be had."""
        try:
            if self._settings.grpc_certificate is not None:
                self._server.add_secure_port(self._address, Certificate(self._settings).credentials())
            else:
                self._server.add_insecure_port(self._address)
        except RuntimeError:
            raise Unavailable(f"cannot listen on {self._address}; choose another port with --grpc-port") from None
        await self._server.start()
        self.listening = True

    async def start_after(self, event: asyncio.Event) -> None:
        """Listen once something has happened, as soon as the port can be had."""
        await event.wait()
        while not self.listening:
            try:
                await self.start()
            except Unavailable as error:
                logger.error("%s", error.message)
                await asyncio.sleep(AGAIN_S)

    async def stop(self, within_s: float) -> None:
        """Take no more calls, and end those that are not answered within so many seconds."""
        self.listening = False
        await self._server.stop(within_s)


class Certificate:
    """The certificate of a server, which is read again when its files have changed: they end, and are replaced.

    Raises InvalidArgument for files that are no certificate and its key.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._stamp = self._stat()  # before reading: what is written meanwhile is seen the next time
        self._read = read_certificate(settings)

    def credentials(self) -> Any:
        """What a port of grpcio is given, which asks for each connection."""
        return grpc.dynamic_ssl_server_credentials(self._configuration(), self._renewed)

    def _configuration(self) -> Any:
        return grpc.ssl_server_certificate_configuration([self._read])

    def _renewed(self) -> Any:
        """The certificate, if it has changed; None if not, also where what is there now is none."""
        stamp = self._stat()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            self._read = read_certificate(self._settings)
        except InvalidArgument as error:
            logger.error("the certificate of gRPC stays as it was: %s", error.message)
            return None
        logger.info("the certificate of gRPC has been read again")
        return self._configuration()

    def _stat(self) -> list[tuple[int, int, int]]:
        stats = []
        for path in (self._settings.grpc_certificate, self._settings.grpc_key):
            try:
                status = Path(path or "").expanduser().stat()
            except OSError:
                return []
            stats.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return stats


def _options(settings: ServeSettings, shares_port: bool) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max(settings.max_write_body_bytes, settings.max_body_bytes)),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", STREAMS),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),
        ("grpc.max_connection_idle_ms", IDLE_MS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.keepalive_time_ms", PROBE_MS),
        ("grpc.keepalive_timeout_ms", PROBED_MS),
        ("grpc.compression_enabled_algorithms_bitset", UNCOMPRESSED),
        ("grpc.so_reuseport", int(shares_port)),
    ]
