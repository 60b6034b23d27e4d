"""An index root of two versions, of which the first is current."""

from pathlib import Path

import pytest

from tests.support.indexes import passages, publish


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path, "v1", passages(20))
    publish(tmp_path, "v2", passages(30), activate=False)
    return tmp_path
