"""An index is searched in the same way wherever that is done."""

from collections.abc import Iterator
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.engine.loop import LoopThread
from tests.support.engine_contract import SETTINGS
from tests.support.indexes import passages, publish
from tests.support.live_contract import LiveEngineContract
from tests.support.local_server import serving_locally
from tests.support.servers import running


class TestInThisProcess(LiveEngineContract):
    @pytest.fixture(scope="class")
    def engine(self, engine_root: Path) -> Iterator[shoal.Index]:
        with shoal.open(engine_root, **SETTINGS) as index:
            yield index


class Blocking:
    """Calls what is awaitable from blocking code."""

    def __init__(self, index: shoal.AsyncIndex, loop: LoopThread) -> None:
        self._index = index
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._index, name)
        assert iscoroutinefunction(method)
        return lambda *arguments, **options: self._loop.run(method(*arguments, **options))


class TestWithAsyncio(LiveEngineContract):
    @pytest.fixture(scope="class")
    def engine(self, engine_root: Path) -> Iterator[Blocking]:
        loop = LoopThread("test")
        index = shoal.AsyncIndex(engine_root, **SETTINGS)
        loop.run(index.__aenter__())
        yield Blocking(index, loop)
        loop.run(index.__aexit__(None, None, None))
        loop.close(lambda: None)


class TestOneOfSeveralIndexes(LiveEngineContract):
    """An index of a catalog, asked by its name."""

    @pytest.fixture(scope="class")
    def engine(self, engine_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[shoal.Client]:
        other = tmp_path_factory.mktemp("other") / "other"
        publish(other, "v1", passages(3))
        with (
            serving_locally(other, catalog=str(engine_root.parent), **SETTINGS) as url,
            shoal.Client(f"{url}/v1/indexes/{engine_root.name}") as client,
        ):
            yield client


class TestServedLocally(LiveEngineContract):
    """`shoal serve --local`, as a user starts it."""

    @pytest.fixture(scope="class")
    def engine(self, engine_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[shoal.Client]:
        options = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
        with running(tmp_path_factory.mktemp("server"), engine_root, "--local", *options) as server:
            server.wait_ready()
            with shoal.Client(server.url) as client:
                yield client
            assert list(server.descendants()) == [server.process.pid]
            server.process.terminate()
            assert server.process.wait() == 0
            assert not {"ERROR", "WARNING", "Traceback"} & set(server.errors().split())
