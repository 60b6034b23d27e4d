"""Writing to a server on Ray: a writer in each of two ingress replicas, encoder and shards in replicas of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import shoal
from tests.support.serving import local_ray, serving
from tests.support.write_contract import SETTINGS, WriteContract


class TestOnRay(WriteContract):
    """What an index in this process promises as well: tests/contract/test_writes.py."""

    @pytest.fixture(scope="class")
    def engine(self, written_root: Path) -> Iterator[shoal.Client]:
        options = {**SETTINGS, "ingress_replicas": 2, "encoder_replicas": 1, "retriever_replicas": 1}
        with local_ray(), serving(written_root, **options) as http, shoal.Client(str(http.base_url)) as client:
            yield client
