"""A disk that takes no log lines costs lines, says so afterwards, and disturbs nothing else."""

import io
import logging
from collections.abc import Iterator
from logging.handlers import MemoryHandler
from pathlib import Path

import pytest

from shoal.system import log_losses
from shoal.system.log_losses import LogLosses, tolerate


class Disk(io.StringIO):
    """What a handler writes to; full as long as `full` says."""

    full = False

    def flush(self) -> None:
        if self.full:
            raise OSError(28, "No space left on device")


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Iterator[LogLosses]:
    fresh = LogLosses()
    with monkeypatch.context() as patch:
        patch.setattr(log_losses, "LOSSES", fresh)
        patch.setattr(logging.Handler, "handleError", logging.Handler.handleError)  # as it was, at the end
        tolerate()
        yield fresh


def logger_to(handler: logging.Handler) -> logging.Logger:
    logger = logging.Logger("test")
    logger.addHandler(handler)
    return logger


def test_lines_that_a_full_disk_does_not_take_are_counted_and_told_when_it_does(
    losses: LogLosses, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = Disk()
    logger = logger_to(MemoryHandler(1, target=logging.StreamHandler(disk)))
    logger.info("before")
    disk.full = True
    for _ in range(3):
        logger.info("meanwhile")
    losses.report(logger)
    losses.report(logger)
    assert losses.count == 3
    disk.full = False
    disk.truncate(0)
    losses.report(logger)
    logger.info("afterwards")
    losses.report(logger)
    assert losses.count == 0
    *_, told, last = disk.getvalue().strip("\0").splitlines()
    assert told == "up to 3 log lines were lost: they could not be written (No space left on device)"
    assert last == "afterwards"
    assert capsys.readouterr().err == ""


def test_a_file_on_a_full_disk_gives_no_stack_traces(losses: LogLosses, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("a device of Linux")
    handler = logging.FileHandler("/dev/full")
    logger_to(handler).warning("lost")
    assert losses.count == 1
    assert capsys.readouterr().err == ""


def test_a_line_that_is_wrong_in_itself_is_explained_as_before(
    losses: LogLosses, capsys: pytest.CaptureFixture[str]
) -> None:
    logger_to(logging.StreamHandler(Disk())).warning("%d lines", "many")
    assert losses.count == 0
    assert "Logging error" in capsys.readouterr().err
