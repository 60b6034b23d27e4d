"""The calls of an index in this process that write; the same as those of a client."""

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from shoal.client.writes import (
    BATCH_BYTES,
    BATCH_PASSAGES,
    DeleteSummary,
    GivenPassage,
    GivenUpdate,
    UpdateSummary,
    WriteCall,
    WriteProgress,
    WriteSummary,
    check_selection,
    delete_calls,
    joined,
    selection_call,
    update_calls,
    upsert_calls,
)
from shoal.engine.calls import EngineCalls
from shoal.errors import ShoalError

T = TypeVar("T")
S = TypeVar("S", WriteSummary, DeleteSummary, UpdateSummary)
Call = Callable[[EngineCalls], Coroutine[Any, Any, T]]


class _Course(Iterator[WriteCall]):
    """Requests one after another, and what they have done so far."""

    def __init__(self, calls: Iterable[WriteCall], progress: WriteProgress | None) -> None:
        self._calls = iter(calls)
        self._progress = progress
        self._done = 0

    def __next__(self) -> WriteCall:
        return next(self._calls)

    def answered(self, summary: S, call: WriteCall, answer: Mapping[str, Any]) -> S:
        """Add what a request did."""
        summary = joined(summary, answer)
        self._done += call.size or answer.get("deleted", 0)
        if self._progress is not None:
            self._progress(self._done)
        return summary

    def note(self, error: ShoalError) -> None:
        """Say in an error what was done before it."""
        if self._done:
            error.add_note(f"{self._done:,} passages were done by the requests before")


def _selections(filter: Mapping[str, Any] | None, has_more: list[bool], namespace: str) -> Iterator[WriteCall]:
    """Requests that delete what fulfils a filter, for as long as `has_more` says so."""
    while has_more[0]:
        yield selection_call(filter, namespace)


class IndexWrites:
    """What an index in this process writes."""

    def _run(self, call: Call[T]) -> T:
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
        """Write passages, each in the place of the one with its id; see `shoal.Client.upsert`."""
        return self._write(upsert_calls(passages, batch_passages, batch_bytes, namespace), WriteSummary(), progress)

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
        """Delete passages: by their ids, those that fulfil a filter, or all; see `shoal.Client.delete`."""
        check_selection(ids, filter, all)
        has_more = [True]
        calls = (
            _selections(filter, has_more, namespace) if ids is None else delete_calls(ids, batch_passages, namespace)
        )
        return self._write(calls, DeleteSummary(), progress, has_more)

    def update(
        self,
        updates: Iterable[GivenUpdate | Mapping[str, Any]],
        *,
        namespace: str = "",
        batch_passages: int = BATCH_PASSAGES,
        progress: WriteProgress | None = None,
    ) -> UpdateSummary:
        """Change the metadata of passages; see `shoal.Client.update`."""
        return self._write(update_calls(updates, batch_passages, namespace), UpdateSummary(), progress)

    def _write(
        self,
        calls: Iterable[WriteCall],
        summary: S,
        progress: WriteProgress | None,
        has_more: list[bool] | None = None,
    ) -> S:
        course = _Course(calls, progress)
        for call in course:
            try:
                answer = self._run(_asking(call))
            except ShoalError as error:
                course.note(error)
                raise
            summary = course.answered(summary, call, answer)
            if has_more is not None:
                has_more[0] = bool(answer.get("more"))
        if summary.position:
            self._run(_seeing(summary.position))
        return summary


class AsyncIndexWrites:
    """What an index in this process writes, for asyncio: the same as `IndexWrites`, with `await`."""

    async def _run(self, call: Call[T]) -> T:
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
        """Write passages, each in the place of the one with its id; see `shoal.Client.upsert`."""
        return await self._write(
            upsert_calls(passages, batch_passages, batch_bytes, namespace), WriteSummary(), progress
        )

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
        """Delete passages: by their ids, those that fulfil a filter, or all; see `shoal.Client.delete`."""
        check_selection(ids, filter, all)
        has_more = [True]
        calls = (
            _selections(filter, has_more, namespace) if ids is None else delete_calls(ids, batch_passages, namespace)
        )
        return await self._write(calls, DeleteSummary(), progress, has_more)

    async def update(
        self,
        updates: Iterable[GivenUpdate | Mapping[str, Any]],
        *,
        namespace: str = "",
        batch_passages: int = BATCH_PASSAGES,
        progress: WriteProgress | None = None,
    ) -> UpdateSummary:
        """Change the metadata of passages; see `shoal.Client.update`."""
        return await self._write(update_calls(updates, batch_passages, namespace), UpdateSummary(), progress)

    async def _write(
        self,
        calls: Iterable[WriteCall],
        summary: S,
        progress: WriteProgress | None,
        has_more: list[bool] | None = None,
    ) -> S:
        course = _Course(calls, progress)
        for call in course:
            try:
                answer = await self._run(_asking(call))
            except ShoalError as error:
                course.note(error)
                raise
            summary = course.answered(summary, call, answer)
            if has_more is not None:
                has_more[0] = bool(answer.get("more"))
        if summary.position:
            await self._run(_seeing(summary.position))
        return summary


def _asking(call: WriteCall) -> Call[dict[str, Any]]:
    return lambda calls: calls.write(call)


def _seeing(position: int) -> Call[None]:
    return lambda calls: calls.see(position)
