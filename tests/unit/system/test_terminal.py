"""What is said to people never ends what is done for them."""

import sys
from pathlib import Path

import pytest

from shoal.cli.errors import USER_FAULT, guard
from shoal.errors import InvalidArgument
from shoal.system.terminal import say


def test_a_stderr_that_cannot_be_written_changes_neither_course_nor_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("a device of Linux")
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115 - to close it is to write to it
    monkeypatch.setattr(sys, "stderr", full)
    say("nobody reads this")
    with pytest.raises(SystemExit) as caught, guard():
        raise InvalidArgument("nor this")
    assert caught.value.code == USER_FAULT
    with pytest.raises(OSError, match="No space left"):
        full.close()


def test_what_is_said_comes_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("waiting: shard 1")
    assert capsys.readouterr() == ("", "waiting: shard 1\n")
