from pathlib import Path

import pytest

from shoal.index_root.log_writer import LogWriter
from shoal.index_root.storage import Storage
from tests.support.logs import Clock, open_log


@pytest.fixture
def root(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def writer(root: Storage, clock: Clock) -> LogWriter:
    return LogWriter(open_log(root, clock), 0, lambda seconds: None)
