"""The exchanges of a replica that stops: those under way are answered, and what comes then is refused."""

import asyncio
import time
from typing import Any

import httpx
import pytest

from serve.web.api import create_api
from serve.web.exchanges import Exchanges
from shoal.records import SearchAnswer
from shoal.testing.fakes import serve_settings
from tests.support.api_server import FakeEngine, Server, check_error


class Held(FakeEngine):
    """An engine whose searches wait until they are let go."""

    def __init__(self, inner: FakeEngine) -> None:
        self.inner = inner
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    async def search(self, requests: Any) -> list[SearchAnswer]:
        self.begun.set()
        await self.go.wait()
        return await self.inner.search(requests)

    async def ready(self) -> list[str]:
        return []


@pytest.mark.parametrize("refuse", [True, False])
async def test_what_runs_is_finished_and_what_comes_then_is_refused(server: Server, refuse: bool) -> None:
    exchanges, engine = Exchanges(), Held(server.engine)
    app = create_api(engine, serve_settings(), exchanges=lambda: exchanges)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        searching = asyncio.ensure_future(client.post("/v1/search", json={"query": "fish"}))
        await engine.begun.wait()
        exchanges.closed = refuse
        assert await exchanges.finish(time.monotonic() + 0.01) == 1
        finished = asyncio.ensure_future(exchanges.finish(time.monotonic() + 60))
        late = await client.get("/readyz")
        if refuse:
            check_error(late, 503, "UNAVAILABLE")
            assert "this server is stopping" in late.json()["message"]
            assert late.headers["connection"] == "close"
            assert late.headers["retry-after"] == "1"
        else:
            assert late.status_code == 200
        assert (await client.get("/healthz")).status_code == 200
        assert not finished.done()
        engine.go.set()
        assert (await searching).status_code == 200
        assert await finished == 0
        assert await exchanges.finish(time.monotonic()) == 0


async def test_an_exchange_that_fails_or_whose_client_goes_away_is_under_way_no_more() -> None:
    exchanges = Exchanges()
    with pytest.raises(RuntimeError), exchanges.one_more():
        raise RuntimeError
    with pytest.raises(asyncio.CancelledError), exchanges.one_more():
        raise asyncio.CancelledError
    assert exchanges.count == 0
    assert await exchanges.finish(time.monotonic() + 60) == 0
