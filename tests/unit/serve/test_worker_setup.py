import sys
import types
from pathlib import Path

import pytest

from serve.worker_setup import import_without_pandas


@pytest.fixture
def frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that uses pandas if it is there, and is imported by nothing yet."""
    (tmp_path / "frames.py").write_text("try:\n    import pandas\nexcept ImportError:\n    pandas = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    return "frames"


def test_pandas_is_not_imported_and_can_be_afterwards(frames: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import_without_pandas(frames)
    assert sys.modules.pop(frames).pandas is None
    assert "pandas" not in sys.modules


def test_one_that_is_imported_already_stays(frames: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = types.ModuleType("pandas")
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    import_without_pandas(frames)
    assert sys.modules.pop(frames).pandas is pandas is sys.modules["pandas"]
