"""How `shoal serve` stops: it takes no more requests, and answers those that are under way."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ray import serve
from ray.serve.handle import DeploymentHandle

from serve.app import NAME
from serve.ray_adapters.handles import IngressHandle
from shoal.errors import ShoalError
from shoal.system.processes import descendants, ignore_signals, stop_on_signals

NOTICE_S = 1.0
"""Seconds of stopping after which a person is told what is waited for."""
FLUSH_S = 1.0
"""Seconds for the proxy to send what it holds of the last answers."""
LOOK_S = 0.02
"""Seconds between looks whether the proxy has ended."""


def finish(loop: asyncio.Runner, within_s: float) -> None:
    """Take no more requests and answer those under way, for so many seconds; a second signal ends the waiting.

    With 0 seconds nothing is asked and waited for.

    Args:
        loop: The one of all calls to Serve.
    """
    if within_s <= 0:
        ignore_signals()
        return
    stop_on_signals()
    with suppress(KeyboardInterrupt):
        handle, first_s = serve.get_app_handle(NAME), min(NOTICE_S, within_s)
        count = loop.run(finish_requests(handle, first_s))
        if count and (left_s := within_s - first_s) > 0:
            notice = f"stopping: {count} requests are being answered, {left_s:.0f} s at most; Ctrl-C stops at once"
            print(notice, file=sys.stderr, flush=True)  # noqa: T201
            count = loop.run(finish_requests(handle, left_s))
        if not count:
            finish_sending()
    ignore_signals()


async def finish_requests(handle: DeploymentHandle, within_s: float) -> int:
    """Take no more requests, and wait until those under way are answered. May be called again to wait on.

    The replicas refuse what comes. HAProxy stays as it is: one that has closed its port does not answer Serve either,
    which would end it with what it sends.

    Args:
        handle: Of the ingress.
        within_s: Seconds to wait at most.

    Returns how many requests are still under way; 0 too where the server does not say.
    """
    try:
        return await IngressHandle(handle).finish(time.monotonic() + within_s)
    except ShoalError:
        return 0


def finish_sending() -> None:
    """Let HAProxy close its port, and wait until it has sent what it holds and has ended, but no longer than FLUSH_S.

    Ray's own proxy does not say when it has, and gets all of that time.
    """
    until = time.monotonic() + FLUSH_S
    with_haproxy = False
    for pid in _haproxies():
        with_haproxy = True
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
    while time.monotonic() < until and (any(_haproxies()) or not with_haproxy):
        time.sleep(LOOK_S)


def _haproxies() -> Iterator[int]:
    """Processes of this server that are HAProxy, without those that have ended."""
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            program, _, _ = Path(f"/proc/{pid}/cmdline").read_text().partition("\0")
            if Path(program).name == "haproxy":
                yield pid
