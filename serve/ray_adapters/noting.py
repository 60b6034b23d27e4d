"""What a server on Ray and the replicas of its ingress tell one another of compactions."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial

from ray import serve

from serve.app import NAME
from serve.ray_adapters.handles import IngressHandle
from serve.versions.catalog_compaction import CompactedIndexes
from serve.versions.compacting import Compactor

NOTE_S = 5.0
"""Seconds that the replicas may take to hear of it."""


def follow_and_note(
    loop: asyncio.Runner, follow: Callable[[], None], compacted: CompactedIndexes, compactor: Compactor
) -> None:
    """Follow what is to be served, and let every ingress replica know the problems; those that start later, next time.

    Args:
        loop: The one of all calls to Serve.
        follow: Looks at what is to be served.
        compacted: The indexes that are compacted.
        compactor: Compacts them.
    """
    follow()
    compacted.follow(compactor, partial(_loaded_names, loop))
    for index, problem in compacted.problems(compactor).items():
        with contextlib.suppress(Exception):  # they are told again
            loop.run(IngressHandle(serve.get_app_handle(NAME)).note(problem, index, time.monotonic() + NOTE_S))


def _loaded_names(loop: asyncio.Runner) -> list[str] | None:
    """Ask every ingress replica which indexes of the catalog it has in memory; None if they do not say."""
    try:
        return loop.run(IngressHandle(serve.get_app_handle(NAME)).loaded_names(time.monotonic() + NOTE_S))
    except Exception:  # they start, or are too busy
        return None
