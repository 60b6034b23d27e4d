"""The processes of a private Ray, for whoever starts one: a server or a job. Imports no Ray, but is given it."""

import os
import re
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
REGISTER_S = 30.0
"""Seconds that Ray allows a node for its start."""
LOOK_S = 0.02
"""Seconds between looks whether it is there."""
OPEN_FILES = 65_536
"""Files that Ray wants its processes to be allowed to open, where the system lets them."""


def start_head(ray: Any, head: Mapping[str, Any], **options: Any) -> None:
    """Start a Ray of one machine, as `ray.init(address="local")` does, and join it.

    Without what is there for people and for other machines, for which `ray.init` has no option: the dashboard's head,
    the autoscaler and the reader of logs. They are three of Ray's seven processes, a second of processor time, and 170
    MiB. What is exported as metrics comes from the dashboard's agent, which stays.

    Args:
        ray: The module.
        head: Parameters of Ray's `RayParams`.
        options: Of `ray.init`.
    """

    class Head(ray._private.node.Node):  # type: ignore[misc]
        def start_api_server(self, *_: Any, **__: Any) -> None:
            self._webui_url = ""  # as where Ray starts it without its pages

        def start_ray_processes(self) -> None:
            super().start_ray_processes()
            until = time.monotonic() + REGISTER_S
            while not self.get_gcs_client().get_all_node_info() and time.monotonic() < until:
                time.sleep(LOOK_S)  # Ray itself looks once a second

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < files:  # `ray.init` raises it as well, but now is too late
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    parameters = ray._private.parameter.RayParams(
        no_monitor=True,
        include_log_monitor=False,
        dashboard_agent_listen_port=0,  # any: for the usual one a second Ray of the machine would wait, and in vain
        **head,
    )
    node = Head(parameters, head=True, shutdown_at_exit=False, spawn_reaper=True)
    ray.init(address=node.gcs_address, **options)


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
