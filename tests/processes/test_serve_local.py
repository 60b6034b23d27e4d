"""`shoal serve --local` in this process, over a socket: how it listens and stops."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
import uvicorn

from serve import local
from serve.local import LocalIngress, LocalServer, serve_locally
from shoal.records import SearchAnswer, SearchRequest
from shoal.settings import RunSettings
from shoal.system.ports import free_ports
from tests.support.indexes import passages, publish


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_is_sent_waits_for_no_acknowledgement(host: str) -> None:
    """Else each answer on a connection that stays open takes 40 ms longer."""
    with (
        local._listen(host, 0) as listening,
        socket.create_connection(listening.getsockname()[:2]),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_second_signal_ends_the_waiting_for_what_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one stops in good order, for which there are ten minutes here; the search never ends by itself."""
    publish(tmp_path / "index", "v1", passages(40))
    (port,) = free_ports(1, ())

    async def search(self: LocalIngress, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()
        return []

    async def shutdown(self: LocalServer, sockets: list[socket.socket] | None = None) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await uvicorn.Server.shutdown(self, sockets)

    monkeypatch.setattr(LocalIngress, "search", search)
    monkeypatch.setattr(LocalServer, "shutdown", shutdown)
    monkeypatch.setattr(local, "_log_to_stderr", lambda settings: None)

    def ask() -> None:
        with contextlib.suppress(httpx.TransportError):
            httpx.post(f"http://127.0.0.1:{port}/v1/search", json={"query": "fish"}, timeout=None)

    asking = threading.Thread(target=ask)
    settings = RunSettings(index=str(tmp_path / "index"), local=True, reranker="none", port=port, drain_s=600)
    serve_locally(settings, asking.start)
    asking.join()
