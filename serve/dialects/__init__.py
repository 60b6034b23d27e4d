"""API dialects. One dialect is one file here; it is served as soon as the file exists.

A dialect module defines `router(engine: Callable[[], Engine], settings: ServeSettings) -> APIRouter`. It turns requests
into `SearchRequest`s and answers into its own JSON, and raises the errors of `shoal.errors` for everything it refuses:
`serve/web/errors.py` maps these to one body and status for all dialects.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import APIRouter

from shoal.records import SearchAnswer, SearchRequest

if TYPE_CHECKING:
    from shoal.settings import ServeSettings


class Engine(Protocol):
    """What a dialect can ask of the server behind it. Every method may raise Unavailable and DeadlineExceeded."""

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer the queries of one HTTP request, in order. Raises Overloaded."""
        ...

    async def index_info(self) -> dict[str, Any]:
        """Describe what is served, by the names of `serve.dialects.native.IndexInfo`; further names may be added."""
        ...

    async def activate(self, version: str) -> None:
        """Serve another published version; returns when it is served.

        Raises NotFound for an unknown version, Conflict (EncoderMismatch, CorruptIndex) for one that cannot be served.
        """
        ...

    async def rollback(self) -> None:
        """Serve the previous version again; returns when it is served. Raises Conflict when there is none."""
        ...

    async def ready(self) -> list[str]:
        """Name what is missing until every shard of the active version can be searched; empty means ready."""
        ...


def routers(engine: Callable[[], Engine], settings: "ServeSettings") -> Iterator[APIRouter]:
    """Build the router of every dialect, in the order of their file names."""
    for module in pkgutil.iter_modules(__path__):
        yield importlib.import_module(f"{__name__}.{module.name}").router(engine, settings)
