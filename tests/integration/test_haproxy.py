"""HAProxy as `shoal serve` sets it up, before servers of the test's own: what happens to requests whose replica dies.

The real HAProxy, through the wrapper that Ray runs in its place; no Ray.
"""

import asyncio
import json
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from serve.ray_adapters import private_ray
from shoal.settings import RunSettings
from tests.support.servers import wait
from tests.support.serving import free_port

CONFIG = """defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option redispatch 1
    option abortonclose
    retry-on {retry_on}
    balance leastconn
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend http-shoal
backend http-shoal
    http-reuse always
    server a 127.0.0.1:{first}
    server b 127.0.0.1:{second}
"""
START_S = 30.0
HOLD = b"/hold"


class Replicas:
    """Two servers. The first request that reaches one of them is the last that this one gets: it dies of it."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split()[1]
                self.requests.append(path)
                if len(self.requests) == 1 and path != HOLD:
                    writer.transport.abort()
                    return
                await reader.readexactly(2)
                if path == HOLD:
                    await reader.read()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"]})
    private_ray.prepare(tmp_path, RunSettings(index="/nowhere", body_timeout_s=0.5, max_requests=2))
    return tmp_path


def proxied(folder: Path, ask: Callable[[int], Awaitable[bytes]]) -> tuple[bytes, Replicas]:
    """Run HAProxy before two replicas and ask it at a port; returns the answer."""
    replicas = Replicas()
    port, *ports = (free_port() for _ in range(3))
    config = folder / "haproxy.cfg"
    retry_on = os.environ["RAY_SERVE_HAPROXY_RETRY_ON"]
    config.write_text(CONFIG.format(port=port, first=ports[0], second=ports[1], retry_on=retry_on))

    async def run() -> bytes:
        servers = [await asyncio.start_server(replicas.answer, "127.0.0.1", number) for number in ports]
        try:
            return await ask(port)
        finally:
            for server in servers:
                server.close()

    process = subprocess.Popen([os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config)])
    try:
        wait(lambda: not private_ray.is_free("127.0.0.1", port))
        return asyncio.run(run()), replicas
    finally:
        process.kill()
        process.wait()


async def post(port: int, path: str) -> bytes:
    """Send head and body apart, as clients do, and return what comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"POST {path} HTTP/1.1\r\nhost: shoal\r\nconnection: close\r\ncontent-length: 2\r\n\r\n".encode())
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.write(b"{}")
    answer = await reader.read()
    writer.close()
    return answer


def test_what_a_replica_did_not_survive_is_answered_by_the_other(environment: Path) -> None:
    answer, replicas = proxied(environment, lambda port: post(port, "/v1/search"))
    assert answer.startswith(b"HTTP/1.1 200")
    assert replicas.requests == [b"/v1/search"] * 2


def test_a_change_of_the_index_is_sent_once(environment: Path) -> None:
    answer, replicas = proxied(environment, lambda port: post(port, "/v1/index/rollback"))
    assert answer.startswith(b"HTTP/1.1 502")
    assert replicas.requests == [b"/v1/index/rollback"]


@pytest.mark.parametrize(("given", "kept"), [("trace-me-7", True), ("<b>", False)])
def test_a_body_that_does_not_come_is_refused_as_the_server_would(given: str, kept: bool, environment: Path) -> None:
    async def begin(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"POST /v1/search HTTP/1.1\r\nhost: shoal\r\nx-request-id: {given}\r\ncontent-length: 2\r\n\r\n{{".encode()
        )
        answer = await reader.read()
        writer.close()
        return answer

    answer, replicas = proxied(environment, begin)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    assert json.loads(body)["error"]["code"] == "BODY_TIMEOUT"
    headers = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:])
    assert (headers["x-request-id"] == given) == kept
    assert replicas.requests == []


def test_beyond_the_limit_searches_are_refused_and_nothing_else(environment: Path) -> None:
    async def ask(port: int) -> bytes:
        bodies = [asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        waiting = await asyncio.gather(*bodies)
        for _, writer in waiting:  # their body is not answered before they are gone
            writer.write(b"POST /hold HTTP/1.1\r\nhost: shoal\r\ncontent-length: 2\r\n\r\n{}")
        answer = b""
        async with asyncio.timeout(START_S):
            while not answer.startswith(b"HTTP/1.1 429"):  # until the two have arrived
                answer = await post(port, "/v1/search")
        assert (await post(port, "/v1/index/activate")).startswith(b"HTTP/1.1 200")
        for _, writer in waiting:
            writer.close()
        async with asyncio.timeout(START_S):
            while not (await post(port, "/v1/search")).startswith(b"HTTP/1.1 200"):
                pass
        return answer

    answer, _ = proxied(environment, ask)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nretry-after: 1\r\n" in head + b"\r\n"
    assert json.loads(body)["error"]["code"] == "OVERLOADED"
