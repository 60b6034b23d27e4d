"""The calls of both clients that write."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from shoal.client.protocol import ClientProtocol, Steps
from shoal.client.writes import (
    BATCH_BYTES,
    BATCH_PASSAGES,
    DeleteSummary,
    GivenPassage,
    GivenUpdate,
    UpdateSummary,
    WriteProgress,
    WriteSummary,
    check_selection,
    delete_calls,
    update_calls,
    upsert_calls,
)

T = TypeVar("T")


class ClientWrites:
    """What a client for blocking code writes."""

    _protocol: ClientProtocol

    def _run(self, steps: Steps[T]) -> T:
        raise NotImplementedError

    def upsert(
        self,
        passages: Iterable[GivenPassage | Mapping[str, Any]],
        *,
        namespace: str = "",
        batch_passages: int = BATCH_PASSAGES,
        batch_bytes: int = BATCH_BYTES,
        progress: WriteProgress | None = None,
    ) -> WriteSummary:
        """Write passages, each in the place of the one with its id: in requests that are written whole or not at all.

        A request that is not answered is sent again, and written once. A search with the `position` of the summary as
        `min_position` sees all of it.

        Args:
            passages: With id and text, title, metadata or vector, and a condition `if`; any number of them.
            namespace: That they are written to; by default the default one.
            batch_passages: Passages of one request at most.
            batch_bytes: Bytes of one request at most, unless one passage has more.
            progress: Called after each request with the number of passages that are done.

        Raises:
            InvalidArgument: Names every passage of a request that is at fault; what requests before it wrote stays.
            Conflict: A condition does not hold.
        """
        calls = upsert_calls(passages, batch_passages, batch_bytes, namespace)
        return self._run(self._protocol.write(calls, WriteSummary(), progress))

    def delete(
        self,
        ids: Iterable[str] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        all: bool = False,
        namespace: str = "",
        batch_passages: int = BATCH_PASSAGES,
        progress: WriteProgress | None = None,
    ) -> DeleteSummary:
        """Delete passages of a namespace: by their ids, those that fulfil a filter, or all.

        Args:
            ids: Of the passages; others are nothing to it. Where the index cuts texts, ids of whole texts.
            progress: Called after each request with the number of passages that are done.
        """
        check_selection(ids, filter, all)
        if ids is None:
            return self._run(self._protocol.delete_selected(filter, progress, namespace))
        return self._run(self._protocol.write(delete_calls(ids, batch_passages, namespace), DeleteSummary(), progress))

    def update(
        self,
        updates: Iterable[GivenUpdate | Mapping[str, Any]],
        *,
        namespace: str = "",
        batch_passages: int = BATCH_PASSAGES,
        progress: WriteProgress | None = None,
    ) -> UpdateSummary:
        """Change the metadata of passages; a field that is None goes, and with `merge` false all that are not named."""
        calls = update_calls(updates, batch_passages, namespace)
        return self._run(self._protocol.write(calls, UpdateSummary(), progress))


class AsyncClientWrites:
    """What a client for asyncio writes: the same as `ClientWrites`, with `await`."""

    _protocol: ClientProtocol

    async def _run(self, steps: Steps[T]) -> T:
        raise NotImplementedError

    async def upsert(
        self,
        passages: Iterable[GivenPassage | Mapping[str, Any]],
        *,
        namespace: str = "",
        batch_passages: int = BATCH_PASSAGES,
        batch_bytes: int = BATCH_BYTES,
        progress: WriteProgress | None = None,
    ) -> WriteSummary:
        """Write passages, each in the place of the one with its id; see `Client.upsert`."""
        calls = upsert_calls(passages, batch_passages, batch_bytes, namespace)
        return await self._run(self._protocol.write(calls, WriteSummary(), progress))

    async def delete(
        self,
        ids: Iterable[str] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        all: bool = False,
        namespace: str = "",
        batch_passages: int = BATCH_PASSAGES,
        progress: WriteProgress | None = None,
    ) -> DeleteSummary:
        """Delete passages: by their ids, those that fulfil a filter, or all; see `Client.delete`."""
        check_selection(ids, filter, all)
        if ids is None:
            return await self._run(self._protocol.delete_selected(filter, progress, namespace))
        return await self._run(
            self._protocol.write(delete_calls(ids, batch_passages, namespace), DeleteSummary(), progress)
        )

    async def update(
        self,
        updates: Iterable[GivenUpdate | Mapping[str, Any]],
        *,
        namespace: str = "",
        batch_passages: int = BATCH_PASSAGES,
        progress: WriteProgress | None = None,
    ) -> UpdateSummary:
        """Change the metadata of passages; see `Client.update`."""
        calls = update_calls(updates, batch_passages, namespace)
        return await self._run(self._protocol.write(calls, UpdateSummary(), progress))
