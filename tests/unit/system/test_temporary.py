"""Temporary folders: gone at the end, and swept when their process was killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.system.temporary import sweep, temporary_folder

KILLED = """
import os, signal, sys
from shoal.system.temporary import temporary_folder
with temporary_folder("ray-", sys.argv[1]) as folder:
    (folder / "session").mkdir()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def a_process_that_has_not_swept_yet() -> None:
    sweep.cache_clear()


def test_a_folder_is_removed_at_the_end(tmp_path: Path) -> None:
    with temporary_folder("ray-", str(tmp_path)) as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith("shoal-ray-")
        (folder / "file").touch()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    (left,) = tmp_path.iterdir()
    assert (left / "session").is_dir()
    with temporary_folder("spool-", str(tmp_path)) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_folders_that_are_in_use_or_not_ours_stay(tmp_path: Path) -> None:
    (tmp_path / "shoal-index" / "versions").mkdir(parents=True)
    with temporary_folder("ray-", str(tmp_path)) as first:
        sweep.cache_clear()
        with temporary_folder("ray-", str(tmp_path)) as second:
            assert first.is_dir()
            assert second.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["shoal-index"]


@pytest.mark.parametrize("what", ["folder", "owner"])
def test_what_another_user_left_is_not_touched(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner file may be a pipe, or a link to a file that somebody locks."""
    folder = tmp_path / "shoal-theirs"
    folder.mkdir()
    (folder / ".owner").touch()
    theirs = {"folder": folder, "owner": folder / ".owner"}[what]
    status = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        real = status(path)
        return os.stat_result((*real[:4], real.st_uid + 1, *real[5:])) if path == theirs else real

    monkeypatch.setattr(Path, "lstat", lstat)
    sweep(str(tmp_path))
    assert (folder / ".owner").exists()


def test_a_link_to_a_folder_or_an_owner_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".owner").touch()
    (tmp_path / "shoal-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "shoal-ours").mkdir()
    (tmp_path / "shoal-ours" / ".owner").symlink_to(tmp_path / "elsewhere" / ".owner")
    sweep(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "shoal-link", "shoal-ours"]
