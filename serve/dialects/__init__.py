"""API dialects. One dialect is one file here; it is served as soon as the file exists.

A dialect module defines `router(engine: Callable[[], Engine], settings: ServeSettings) -> APIRouter`. It turns requests
into `SearchRequest`s and answers into its own JSON, and raises the errors of `shoal.errors` for everything it refuses:
`serve/web/errors.py` maps these to one body and status for all dialects.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fastapi import APIRouter

from serve.dialects.base import Engine

if TYPE_CHECKING:
    from shoal.settings import ServeSettings


def routers(engine: Callable[[], Engine], settings: "ServeSettings") -> Iterator[APIRouter]:
    """Build the router of every dialect, in the order of their file names."""
    for module in pkgutil.iter_modules(__path__):
        if module.name != "base":
            yield importlib.import_module(f"{__name__}.{module.name}").router(engine, settings)
