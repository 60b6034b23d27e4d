"""NumPy files are read by one thread at a time, as far as their headers go."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.system.array_files import HEADERS, load_array


def test_arrays_are_read_and_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(load_array(tmp_path / "a.npy"), [[0, 1, 2], [3, 4, 5]])
    mapped = load_array(tmp_path / "a.npy", "r")
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    np.save(tmp_path / "b.npy", np.array([{}], object))
    with pytest.raises(ValueError, match="pickle"):
        load_array(tmp_path / "b.npy")


def test_no_two_threads_parse_headers_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    load, held = np.load, []

    def noting(*arguments: Any, **options: Any) -> Any:
        held.append(HEADERS.locked())
        return load(*arguments, **options)

    monkeypatch.setattr(np, "load", noting)
    load_array(tmp_path / "a.npy")
    assert held == [True]
    assert not HEADERS.locked()
    with pytest.raises(FileNotFoundError):
        load_array(tmp_path / "never.npy")
    assert not HEADERS.locked()
