"""The calls of both clients about namespaces."""

from typing import TypeVar

from shoal.client.answers import NamespacesResponse
from shoal.client.protocol import ClientProtocol, Steps

T = TypeVar("T")


class ClientNamespaces:
    """What a client for blocking code asks of namespaces."""

    _protocol: ClientProtocol

    def _run(self, steps: Steps[T]) -> T:
        raise NotImplementedError

    def list_namespaces(
        self, *, prefix: str = "", limit: int | None = None, cursor: str | None = None
    ) -> NamespacesResponse:
        """List the namespaces that have passages, by name, and how many each has, a page at a time.

        Args:
            prefix: What the names begin with; the name of the default one is empty.
            limit: Names of the page; by default the server's.
            cursor: `next` of the page before.
        """
        return self._run(self._protocol.list_namespaces(prefix, limit, cursor))


class AsyncClientNamespaces:
    """What a client for asyncio asks of namespaces: the same, with `await`."""

    _protocol: ClientProtocol

    async def _run(self, steps: Steps[T]) -> T:
        raise NotImplementedError

    async def list_namespaces(
        self, *, prefix: str = "", limit: int | None = None, cursor: str | None = None
    ) -> NamespacesResponse:
        """List the namespaces that have passages, a page at a time; see `Client.list_namespaces`."""
        return await self._run(self._protocol.list_namespaces(prefix, limit, cursor))
