"""Lets the replicas of the ingress tell what keeps a server on Ray from compacting."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

from ray import serve

from serve.app import NAME
from serve.ray_adapters.handles import IngressHandle

NOTE_S = 5.0
"""Seconds that the replicas may take to hear of it."""


def follow_and_note(
    loop: asyncio.Runner, follow: Callable[[], None], problems: Mapping[str | None, Callable[[], str | None]]
) -> None:
    """Follow what is to be served, and let every ingress replica know the problems; those that start later, next time.

    Args:
        loop: The one of all calls to Serve.
        follow: Looks at what is to be served.
        problems: What to tell of each index, by its name, which is None for the default one; None for nothing.
    """
    follow()
    for index, problem in problems.items():
        if (text := problem()) is not None:
            with contextlib.suppress(Exception):  # they are told again
                loop.run(IngressHandle(serve.get_app_handle(NAME)).note(text, index, time.monotonic() + NOTE_S))
