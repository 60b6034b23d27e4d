"""signatures only, the body follows (D1)"""

from collections.abc import Callable

from fastapi import FastAPI

from serve.dialects import Engine
from shoal.settings import ServeSettings

__all__ = ["Engine", "create_api"]


def create_api(engine: Engine | Callable[[], Engine], settings: ServeSettings) -> FastAPI:
    raise NotImplementedError
