"""An input folder, and how it is read."""

from pathlib import Path

import pytest

from tests.support.reading import Reading
from tests.support.source_records import Read


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return lambda source, **values: Reading(source, tmp_path / "root", **values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "input"
    path.mkdir()
    return path
