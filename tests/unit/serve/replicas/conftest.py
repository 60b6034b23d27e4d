"""An index root of two versions, and settings to serve it."""

from pathlib import Path

import pytest

from shoal.settings import ServeSettings
from tests.support.indexes import passages, publish


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path, "v1", passages(40))
    publish(tmp_path, "v2", passages(40, marker="new"), activate=False)
    return tmp_path


@pytest.fixture
def settings(root: Path) -> ServeSettings:
    return ServeSettings(index=str(root), encoder="hashing:64", reranker="overlap", watch_s=0.1)
