"""Shoal: self-hosted, two-stage semantic retrieval on Ray.

Importing this package is cheap: the clients load httpx only when they are first asked for.
"""

from typing import TYPE_CHECKING, Any

from shoal.system.version import __version__

if TYPE_CHECKING:
    from shoal.client.clients import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "Client"):
        from shoal.client import clients as client

        return getattr(client, name)
    raise AttributeError(f"module 'shoal' has no attribute {name!r}")
