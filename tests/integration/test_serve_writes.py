"""Writing to a server on Ray: the same contract, with the writer in the ingress and shards in replicas of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import shoal
from tests.support.servers import running
from tests.support.write_contract import SETTINGS, WriteContract


class TestServedOnRay(WriteContract):
    @pytest.fixture(scope="class")
    def engine(self, written_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[shoal.Client]:
        options = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
        options += ["--encoder-replicas=1", "--retriever-replicas=2", "--ingress-replicas=2"]
        with running(tmp_path_factory.mktemp("server"), written_root, *options) as server:
            server.wait_ready()
            with shoal.Client(server.url) as client:
                yield client
