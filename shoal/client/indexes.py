"""The calls of both clients about the indexes of a server, and clients of one of several."""

import copy
from collections.abc import Sequence
from typing import Any, Self, TypeVar, overload

from shoal.client.answers import IndexDescription, IndexSummary
from shoal.client.protocol import ClientProtocol, Steps

T = TypeVar("T")


class _IndexViews:
    """What both clients have."""

    _protocol: ClientProtocol

    def _view(self, name: str) -> Self:
        """This client for another index, over the same connections."""
        view = copy.copy(self)
        view._protocol = self._protocol.for_index(name)
        return view


class ClientIndexes(_IndexViews):
    """What a client for blocking code asks about indexes."""

    def _run(self, steps: Steps[T]) -> T:
        raise NotImplementedError

    @overload
    def index(self) -> IndexDescription: ...
    @overload
    def index(self, name: str) -> Self: ...
    def index(self, name: str | None = None) -> Any:
        """Return this client for one of several indexes, by its name; without one describe what is served.

        Both have the same connections, and closing one closes them.
        """
        return self._run(self._protocol.index()) if name is None else self._view(name)

    def indexes(self) -> list[IndexSummary]:
        """List the indexes of the server that the API key is good for."""
        return self._run(self._protocol.indexes())

    def create_index(
        self,
        name: str,
        *,
        encoder: str | None = None,
        dimension: int | None = None,
        metadata_types: Sequence[str] | None = None,
        text_field: str | None = None,
    ) -> IndexSummary:
        """Make an index without passages in the catalog of the server.

        Args:
            name: Small letters, digits and dashes.
            encoder: One of those that the server was given by --encoders.
            dimension: Instead of an encoder: of the vectors that passages and queries bring along.
            metadata_types: Types of metadata fields, such as year:integer.
            text_field: Field of the text. With another name than `text`, a record may bring its text in that field of
                its metadata.
        """
        return self._run(self._protocol.create_index(name, encoder, dimension, metadata_types, text_field))

    def delete_index(self, name: str) -> None:
        """Remove an index of the catalog with all its passages."""
        self._run(self._protocol.delete_index(name))


class AsyncClientIndexes(_IndexViews):
    """What a client for asyncio asks about indexes."""

    async def _run(self, steps: Steps[T]) -> T:
        raise NotImplementedError

    @overload
    def index(self) -> Any: ...
    @overload
    def index(self, name: str) -> Self: ...
    def index(self, name: str | None = None) -> Any:
        """Return this client for one of several indexes, by its name; without one, awaited, describe what is served.

        Both have the same connections, and closing one closes them.
        """
        return self._run(self._protocol.index()) if name is None else self._view(name)

    async def indexes(self) -> list[IndexSummary]:
        """List the indexes of the server that the API key is good for."""
        return await self._run(self._protocol.indexes())

    async def create_index(
        self,
        name: str,
        *,
        encoder: str | None = None,
        dimension: int | None = None,
        metadata_types: Sequence[str] | None = None,
        text_field: str | None = None,
    ) -> IndexSummary:
        """Make an index without passages in the catalog of the server; see `ClientIndexes.create_index`."""
        return await self._run(self._protocol.create_index(name, encoder, dimension, metadata_types, text_field))

    async def delete_index(self, name: str) -> None:
        """Remove an index of the catalog with all its passages."""
        await self._run(self._protocol.delete_index(name))
