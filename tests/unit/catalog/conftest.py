import shutil
from pathlib import Path

import pytest

from tests.support.catalogs import NAMES
from tests.support.indexes import passages, publish


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    for name in NAMES:
        publish(folder / name, "v1", passages(20, name), shards=1)
    return folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    shutil.copytree(published, tmp_path / "catalog")
    return tmp_path / "catalog"
