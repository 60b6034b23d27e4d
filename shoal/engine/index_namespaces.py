"""The calls of an index in this process about namespaces; the same as those of a client."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from shoal.client.answers import NamespacesResponse
from shoal.engine.calls import EngineCalls

T = TypeVar("T")
Call = Callable[[EngineCalls], Coroutine[Any, Any, T]]


class IndexNamespaces:
    """What an index in this process tells of its namespaces."""

    def _run(self, call: Call[T]) -> T:
        raise NotImplementedError

    def list_namespaces(
        self, *, prefix: str = "", limit: int | None = None, cursor: str | None = None
    ) -> NamespacesResponse:
        """List the namespaces that have passages, by name, and how many each has; see `shoal.Client`."""
        return self._run(lambda calls: calls.list_namespaces(prefix, limit, cursor))


class AsyncIndexNamespaces:
    """The same for asyncio, with `await`."""

    async def _run(self, call: Call[T]) -> T:
        raise NotImplementedError

    async def list_namespaces(
        self, *, prefix: str = "", limit: int | None = None, cursor: str | None = None
    ) -> NamespacesResponse:
        """List the namespaces that have passages, a page at a time; see `shoal.Client.list_namespaces`."""
        return await self._run(lambda calls: calls.list_namespaces(prefix, limit, cursor))
