"""HAProxy as `shoal serve` sets it up, before servers of the test's own: what happens to requests whose replica dies.

The real HAProxy, through the wrapper that Ray runs in its place; no Ray.
"""

import asyncio
import json
import os
import resource
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from serve.ray_adapters import private_ray
from shoal.settings import RunSettings
from shoal.system.ports import is_free
from tests.support.servers import wait
from tests.support.serving import free_port

CONFIG = """global
    stats socket {socket} mode 666 level admin expose-fd listeners
    maxconn {connections}
defaults
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
    config.write_text(
        CONFIG.format(
            socket=folder / "admin.sock",
            connections=os.environ["RAY_SERVE_HAPROXY_MAXCONN"],
            port=port,
            first=ports[0],
            second=ports[1],
            retry_on=retry_on,
        )
    )

    async def run() -> bytes:
        servers = [await asyncio.start_server(replicas.answer, "127.0.0.1", number) for number in ports]
        try:
            return await ask(port)
        finally:
            for server in servers:
                server.close()

    process = subprocess.Popen([os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config)])
    try:
        wait(lambda: not is_free("127.0.0.1", port))
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


@pytest.mark.parametrize("path", ["/v1/index/rollback", "/v1/%69ndex/rollback"])
def test_a_change_of_the_index_is_sent_once(path: str, environment: Path) -> None:
    answer, replicas = proxied(environment, lambda port: post(port, path))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502")
    assert b"\r\nx-request-id: " in head
    assert json.loads(body)["error"]["code"] == "UNAVAILABLE"
    assert replicas.requests == [path.encode()]


def test_who_sends_nothing_or_no_end_of_a_header_is_cut_off_and_all_others_are_answered(environment: Path) -> None:
    """More connections than Serve's own HAProxy holds, 4,096, which waits for an hour for the first byte of each."""

    async def ask(port: int) -> bytes:
        opened = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(4500)))
        for _, writer in opened[::2]:
            writer.write(b"POST /v1/search HTTP/1.1\r\nhost: shoal\r\nx-filler: ")
        answer = await post(port, "/v1/search")
        ended = await asyncio.gather(*(reader.read() for reader, _ in opened))
        assert {end.partition(b"\r\n")[0] for end in ended} == {b"HTTP/1.1 408 Request Time-out"}
        for _, writer in opened:
            writer.close()
        return answer

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 12_000:
        pytest.skip(f"needs 12,000 open files, this system allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        answer, _ = proxied(environment, ask)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert answer.startswith(b"HTTP/1.1 200")


def test_the_admin_socket_is_its_owners_and_commands_nothing(environment: Path) -> None:
    async def ask(port: int) -> bytes:
        path = environment / "admin.sock"
        assert path.stat().st_mode & 0o777 == 0o600
        answers = []
        for command in (b"show info\n", b"show servers state\n", b"set server http-shoal/a addr 127.0.0.2\n"):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(command)
            answers.append(await reader.read())
            writer.close()
        assert b"Pid:" in answers[0]
        assert b"http-shoal" in answers[1]
        return answers[2]

    answer, _ = proxied(environment, ask)
    assert b"Permission denied" in answer


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
