"""The indexes of one process, by their names: loaded when they are asked for, unloaded when they are idle."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from shoal.catalog.entry import OVERHEAD_BYTES, IndexEntry, expected_bytes
from shoal.catalog.folder import CatalogFolder
from shoal.engine.engine import LocalEngine
from shoal.engine.model_pool import Lender, ModelPool
from shoal.engine.models import ModelSource
from shoal.errors import DeadlineExceeded, InvalidArgument, Overloaded, ShoalError, Unavailable
from shoal.records import ScoreScale
from shoal.serving.index_name import is_index_name, named_roots, no_such_index
from shoal.settings import CatalogSettings, ServeSettings

logger = logging.getLogger(__name__)

RETRY_S = 10.0
"""Seconds before an index that could not be loaded is tried again."""
LOADS_AT_ONCE = 4
"""Indexes that are loaded side by side: each keeps a thread of those that searches need too, of which there are five at
least, and one that waits for a model or a store may keep it for long."""
ROOM_S = 30.0
"""Seconds that a load waits for memory which indexes in use do not leave."""
SWEEP_S = 5.0
"""Seconds between looks for what is idle, at most."""
LOOK_S, REMOTE_LOOK_S = 1.0, 2.0
"""Seconds between looks whether another process has removed an index that is in memory: on a disk, and on a store, of
which each look asks as many questions as there are such indexes."""
EngineMaker = Callable[[ServeSettings, ModelSource], LocalEngine]
"""Makes the engine of an index root that the settings name."""


def make_engine(settings: ServeSettings, models: ModelSource) -> LocalEngine:
    """Make the engine of an index root, which is not open yet."""
    return LocalEngine(settings, models=models)


class Catalog:
    """Indexes by their names. All of its coroutines belong to one event loop.

    Those that were given by their roots are loaded by `open`, and stay. Those of the folder are loaded when they are
    asked for, by one task however many ask; they are unloaded when they are idle, or, those that were asked for longest
    ago first, when others need the memory. None is unloaded that answers something.

    Args:
        settings: Of all indexes; the root in it counts for nothing.
        limits: Where the folder is, and what may be kept in memory.
        given: Index roots, of which the first is the default one.
        elsewhere: Index roots that others answer for: their names are taken, and nothing of them is removed.
        lend: Gives the models of others for an encoder (`ModelPool`).
        new_engine: Makes the engine of an index.
        clock: Seconds from any start.

    Raises:
        InvalidArgument: Two index roots have one name.
        NotFound: There is no such folder on this machine's disk.
    """

    def __init__(
        self,
        settings: ServeSettings,
        limits: CatalogSettings,
        given: Sequence[str] = (),
        *,
        elsewhere: Sequence[str] = (),
        lend: Lender = lambda encoder: None,
        new_engine: EngineMaker = make_engine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.limits = limits
        self.models = ModelPool(clock, lend)
        self.entries: dict[str, IndexEntry] = {}
        """Indexes that were given, or asked for since they were last unloaded."""
        self.folder = None if limits.catalog is None else CatalogFolder(limits.catalog)
        self.elsewhere = named_roots(elsewhere)
        """Index roots that others answer for, by their names."""
        self._new_engine = new_engine
        self._clock = clock
        self._released = asyncio.Event()
        self._load_turns = asyncio.Semaphore(LOADS_AT_ONCE)
        self._watching: list[asyncio.Task[None]] = []
        for name, root in named_roots(given).items():
            self.entries[name] = IndexEntry(name, root, is_given=True)
        self.default = next(iter(self.entries), None)
        """The index that is asked where a request names none; None without one."""

    async def open(self) -> None:
        """Load the indexes that were given, and look after all. Raises what opening one raises."""
        if self.folder is not None:
            await asyncio.to_thread(self.folder.sweep)
            for name in await asyncio.to_thread(self.folder.strange_names):
                logger.warning(
                    "the index in %s/%s cannot be asked for: rename the folder to small letters, digits and dashes",
                    self.folder.place(),
                    name,
                )
        for entry in list(self.entries.values()):
            await self._load(entry)
        self._watching.append(asyncio.create_task(self._repeat(self.sweep, min(SWEEP_S, self.limits.catalog_idle_s))))
        if self.folder is not None:
            every_s = LOOK_S if self.folder.is_local else REMOTE_LOOK_S
            self._watching.append(asyncio.create_task(self._repeat(self.look, every_s)))

    @asynccontextmanager
    async def use(self, name: str, deadline: float) -> AsyncIterator[LocalEngine]:
        """Offer the engine of an index, loading it first if need be, which stays until the end of the block.

        Args:
            name: Of the index.
            deadline: For loading it, by `time.monotonic`.

        Raises:
            NotFound: There is no such index.
            DeadlineExceeded: It could not be loaded by then.
            Overloaded: The memory is taken by indexes that are in use.
        """
        entry = await self._entry(name)
        try:
            with entry.use():
                if entry.engine is None:
                    await self._ensure_loaded(entry, deadline)
                assert entry.engine is not None
                yield entry.engine
        finally:
            entry.last_use = self._clock()
            if entry.is_retired and not entry.uses:
                entry.unload()
            self._released.set()

    def is_loaded(self, name: str) -> bool:
        """Whether an index is in memory."""
        entry = self.entries.get(name)
        return entry is not None and entry.engine is not None

    def scale_of(self, name: str) -> ScoreScale | None:
        """Where the scores of the reranker of an index lie, None if that is not known."""
        entry = self.entries.get(name)
        return None if entry is None else entry.scale

    async def holds(self, name: str) -> bool:
        """Whether there is an index of a name, for which nobody else answers."""
        if name in self.elsewhere:
            return False
        if (entry := self.entries.get(name)) is not None:
            return not entry.is_removed
        return self.folder is not None and is_index_name(name) and await asyncio.to_thread(self.folder.holds, name)

    def missing(self) -> list[str]:
        """Name the indexes that were given and cannot be searched yet."""
        return [
            f"{entry.root} is being opened" for entry in self.entries.values() if entry.is_given and not entry.engine
        ]

    def loaded_roots(self) -> list[str]:
        """The index roots that are in memory. In any thread."""
        return [entry.root for entry in list(self.entries.values()) if entry.engine is not None]

    def memory_bytes(self) -> int:
        """Count about how much memory the indexes of the folder take."""
        return sum(entry.memory_bytes for entry in self.entries.values() if not entry.is_given)

    def close(self) -> None:
        """Close all indexes and models. Nobody may use one."""
        for watching in self._watching:
            watching.cancel()
        for entry in self.entries.values():
            if entry.loading is not None:
                entry.loading.cancel()
            entry.unload()
            entry.join()
        self.models.close()

    async def _entry(self, name: str) -> IndexEntry:
        entry = self.entries.get(name)
        if entry is None:
            if not await self.holds(name):
                raise no_such_index(name)
            assert self.folder is not None
            entry = self.entries.setdefault(name, IndexEntry(name, self.folder.root(name)))
        if entry.is_removed:
            raise no_such_index(name)
        return entry

    async def _ensure_loaded(self, entry: IndexEntry, deadline: float) -> None:
        if entry.failure is not None and self._clock() < entry.failed_at + RETRY_S:
            # Once more the same error, which without this keeps the frames of all requests that it has ended.
            raise entry.failure.with_traceback(None)
        if entry.is_given:
            raise Unavailable(f"the index {entry.name!r} is being opened; try again", retry_after_s=1)
        if entry.loading is None:
            entry.loading = asyncio.create_task(self._load_in_room(entry))
            entry.loading.add_done_callback(_take_note)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await asyncio.shield(entry.loading)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the deadline passed while the index {entry.name!r} was being loaded; try again"
            ) from None

    async def _load_in_room(self, entry: IndexEntry) -> None:
        """Load an index once there is room for it. Notes why it could not be loaded."""
        try:
            await self._make_room(entry, await asyncio.to_thread(expected_bytes, entry.root))
            async with self._load_turns:
                await self._load(entry)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            entry.memory_bytes = 0
            self._released.set()
            if not isinstance(error, Overloaded):
                self._note_failure(entry, error)
                raise entry.failure or error from None
            raise
        finally:
            entry.loading = None

    def _note_failure(self, entry: IndexEntry, error: Exception) -> None:
        if isinstance(error, ShoalError):
            entry.failure = error
        else:
            logger.exception("the index %s cannot be loaded", entry.name)
            entry.failure = Unavailable(
                f"the index {entry.name!r} cannot be loaded; the server's log says why", retry_after_s=RETRY_S
            )
        entry.failed_at = self._clock()
        logger.error("the index %s cannot be loaded: %s", entry.name, entry.failure)

    async def _load(self, entry: IndexEntry) -> None:
        engine = self._new_engine(self.settings.model_copy(update={"index": entry.root}), self.models)
        try:
            await engine.open()
        except BaseException:
            engine.close()
            raise
        entry.engine, entry.failure, entry.last_use = engine, None, self._clock()
        entry.scale = engine.reranker_scale()
        entry.memory_bytes = OVERHEAD_BYTES + engine.memory_bytes()

    async def _make_room(self, entry: IndexEntry, wanted: int) -> None:
        """Reserve memory for an index, unloading others. Raises InvalidArgument for more than there may be at all."""
        most = self.limits.catalog_memory_mib * 2**20
        if wanted > most:
            raise InvalidArgument(
                f"the index {entry.name!r} takes some {wanted / 2**20:,.0f} MiB of memory, and the catalog may take "
                f"{self.limits.catalog_memory_mib}; serve it by --index {entry.root}, which gives it services of its "
                "own, or allow more with --catalog-memory-mib"
            )
        latest = time.monotonic() + ROOM_S
        while True:
            self._released.clear()
            self._evict_for(wanted, most)
            if self.memory_bytes() + wanted <= most:
                entry.memory_bytes = wanted
                return
            try:
                async with asyncio.timeout(latest - time.monotonic()):
                    await self._released.wait()
            except TimeoutError:
                raise Overloaded(
                    f"the memory of the catalog ({self.limits.catalog_memory_mib} MiB) is taken by indexes that are in "
                    "use; try again, or allow more with --catalog-memory-mib",
                    retry_after_s=1,
                ) from None

    def _evict_for(self, wanted: int, most: int) -> None:
        """Unload what was asked for longest ago until there is room, as far as nobody uses it."""
        for entry in sorted(self.entries.values(), key=lambda each: each.last_use):
            if self.memory_bytes() + wanted <= most:
                return
            if entry.is_evictable:
                logger.info("unloading the index %s, others need the memory", entry.name)
                entry.unload()

    async def _repeat(self, look: Callable[[], Awaitable[None]], every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await look()
            except ShoalError as error:  # a store that does not answer now
                logger.debug("the catalog is looked over again soon: %s", error)
            except Exception:  # what ends this task would leave every index in memory for ever
                logger.exception("the catalog could not be looked over, which is tried again")

    async def sweep(self) -> None:
        """Unload what is idle, forget what is gone, and count again what the others take."""
        await self.look()
        before = self._clock() - self.limits.catalog_idle_s
        for entry in list(self.entries.values()):
            if entry.is_evictable and entry.last_use <= before:
                logger.info("unloading the index %s, which is idle", entry.name)
                entry.unload()
            if entry.engine is not None and not entry.is_given:
                with suppress(Unavailable):
                    entry.memory_bytes = OVERHEAD_BYTES + entry.engine.memory_bytes()
            await self._forget_unloaded(entry)
        self._evict_for(0, self.limits.catalog_memory_mib * 2**20)
        await asyncio.to_thread(self.models.drop_unused, self.limits.catalog_idle_s)

    async def _forget_unloaded(self, entry: IndexEntry) -> None:
        """Forget an index that is not loaded, and with it why it could not be."""
        if entry.is_given or entry.is_removed or self.folder is None:
            return
        await asyncio.to_thread(entry.join)  # whoever removes an index that is forgotten waits for nobody
        is_tried_again = entry.engine is None and self._clock() >= entry.failed_at + RETRY_S
        if is_tried_again and not (entry.uses or entry.loading or entry.is_removed or entry.closed):
            self.forget(entry)

    async def look(self) -> None:
        """Let go of indexes that another process has removed, or made anew, and of those whose models were taken away.

        Who asks from now on finds what is there then.
        """
        if self.folder is None:
            return
        loaded = {
            name: entry
            for name, entry in self.entries.items()
            if entry.engine is not None and not (entry.is_given or entry.is_removed)
        }
        served = {name: entry.engine.version for name, entry in loaded.items() if entry.engine is not None}
        strayed = [name for name, entry in loaded.items() if entry.engine and not self._may_compute(entry.engine)]
        for name in {*strayed, *await asyncio.to_thread(self.folder.gone, served)}:
            if self.entries.get(name) is loaded[name] and not loaded[name].is_removed:
                logger.info("the index %s, or its models, are not what they were", name)
                self._retire(loaded[name])

    def _may_compute(self, engine: LocalEngine) -> bool:
        return self.models.may_be_used(engine.models)

    def _retire(self, entry: IndexEntry) -> None:
        """Let go of an index for those who ask from now on, and unload it once nobody uses it."""
        del self.entries[entry.name]
        entry.is_retired = True
        if not entry.uses:
            entry.unload()

    def forget(self, entry: IndexEntry) -> None:
        """Let go of an index that nobody uses."""
        entry.unload()
        if self.entries.get(entry.name) is entry:
            del self.entries[entry.name]


def _take_note(task: "asyncio.Task[None]") -> None:
    """Let a task that failed end without a word where all who waited for it have gone."""
    if not task.cancelled():
        task.exception()
