"""What a killed process leaves running: every process of a group, known by the group's folder.

Ray's agents outlive a server that was killed (SIGKILL) by a minute and hold its ports. So a guard waits beside the
server and ends the group as soon as it is gone; where the guard was killed too, whoever starts next does it.

This file is also the program of the guard, and imports nothing that would make it large.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "SHOAL_GROUP_FOLDER"
"""Variable by which the processes of a group are known: the temporary folder of the process that started them."""
END_S = 20.0
"""Seconds within which all processes of a group shall have ended that were killed."""
_LOOK_S = 0.02
"""Seconds between looks whether they have."""


def mark(folder: Path) -> None:
    """Make what this process starts from now on belong to the group of a folder."""
    os.environ[MARK] = str(folder)


def start_guard(folder: Path) -> None:
    """Start the process that ends the group of a folder, and removes it, when this process is gone without a word.

    It is a child of this process, for `kill_descendants` to end.
    """
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    # The other end of the pipe closes when this process ends, however it does.
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd="/",
        start_new_session=True,
    )
    _GUARDS.append(guard)


_GUARDS: list["subprocess.Popen[bytes]"] = []
"""Guards of this process: an object that is gone would close the pipe."""


def end_group(folder: Path) -> None:
    """Kill the processes of this user that belong to the group of a folder, and wait until they are gone."""
    deadline = time.monotonic() + END_S
    while (group := _group(folder)) and time.monotonic() < deadline:
        for pid in group:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(_LOOK_S)


def _group(folder: Path) -> list[int]:
    """Process ids of a group, but for this process; empty where there is no /proc."""
    processes = (path for path in Path("/proc").glob("[0-9]*") if int(path.name) != os.getpid())
    return [int(path.name) for path in processes if _belongs(path, folder)]


def _belongs(process: Path, folder: Path) -> bool:
    """Whether a process has the folder in its environment, or a file open that lies in it.

    Ray's agents name themselves anew, and may thereby write over their environment. Their logs lie in the folder.
    """
    try:
        if f"{MARK}={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
            return True
        return any(str(path.readlink()).startswith(f"{folder}/") for path in (process / "fd").iterdir())
    except OSError:
        return False  # another user's, or it has just ended


def _guard(folder: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_group(folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard(Path(sys.argv[1]))
