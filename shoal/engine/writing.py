"""Writes of an engine: its writer, which is opened when it is first needed."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from shoal.errors import DeadlineExceeded, NotFound, Unavailable
from shoal.filters import Filter
from shoal.index_root.log import Log
from shoal.index_root.log_entry import LogEntry
from shoal.index_root.log_writer import LogWriter
from shoal.index_root.storage import Storage
from shoal.indexing.backlog import Backlog
from shoal.search.request_plan import FilterTrees
from shoal.search.served_version import ServedVersion
from shoal.search.services import EmbedService
from shoal.settings import ServeSettings
from shoal.system.threads import Threads
from shoal.writing.requests import Deleted, DeleteRequest, Updated, UpdateRequest, WriteRequest, Written
from shoal.writing.states import WritableVersion

if TYPE_CHECKING:
    from shoal.writing.writer import Writer

T = TypeVar("T")
logger = logging.getLogger(__name__)


class LiveVersion(WritableVersion, Protocol):
    """A version that is served and follows the log."""

    @property
    def served(self) -> ServedVersion:
        """It, as filters need to know it: with the fields that the log has brought."""
        ...

    def offer(self, entry: LogEntry) -> None:
        """Hear of an entry of the log."""
        ...


class IndexWriting:
    """Writes to an index root. Belongs to one event loop.

    Args:
        storage: The index root.
        settings: Of the server.
        version: Gives the version that is served now, always the same object for the same one.
        encoder: Gives the encoder of passages.
    """

    def __init__(
        self,
        storage: Storage,
        settings: ServeSettings,
        version: Callable[[], LiveVersion],
        encoder: Callable[[], EmbedService],
    ) -> None:
        self._storage = storage
        self._settings = settings
        self._version = version
        self._encoder = encoder
        self._opening = asyncio.Lock()
        self._writer: Writer | None = None
        self._ending: Sequence[Threads] = ()
        self._backlog = Backlog()
        self._counted: LiveVersion | None = None

    async def write(self, request: WriteRequest) -> Written:
        """Write records; see `shoal.writing.writer.Writer.write`."""
        return await self._use(request.deadline, lambda writer: writer.write(request))

    async def delete(self, request: DeleteRequest) -> Deleted:
        """Delete records. Raises InvalidArgument for a filter that does not fit the version."""
        tree = self._tree(request)
        return await self._use(request.deadline, lambda writer: writer.delete(request, tree))

    async def update(self, request: UpdateRequest) -> Updated:
        """Change metadata or vectors of records."""
        return await self._use(request.deadline, lambda writer: writer.update(request))

    def close(self) -> None:
        """End the threads, once what is being appended is there. Waits for none of them; `join` does."""
        if self._writer is not None:
            self._ending = self._writer.close()
        self._writer = self._counted = None

    def join(self) -> None:
        """Wait, in any thread, until nothing more is read of the log or written to it; after `close`."""
        for threads in self._ending:
            threads.join()

    def _tree(self, request: DeleteRequest) -> Filter | None:
        return FilterTrees().parse(request.filter, self._version().served, self._settings, request.namespace)

    async def _use(self, deadline: float, work: "Callable[[Writer], Awaitable[T]]") -> T:
        writer = self._writer
        try:
            writer = await self._ready(deadline)
            return await work(writer)
        except NotFound as error:  # the log goes on from a version that this writer has not begun with
            if self._writer is writer:
                self.close()
            raise Unavailable(f"the log has to be read anew ({error}); try again", retry_after_s=1) from error

    async def _ready(self, deadline: float) -> "Writer":
        """The writer, once what was written since the version that is served was read, whoever waits for it."""
        version = self._version()
        if self._writer is not None and self._counted is version:
            return self._writer
        try:
            async with asyncio.timeout(deadline - time.monotonic()), self._opening:
                if self._writer is None:
                    self._writer = await asyncio.shield(self._opened(version))
                elif self._counted is not version:
                    await asyncio.to_thread(self._backlog.follow, version.manifest, Log.open(self._storage))
                self._counted = version
                return self._writer
        except TimeoutError:
            raise DeadlineExceeded(
                "the deadline passed before the log had been read, and nothing was written; try again"
            ) from None

    async def _opened(self, version: LiveVersion) -> "Writer":
        from shoal.writing.writer import Writer  # with all that reads and checks records; most processes never write

        loop, backlog = asyncio.get_running_loop(), Backlog()
        backlog.begin(version.manifest)

        def count(entry: LogEntry) -> None:
            backlog.add(entry)
            loop.call_soon_threadsafe(self._offer, entry)

        await asyncio.to_thread(self.join)  # one writer at a time, so that there is one to wait for
        log = await asyncio.to_thread(LogWriter.open, self._storage, version.manifest.complete_to)
        writer = Writer(
            log,
            self._encoder(),
            self._version,
            max_requests=self._settings.max_writes,
            on_entry=count,
            excess=lambda: backlog.excess(self._settings),
        )
        await asyncio.to_thread(writer.catch_up)
        logger.info("writing to %s behind position %d", self._storage.place(), writer.position)
        self._backlog = backlog
        return writer

    def _offer(self, entry: LogEntry) -> None:
        try:
            self._version().offer(entry)
        except Unavailable:  # closed meanwhile
            logger.debug("nobody looks for position %d", entry.position)
