"""Shoal: self-hosted, two-stage semantic retrieval on Ray.

Importing this package is cheap: the clients load httpx only when they are first asked for.
"""

from typing import TYPE_CHECKING, Any

from shoal import errors
from shoal.system.version import __version__

if TYPE_CHECKING:
    from shoal.client.clients import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "__version__", "errors"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "Client"):
        from shoal.client import clients as client

        return getattr(client, name)
    raise AttributeError(f"module 'shoal' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What users need; Python would list every module that happens to be imported."""
    return __all__
