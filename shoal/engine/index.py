"""An index root, opened in this process: for blocking code and for asyncio.

with shoal.open("./index") as index:
    for result in index.search("how do fish sleep", top_n=3).results:
        print(result.score, result.text)

Long because the calls for blocking code and for asyncio stand together.
"""

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from shoal.client.answers import (
    EmbedResponse,
    FetchResponse,
    IndexDescription,
    ListResponse,
    RerankResponse,
    SearchResponse,
)
from shoal.client.many import CONCURRENCY, Progress, search_many, search_many_async
from shoal.client.options import Document, EmbedOptions, InputType, RerankOptions
from shoal.engine.calls import EngineCalls, read_settings
from shoal.engine.engine import LocalEngine
from shoal.engine.index_namespaces import AsyncIndexNamespaces, IndexNamespaces
from shoal.engine.index_writes import AsyncIndexWrites, IndexWrites
from shoal.engine.loop import LoopThread
from shoal.engine.request_models import Part
from shoal.errors import Unavailable
from shoal.settings import ServeSettings

if TYPE_CHECKING:
    from typing import Unpack

    from shoal.client.clients import SearchOptions
    from shoal.evaluation.evaluate import Outcome

T = TypeVar("T")
Call = Callable[[EngineCalls], Coroutine[Any, Any, T]]


class _Opened:
    """An engine that is open, and the thread in whose event loop it runs. Raises what opening raises."""

    def __init__(self, settings: ServeSettings) -> None:
        self._thread = LoopThread("shoal index")
        self._calls = EngineCalls(LocalEngine(settings))
        self._closed = False
        self._closing = threading.Lock()
        try:
            self._thread.run(self._calls.engine.open())
        except BaseException:
            self.close()
            raise

    def submit(self, call: Call[T]) -> "Future[T]":
        """Start a call. Raises Unavailable once this is closed."""
        try:
            if not self._closed:
                return self._thread.submit(call(self._calls))
        except RuntimeError:  # closed meanwhile, by another thread
            pass
        raise closed()

    def close(self) -> None:
        """End the engine and the thread; what is under way ends with an error."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._thread.close(self._end)

    def _end(self) -> None:
        self._calls.engine.close()
        self._calls.engine.join()


def closed() -> Unavailable:
    """What a call is told that an index cannot answer any more."""
    return Unavailable("this index is closed; open it again")


class Index(IndexWrites, IndexNamespaces):
    """An index root in this process, with the calls of `shoal.Client`. Safe for several threads.

    It searches with the same pipeline and settings as a server, and gives the same answers. Close it, or use it in a
    `with` statement: then its threads end, and its files are let go. A version that becomes current is served within
    `watch_s` seconds, as by a server; `refresh` looks at once.

    Args:
        index: Index root, a local path or a URI.
        settings: Those of `shoal serve` that concern searching, by their names, such as reranker="none".

    Raises:
        NotFound: There is no index, or no published version.
        CorruptIndex: A file does not match the manifest, and there is no version before.
        EncoderMismatch: `encoder` is another one than the index was built with.
        ModelUnavailable: A model is not to be had.
        InvalidArgument: A setting is wrong.

    Every call raises the classes of `shoal.errors`, with the message that a server would send.
    """

    def __init__(self, index: str | PathLike[str], **settings: Any) -> None:
        self._settings = read_settings(index, settings)
        self._opened = _Opened(self._settings)
        self._finalizer = weakref.finalize(self, self._opened.close)

    @overload
    def search(self, query: str, **options: "Unpack[SearchOptions]") -> SearchResponse: ...
    @overload
    def search(self, query: list[str], **options: "Unpack[SearchOptions]") -> list[SearchResponse]: ...
    @overload
    def search(self, query: None = None, **options: "Unpack[SearchOptions]") -> Any: ...
    def search(
        self, query: str | list[str] | None = None, **options: "Unpack[SearchOptions]"
    ) -> SearchResponse | list[SearchResponse]:
        """Search for one query, or for several at once; one response for each query, in their order.

        Without a query `vector` or `id` says what to look for, and nothing is searched by words or reranked.
        """
        return self._run(lambda calls: calls.search(query, options))

    def search_many(
        self,
        queries: Iterable[str],
        *,
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: "Unpack[SearchOptions]",
    ) -> list[SearchResponse]:
        """Search for any number of queries, `concurrency` of them at once; one response for each, in their order.

        Args:
            progress: Called after each answer with the numbers of those that are there and of all.
        """
        return search_many(lambda query: self.search(query, **options), queries, concurrency, progress)

    def fetch(
        self, ids: Sequence[str], *, include: Sequence[Part] | None = None, namespace: str = "", min_position: int = 0
    ) -> FetchResponse:
        """Fetch passages by their ids, in the order asked; ids that there are none of are in `missing`.

        Args:
            include: Parts of each passage, of text, metadata and vector; by default the first two.
            min_position: Position that a write was answered with: the answer has seen it and all writes before it.
        """
        return self._run(lambda calls: calls.fetch(ids, include, namespace, min_position))

    def embed(self, inputs: Sequence[str], input_type: InputType, **options: "Unpack[EmbedOptions]") -> EmbedResponse:
        """Make vectors of texts with the encoder of the index: of queries or of passages, in their order."""
        return self._run(lambda calls: calls.embed(inputs, input_type, options))

    def rerank(self, query: str, documents: Sequence[Document], **options: "Unpack[RerankOptions]") -> RerankResponse:
        """Score documents, texts or objects with text, id and title, for a query; the best first."""
        return self._run(lambda calls: calls.rerank(query, documents, options))

    def describe(self) -> IndexDescription:
        """Describe the version that is served; its `problem` says why that is not the current one, if it is not."""
        return self._run(EngineCalls.describe)

    def activate(self, version: str) -> IndexDescription:
        """Make a published version the active one; returns when it answers queries."""
        return self._run(lambda calls: calls.activate(version))

    def rollback(self) -> IndexDescription:
        """Return to the version that was active before."""
        return self._run(EngineCalls.rollback)

    def refresh(self) -> IndexDescription:
        """Look now whether another version has become current, and serve it."""
        return self._run(EngineCalls.refresh)

    def ready(self) -> bool:
        """Whether queries can be answered now."""
        try:
            return self._run(EngineCalls.ready)
        except Unavailable:
            return False

    def evaluate(self, dataset: str | PathLike[str], **options: Any) -> "Outcome":
        """Ask the judged queries of a dataset in every mode, with and without stage two, and measure the answers.

        Args:
            dataset: Folder in BEIR layout.
            options: Those of `shoal eval` by their names: split, modes, rerank, top_k, queries, runs, baseline,
                save_runs, timeout_ms.

        Raises InvalidArgument for what is wrong with these, and where the extra `eval` is not installed.
        """
        from shoal.engine.evaluating import evaluate_index

        return evaluate_index(self, self._settings, dataset, options)

    def list(
        self,
        *,
        prefix: str = "",
        limit: int | None = None,
        cursor: str | None = None,
        namespace: str = "",
        min_position: int = 0,
    ) -> ListResponse:
        """List ids that begin with a prefix, in the order of their UTF-8 bytes, a page at a time.

        Args:
            limit: Ids of the page; by default the server's.
            cursor: `next` of the page before.
            min_position: Position that a write was answered with: the answer has seen it and all writes before it.
        """
        return self._run(lambda calls: calls.list_ids(prefix, limit, cursor, namespace, min_position))

    def close(self) -> None:
        """End the threads, and let go of the files; what other threads wait for raises Unavailable."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: Call[T]) -> T:
        future = self._opened.submit(call)
        try:
            return future.result()
        except CancelledError:
            raise closed() from None
        except BaseException:
            future.cancel()  # an interrupt of the wait
            raise


class AsyncIndex(AsyncIndexWrites, AsyncIndexNamespaces):
    """An index root in this process, for asyncio: the same as `Index`, with `await`.

    async with shoal.AsyncIndex("./index") as index:
        answer = await index.search("how do fish sleep")

    It is opened by `async with`, or by `await index.open()`, which raise what `Index` does; settings that are wrong
    raise at once. Its work is done in threads of its own, whichever event loop asks.
    """

    def __init__(self, index: str | PathLike[str], **settings: Any) -> None:
        self._settings = read_settings(index, settings)
        self._opening = threading.Lock()
        self._opened: _Opened | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    async def open(self) -> Self:
        """Load the models and the current version; nothing happens if that is done."""
        if self._opened is None:
            await asyncio.to_thread(self._open_once)
        return self

    def _open_once(self) -> None:
        with self._opening:
            if self._opened is None:
                self._opened = _Opened(self._settings)
                self._finalizer = weakref.finalize(self, self._opened.close)

    @overload
    async def search(self, query: str, **options: "Unpack[SearchOptions]") -> SearchResponse: ...
    @overload
    async def search(self, query: list[str], **options: "Unpack[SearchOptions]") -> list[SearchResponse]: ...
    @overload
    async def search(self, query: None = None, **options: "Unpack[SearchOptions]") -> Any: ...
    async def search(
        self, query: str | list[str] | None = None, **options: "Unpack[SearchOptions]"
    ) -> SearchResponse | list[SearchResponse]:
        """Search for one query, or for several at once; one response for each query, in their order.

        Without a query `vector` or `id` says what to look for, and nothing is searched by words or reranked.
        """
        return await self._run(lambda calls: calls.search(query, options))

    async def search_many(
        self,
        queries: Iterable[str],
        *,
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: "Unpack[SearchOptions]",
    ) -> list[SearchResponse]:
        """Search for any number of queries, `concurrency` of them at once; one response for each, in their order.

        Args:
            progress: Called after each answer with the numbers of those that are there and of all.
        """
        return await search_many_async(lambda query: self.search(query, **options), queries, concurrency, progress)

    async def fetch(
        self, ids: Sequence[str], *, include: Sequence[Part] | None = None, namespace: str = "", min_position: int = 0
    ) -> FetchResponse:
        """Fetch passages by their ids, in the order asked; ids that there are none of are in `missing`.

        Args:
            include: Parts of each passage, of text, metadata and vector; by default the first two.
            min_position: Position that a write was answered with: the answer has seen it and all writes before it.
        """
        return await self._run(lambda calls: calls.fetch(ids, include, namespace, min_position))

    async def embed(
        self, inputs: Sequence[str], input_type: InputType, **options: "Unpack[EmbedOptions]"
    ) -> EmbedResponse:
        """Make vectors of texts with the encoder of the index: of queries or of passages, in their order."""
        return await self._run(lambda calls: calls.embed(inputs, input_type, options))

    async def rerank(
        self, query: str, documents: Sequence[Document], **options: "Unpack[RerankOptions]"
    ) -> RerankResponse:
        """Score documents, texts or objects with text, id and title, for a query; the best first."""
        return await self._run(lambda calls: calls.rerank(query, documents, options))

    async def describe(self) -> IndexDescription:
        """Describe the version that is served; its `problem` says why that is not the current one, if it is not."""
        return await self._run(EngineCalls.describe)

    async def activate(self, version: str) -> IndexDescription:
        """Make a published version the active one; returns when it answers queries."""
        return await self._run(lambda calls: calls.activate(version))

    async def rollback(self) -> IndexDescription:
        """Return to the version that was active before."""
        return await self._run(EngineCalls.rollback)

    async def refresh(self) -> IndexDescription:
        """Look now whether another version has become current, and serve it."""
        return await self._run(EngineCalls.refresh)

    async def ready(self) -> bool:
        """Whether queries can be answered now."""
        try:
            return await self._run(EngineCalls.ready)
        except Unavailable:
            return False

    async def evaluate(self, dataset: str | PathLike[str], **options: Any) -> "Outcome":
        """Ask the judged queries of a dataset in every mode, and measure the answers: as `Index.evaluate`."""
        from shoal.engine.evaluating import evaluate_index

        blocking = _BlockingCalls(self, asyncio.get_running_loop())
        return await asyncio.to_thread(evaluate_index, blocking, self._settings, dataset, options)

    async def list(
        self,
        *,
        prefix: str = "",
        limit: int | None = None,
        cursor: str | None = None,
        namespace: str = "",
        min_position: int = 0,
    ) -> ListResponse:
        """List ids that begin with a prefix, in the order of their UTF-8 bytes, a page at a time.

        Args:
            limit: Ids of the page; by default the server's.
            cursor: `next` of the page before.
            min_position: Position that a write was answered with: the answer has seen it and all writes before it.
        """
        return await self._run(lambda calls: calls.list_ids(prefix, limit, cursor, namespace, min_position))

    async def close(self) -> None:
        """End the threads, and let go of the files; what other tasks wait for raises Unavailable."""
        if self._finalizer is not None:
            await asyncio.to_thread(self._finalizer)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, call: Call[T]) -> T:
        if self._opened is None:
            raise Unavailable("this index is not open; use `async with`, or await its open()")
        future = self._opened.submit(call)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the caller was cancelled, and with it the call
            raise closed() from None


class _BlockingCalls:
    """Calls of an index for asyncio, for a thread beside the event loop that awaits the thread."""

    def __init__(self, index: AsyncIndex, loop: asyncio.AbstractEventLoop) -> None:
        self._index = index
        self._loop = loop

    def search(self, query: str, **options: "Unpack[SearchOptions]") -> SearchResponse:
        return asyncio.run_coroutine_threadsafe(self._index.search(query, **options), self._loop).result()

    def describe(self) -> IndexDescription:
        return asyncio.run_coroutine_threadsafe(self._index.describe(), self._loop).result()
