"""One index of a catalog, whose engine is loaded when it is asked."""

import time
from contextlib import AbstractAsyncContextManager

from shoal.catalog.catalog import Catalog
from shoal.engine.description import IndexDescription
from shoal.engine.engine import LocalEngine
from shoal.index_root.version_list import ListedVersion
from shoal.records import ScoreScale


class CatalogIndex:
    """What `shoal.engine.engine.LocalEngine` tells of itself, for an index that need not be loaded, nor exist.

    All raise NotFound where there is no such index, and what `Catalog.use` raises.
    """

    def __init__(self, catalog: Catalog, name: str) -> None:
        self._catalog = catalog
        self._name = name

    @property
    def is_loaded(self) -> bool:
        """Whether the engine is in memory."""
        return self._catalog.is_loaded(self._name)

    def use(self, deadline: float) -> AbstractAsyncContextManager[LocalEngine]:
        """Offer what answers for the index, loading it first if need be; see `Catalog.use`."""
        return self._catalog.use(self._name, deadline)

    async def describe(self) -> IndexDescription:
        """Describe what is served."""
        async with self._catalog.use(self._name, self._deadline()) as engine:
            return await engine.describe()

    async def list_versions(self, limit: int) -> list[ListedVersion]:
        """List the newest published versions, and the current and the previous one with them."""
        async with self._catalog.use(self._name, self._deadline()) as engine:
            return await engine.list_versions(limit)

    async def activate(self, version: str) -> None:
        """Serve a published version and make it CURRENT."""
        async with self._catalog.use(self._name, self._deadline()) as engine:
            await engine.activate(version)

    async def rollback(self) -> None:
        """Serve the previous version again and make it CURRENT."""
        async with self._catalog.use(self._name, self._deadline()) as engine:
            await engine.rollback()

    async def ready(self) -> list[str]:
        """Name what is missing until the index can be searched: nothing, for one that is loaded when it is asked."""
        return self._catalog.missing()

    def reranker_scale(self) -> ScoreScale | None:
        """Where the scores of the reranker lie; None if that is not known."""
        return self._catalog.scale_of(self._name)

    async def text_field(self) -> str:
        """The field that holds the text of records."""
        async with self._catalog.use(self._name, self._deadline()) as engine:
            return await engine.text_field()

    def _deadline(self) -> float:
        settings = self._catalog.settings
        return time.monotonic() + min(settings.timeout_ms, settings.max_timeout_ms) / 1000
