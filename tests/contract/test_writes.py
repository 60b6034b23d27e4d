"""Writing to an index in this process, for blocking code and for asyncio, and to `shoal serve --local`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import shoal
from shoal.engine.loop import LoopThread
from tests.contract.test_engine import Blocking
from tests.support.servers import running
from tests.support.write_contract import SETTINGS, WriteContract


class TestInThisProcess(WriteContract):
    @pytest.fixture(scope="class")
    def engine(self, written_root: Path) -> Iterator[shoal.Index]:
        with shoal.open(written_root, **SETTINGS) as index:
            yield index

    def test_what_was_written_is_there_after_it_was_opened_anew(self, engine: shoal.Index, written_root: Path) -> None:
        position = engine.upsert([{"id": "kept", "text": "a pangolin"}]).position
        with shoal.open(written_root, **SETTINGS) as another:
            assert self.ids(another, "pangolin", position) == ["kept"]
            # Both write, and each sees what the other has written.
            theirs = another.upsert([{"id": "kept", "text": "an aardvark", "if": {"position": position}}]).position
            assert self.ids(engine, "aardvark", theirs) == ["kept"]
            assert engine.delete(["kept"]).deleted == 1


class TestWithAsyncio(WriteContract):
    @pytest.fixture(scope="class")
    def engine(self, written_root: Path) -> Iterator[Blocking]:
        loop = LoopThread("test")
        index = shoal.AsyncIndex(written_root, **SETTINGS)
        loop.run(index.__aenter__())
        yield Blocking(index, loop)
        loop.run(index.__aexit__(None, None, None))
        loop.close(lambda: None)


class TestServedLocally(WriteContract):
    """`shoal serve --local`, as a user starts it."""

    @pytest.fixture(scope="class")
    def engine(self, written_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[shoal.Client]:
        options = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
        with running(tmp_path_factory.mktemp("server"), written_root, "--local", *options) as server:
            server.wait_ready()
            with shoal.Client(server.url) as client:
                yield client
            server.process.terminate()
            assert server.process.wait() == 0
            assert not {"ERROR", "WARNING", "Traceback"} & set(server.errors().split())
