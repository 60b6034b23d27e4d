"""A server as `shoal serve --local` starts it, in a thread of the test, for clients that need a socket. No Ray."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serve.local import LocalServer, _listen, grpc_beside, indexes_api, settings_of_all
from serve.local_indexes import CatalogIndexes
from serve.web.access import KeyRing
from serve.web.indexes import Indexes
from shoal.catalog.catalog import Catalog
from shoal.settings import CatalogSettings, RunSettings
from tests.support.serving import free_port

PATIENCE_S = 180.0


@contextmanager
def serving_locally(root: Path, **options: Any) -> Iterator[str]:
    """Serve an index root until the end of the block; yields the URL."""
    settings = RunSettings(index=str(root), local=True, port=free_port(), **options)
    ready, stop = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(_serve(settings, ready, stop))
        except BaseException as error:
            failures.append(error)
            ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        assert not failures, failures
        yield f"http://127.0.0.1:{settings.port}"
    finally:
        stop.set()
        thread.join(PATIENCE_S)
    assert not failures, failures


async def _serve(settings: RunSettings, ready: threading.Event, stop: threading.Event) -> None:
    limits = settings.part(CatalogSettings)
    catalog = Catalog(settings_of_all(settings), limits, [settings.index, *settings.further_indexes])
    await catalog.open()
    indexes, keys = Indexes(CatalogIndexes(catalog)), KeyRing.of(settings.api_keys_file)
    server = LocalServer(indexes_api(indexes, keys, settings), settings, ready.set)
    async with grpc_beside(indexes, keys, settings):
        serving = asyncio.ensure_future(server.serve([_listen(settings.host, settings.port)]))
        await asyncio.to_thread(stop.wait)
        server.should_exit = True
        await serving
    catalog.close()
