"""Whether a folder can be written is known before anything is started, and looking leaves nothing behind."""

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.errors import InvalidArgument
from shoal.system.folders import PROBE_BYTES, home_path, require_writable


def test_a_folder_that_can_be_written_or_made_passes_and_stays_as_it_was(tmp_path: Path) -> None:
    require_writable(tmp_path, "--log-dir")
    require_writable(tmp_path / "not" / "yet", "--log-dir")
    assert not list(tmp_path.iterdir())


def test_a_path_below_a_file_is_refused_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument, match=r"file/logs \(Not a directory\).*--log-dir") as caught:
        require_writable(tmp_path / "file" / "logs", "--log-dir")
    assert caught.value.param == "--log-dir"
    assert "\n" not in caught.value.message


@pytest.fixture
def little_room() -> Iterator[None]:
    """Files may have a kilobyte, which is how a full disk looks to who writes more."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_folder_without_room_is_refused(tmp_path: Path, little_room: None) -> None:
    assert PROBE_BYTES > 1024
    with pytest.raises(InvalidArgument, match=r"no files can be written in .* set --log-dir to another folder"):
        require_writable(tmp_path, "--log-dir")
    assert not list(tmp_path.iterdir())


def test_a_user_without_a_home_is_told_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)  # nobody's
    for look in (home_path, require_writable):
        with pytest.raises(InvalidArgument, match=r"~/.cache/shoal .*set --cache-dir to another folder, or HOME"):
            look("~/.cache/shoal", "--cache-dir")
    assert home_path("/srv/cache", "--cache-dir") == Path("/srv/cache")
