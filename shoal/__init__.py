"""Shoal: self-hosted, two-stage semantic retrieval on Ray.

Importing this package is cheap: what asks a server loads httpx, and what searches an index in this process loads its
libraries, only when it is first asked for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING, Any

from shoal import errors
from shoal.system.version import __version__

if TYPE_CHECKING:
    from shoal.client.clients import AsyncClient, Client
    from shoal.engine.index import AsyncIndex, Index

# Without `open`: `from shoal import *` is not to hide the built-in function.
__all__ = ["AsyncClient", "AsyncIndex", "Client", "Index", "__version__", "errors"]


def open(index: str | PathLike[str], **settings: Any) -> "Index":
    """Open an index root, a local path or a URI, to search it in this process; see `Index`.

    Raises InvalidArgument where the client alone is installed, and what `Index` raises.
    """
    with _extra_named():
        from shoal.engine.index import Index

        return Index(index, **settings)


@contextmanager
def _extra_named() -> Iterator[None]:
    """Raise InvalidArgument, with what to install, for a module that an extra brings."""
    try:
        yield
    except ModuleNotFoundError as error:
        from shoal.cli.installation import lacks_engine

        raise lacks_engine(error) or error from None


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "Client"):
        from shoal.client import clients

        return getattr(clients, name)
    if name in ("AsyncIndex", "Index"):
        with _extra_named():
            from shoal.engine import index

        return getattr(index, name)
    raise AttributeError(f"module 'shoal' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What users need; Python would list every module that happens to be imported."""
    return sorted([*__all__, "open"])
