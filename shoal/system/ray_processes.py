"""The processes of a private Ray, for whoever starts one: a server or a job. Imports no Ray."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from shoal.errors import Unavailable
from shoal.system.processes import descendants, kill_descendants

START_ATTEMPTS = 3
"""Times that Ray is started where it takes longer than Ray itself allows, which is 30 s."""
TOO_SLOW = "timed out during startup"
"""What Ray says then."""
ESSENTIAL = {
    r"/gcs_server( |$)": "Ray's GCS",
    r"/raylet( |$)": "Ray's raylet",
    r"dashboard/agent\.py|ray::DashboardAgent": "Ray's dashboard agent",
    r"runtime_env/agent/main\.py|ray::RuntimeEnvAgent": "Ray's runtime environment agent",
}
"""How the command lines of processes look that end a Ray with them, if only after a minute, and what people call them.
All others are started again by Ray or by Serve."""


def start_ray(init: Callable[[], object]) -> None:
    """Start a private Ray; again, where a busy machine makes it too slow.

    Args:
        init: Calls `ray.init`.

    Raises:
        KeyboardInterrupt: This process was told to stop meanwhile.
        Unavailable: Ray did not start; nothing of it is left.
    """
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            init()
            return
        except SystemExit:
            raise KeyboardInterrupt from None  # by Ray's own handler of SIGTERM
        except Exception as error:
            kill_descendants()
            if TOO_SLOW not in str(error):
                reason = (str(error).strip().splitlines() or [""])[0]
                raise Unavailable(f"Ray did not start: {type(error).__name__}: {reason}") from error
            if attempt == START_ATTEMPTS:
                raise Unavailable(
                    f"Ray did not start within 30 s, {START_ATTEMPTS} times; try again when the machine is less busy"
                ) from error


def essential_processes() -> dict[int, str]:
    """What people call them, by process id: the descendants of this process that no Ray works without."""
    processes = {}
    for pid in descendants(os.getpid()):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has just ended
        # A raylet has the whole command lines of its agents among its own arguments.
        program = " ".join(words.split()[:3])
        if name := next((name for pattern, name in ESSENTIAL.items() if re.search(pattern, program)), None):
            processes[pid] = name
    return processes
