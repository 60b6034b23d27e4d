"""Listing, making and removing the indexes of a catalog."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pydantic import ValidationError

from shoal.catalog.catalog import Catalog
from shoal.catalog.entry import IndexEntry
from shoal.catalog.folder import LOOKS_AT_ONCE
from shoal.catalog.summary import IndexSummary, State
from shoal.engine.description import IndexDescription
from shoal.errors import Conflict, InvalidArgument, ShoalError
from shoal.index_root import versions
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.serving.index_name import is_index_name, no_such_index
from shoal.serving.plan import NO_RERANKER, encoder_threads
from shoal.settings import CreateSettings, InferenceSettings

logger = logging.getLogger(__name__)

USUAL_REMOVAL_S = 2.0
"""Seconds that whoever removes an index waits for its end."""
REMEMBERED = 10_000
"""Descriptions of versions that are remembered at most."""


@dataclass(frozen=True, slots=True)
class NewIndex:
    """An index that is to be made.

    Args:
        name: Of its folder.
        encoder: One of those that the operator has listed; None for an index whose vectors come with passages.
        dimension: Of these vectors; None with an encoder.
        metadata_types: Types of metadata fields, such as year:integer.
        text_field: The field of the text; None for `text`.
    """

    name: str
    encoder: str | None = None
    dimension: int | None = None
    metadata_types: Sequence[str] | None = None
    text_field: str | None = None


class CatalogManager:
    """Lists, makes and removes indexes. Belongs to the event loop of its catalog.

    Args:
        catalog: Whose indexes they are.
        before_removal: Ends, in a thread, what else works on an index root that is about to be removed.
    """

    def __init__(self, catalog: Catalog, before_removal: Callable[[str], None] = lambda root: None) -> None:
        self._catalog = catalog
        self._before_removal = before_removal
        self._admitting = asyncio.Lock()
        self._making: set[str] = set()
        self._removals: set[asyncio.Task[None]] = set()
        self._described: dict[tuple[str, str], IndexDescription] = {}

    async def names(self) -> list[str]:
        """Names of all indexes: those that were given, in their order, then those of the folder; none elsewhere."""
        catalog = self._catalog
        given = [entry.name for entry in catalog.entries.values() if entry.is_given]
        held = await asyncio.to_thread(catalog.folder.names) if catalog.folder is not None else []
        removed = {entry.name for entry in catalog.entries.values() if entry.is_removed}
        absent = {*given, *removed, *catalog.elsewhere}
        return [*given, *(name for name in held if name not in absent)]

    async def summaries(self, may_see: Callable[[str], bool]) -> list[IndexSummary]:
        """Summarise the indexes that somebody may see; none is loaded for it."""
        seen = [name for name in await self.names() if may_see(name)]
        pool = ThreadPoolExecutor(LOOKS_AT_ONCE, "listing")
        try:
            return await asyncio.gather(*(self._summary(name, pool) for name in seen))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    async def summary(self, name: str) -> IndexSummary:
        """Summarise one index, which is not loaded for it. Raises NotFound."""
        if not await self._catalog.holds(name):
            raise no_such_index(name)
        return await self._summary(name)

    async def create(self, new: NewIndex) -> IndexSummary:
        """Make an index without passages in the folder.

        Raises:
            InvalidArgument: There is no folder, the name is none, or the encoder is not one of those that were listed.
            Conflict: Something has the name already, or there are as many indexes as there may be.
        """
        catalog = self._catalog
        if catalog.folder is None:
            raise InvalidArgument("this server makes no indexes: it has no catalog; start it with --catalog DIR")
        settings = self._create_settings(new, catalog.folder.root(new.name))
        async with self._admitting:  # whoever comes meanwhile sees what the others are making
            await self._check_new(new.name)
            self._making.add(new.name)
        try:
            encoder = None
            if new.encoder is not None:
                encoder = await asyncio.to_thread(catalog.models.first_encoder, settings)
            await asyncio.to_thread(catalog.folder.create, new.name, settings, encoder)
        finally:
            self._making.discard(new.name)
        return await self._summary(new.name)

    async def _check_new(self, name: str) -> None:
        """Raise Conflict where an index of a name cannot be made."""
        catalog = self._catalog
        entry = catalog.entries.get(name)
        if entry is not None and entry.is_removed:  # its files would be taken for those of the new one, and removed
            raise Conflict(f"the index {name!r} is still being removed; try again", param="name")
        if name in self._making or name in catalog.elsewhere or await catalog.holds(name):
            raise Conflict(f"there is an index {name!r} already; choose another name", param="name")
        if len(self._making.union(await self.names(), catalog.elsewhere)) >= catalog.limits.max_indexes:
            raise Conflict(
                f"there are {catalog.limits.max_indexes} indexes, which is the limit; remove one, or allow more with "
                "--max-indexes"
            )

    async def remove(self, name: str) -> None:
        """Remove an index of the folder: from now on it is there for nobody.

        Usually it is gone when this returns. Its files go once the requests have ended that are under way.

        Raises NotFound; Conflict for one that was given by its root, and for a folder that is no index alone.
        """
        catalog = self._catalog
        if not await catalog.holds(name):
            raise no_such_index(name)
        entry = catalog.entries.get(name)
        if entry is not None and entry.is_given:
            raise Conflict(f"{name!r} was given to the server by --index, and is not removed over HTTP")
        assert catalog.folder is not None
        given = [each.root for each in catalog.entries.values() if each.is_given]
        given += catalog.elsewhere.values()
        await asyncio.to_thread(catalog.folder.check_removable, name, given)
        entry = catalog.entries.setdefault(name, IndexEntry(name, catalog.folder.root(name)))
        if entry.is_removed:
            raise no_such_index(name)
        entry.is_removed = True
        removal = asyncio.create_task(self._remove(entry))
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)
        await asyncio.wait([removal], timeout=USUAL_REMOVAL_S)

    async def settle(self) -> None:
        """Wait until what is being removed is gone."""
        await asyncio.gather(*self._removals)

    async def _remove(self, entry: IndexEntry) -> None:
        catalog = self._catalog
        assert catalog.folder is not None
        if entry.loading is not None:
            await asyncio.wait([entry.loading])
        if entry.uses:
            await entry.unused.wait()
        entry.unload()
        await asyncio.to_thread(entry.join)  # what it still writes would make the folder anew
        try:
            await asyncio.to_thread(self._before_removal, entry.root)
            await asyncio.to_thread(catalog.folder.remove, entry.name)
            logger.info("removed the index %s", entry.name)
        except ShoalError as error:
            logger.error("the index %s could not be removed: %s", entry.name, error)
        except OSError as error:
            logger.error("the index %s could not be removed whole: %s", entry.name, error)
        finally:
            catalog.forget(entry)

    def _create_settings(self, new: NewIndex, root: str) -> CreateSettings:
        if not is_index_name(new.name):
            raise InvalidArgument(
                "name should be 1 to 63 small letters, digits and dashes, the first no dash", param="name"
            )
        if (new.encoder is None) == (new.dimension is None):
            raise InvalidArgument("an index has an encoder or a dimension; name one of them", param="dimension")
        encoders = self._catalog.limits.encoders or []
        if new.encoder is not None and new.encoder not in encoders:
            known = f"it may be {' or '.join(encoders)}" if encoders else "the server was started without --encoders"
            raise InvalidArgument(f"no index is made with that encoder here: {known}", param="encoder")
        named = {"encoder": new.encoder, "dimension": new.dimension, "text_field": new.text_field}
        chosen = {name: value for name, value in named.items() if value is not None}
        inference = self._catalog.settings.part(InferenceSettings).model_dump()
        threads = encoder_threads(self._catalog.settings)
        given = {**inference, "index": root, "metadata_types": new.metadata_types, "threads": threads, **chosen}
        try:
            return CreateSettings.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0])
            raise InvalidArgument(f"{field}: {first['msg']}", param=field) from None

    async def _summary(self, name: str, pool: ThreadPoolExecutor | None = None) -> IndexSummary:
        """Summarise an index. pool: in whose threads it is read; None for those of the event loop."""
        entry = self._catalog.entries.get(name)
        if entry is not None and entry.engine is not None:
            return IndexSummary.of(name, "ready", await entry.engine.describe())
        root = self._catalog.folder.root(name) if entry is None and self._catalog.folder else ""
        state: State = "unloaded"
        problem = None
        if entry is not None:
            root = entry.root
            if entry.loading is not None or entry.is_given:
                state = "loading"
            elif entry.failure is not None:
                state, problem = "failed", entry.failure.message
        try:
            description = await asyncio.get_running_loop().run_in_executor(pool, self._read_description, root)
        except ShoalError as error:
            return IndexSummary(name, "failed", problem=problem or error.message)
        return IndexSummary.of(name, state, description, problem)

    def _read_description(self, root: str) -> IndexDescription:
        """Describe what an index root would serve. Raises what reading it raises."""
        storage = Storage(root)
        current = versions.read_current(storage)
        if current is None:
            raise versions.nothing_published(storage)
        key = (root, current.version)
        if key not in self._described:
            if len(self._described) >= REMEMBERED:
                self._described.clear()
            manifest = versions.read_manifest(storage, current.version)
            self._described[key] = IndexDescription.of(manifest, current.previous, self._reranker(manifest), None)
        return self._described[key]

    def _reranker(self, manifest: Manifest) -> str | None:
        """The reranker that an index would have."""
        from shoal.encoders._absent import is_absent

        reranker = self._catalog.settings.reranker
        lacks_tokens = reranker == "late_interaction" and is_absent(manifest.encoder.model)
        return None if reranker == NO_RERANKER or lacks_tokens else reranker
