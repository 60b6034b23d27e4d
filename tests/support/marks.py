"""Finds every process that came of a command, however far down and whoever its parent is by now."""

import time
import uuid
from pathlib import Path


def new_mark() -> str:
    """The name of a variable that no other process has in its environment."""
    return f"SHOAL_TEST_{uuid.uuid4().hex}"


def marked(mark: str) -> dict[int, str]:
    """Process ids and command lines of all processes that have the mark in their environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended meanwhile, or is not ours
            continue
    return found


def assert_none_is_left(mark: str, within_s: float, but: str = "nothing") -> None:
    """Wait until no process has the mark, except those with `but` in their command line."""
    deadline = time.monotonic() + within_s
    while left := [command for command in marked(mark).values() if but not in command]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
