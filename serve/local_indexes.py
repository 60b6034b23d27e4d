"""Indexes of engines in this process behind the HTTP dialects: those of `--local`, and of a catalog on Ray too."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from typing import Protocol

from serve.admitted_engine import AdmittedEngine, IngressLimits
from shoal.catalog.catalog import Catalog
from shoal.catalog.index import CatalogIndex
from shoal.catalog.management import CatalogManager, NewIndex
from shoal.catalog.summary import IndexSummary
from shoal.engine.description import IndexDescription
from shoal.engine.engine import LocalEngine
from shoal.index_root.version_list import ListedVersion
from shoal.records import ScoreScale
from shoal.settings import ServeSettings


class LocalIngress(AdmittedEngine):
    """A `serve.dialects.base.Engine` over an engine in this process: with the limits and the log of an ingress.

    Args:
        engine: What answers.
        settings: Of the server.
        problem: Says what keeps the server from compacting the index by itself, if something does.
        shared: What it has in common with the other indexes of the server; None where there are none.
    """

    def __init__(
        self,
        engine: LocalEngine | CatalogIndex,
        settings: ServeSettings,
        problem: Callable[[], str | None] = lambda: None,
        shared: IngressLimits | None = None,
    ) -> None:
        super().__init__(shared or IngressLimits(settings))
        self._engine = engine
        self._problem = problem

    def _answers_at_once(self) -> bool:
        return not isinstance(self._engine, CatalogIndex) or self._engine.is_loaded

    def _answering(self, deadline: float) -> AbstractAsyncContextManager[LocalEngine]:
        if isinstance(self._engine, CatalogIndex):
            return self._engine.use(deadline)
        return nullcontext(self._engine)

    async def describe(self) -> IndexDescription:
        """Describe what is served."""
        description = await self._engine.describe()
        return replace(description, problem=description.problem or self._problem())

    def reranker_scale(self) -> ScoreScale | None:
        """Where the scores of the reranker lie; None if that is not known."""
        return self._engine.reranker_scale()

    async def text_field(self) -> str:
        """The field that holds the text of records."""
        return await self._engine.text_field()

    async def list_versions(self, limit: int) -> list[ListedVersion]:
        """List the newest published versions, and the current and the previous one with them."""
        return await self._engine.list_versions(limit)

    async def activate(self, version: str) -> None:
        """Load a published version, then serve it and make it CURRENT."""
        await self._engine.activate(version)

    async def rollback(self) -> None:
        """Serve the previous version again and make it CURRENT."""
        await self._engine.rollback()

    async def ready(self) -> list[str]:
        """Name what is missing until the active version can be searched; empty means ready."""
        return await self._engine.ready()


class CompactionWatch(Protocol):
    """What knows of the compactions of a server (`serve.versions.compacting.Compactor`)."""

    def problem(self, root: str) -> str | None:
        """Say what keeps an index from being compacted; None if nothing does, or nobody looks after it."""
        ...

    def leave(self, root: str) -> None:
        """End what works on an index root. Blocks."""
        ...


class CatalogIndexes:
    """A `serve.web.indexes.IndexSource` over a catalog.

    Args:
        catalog: The indexes.
        compactor: Knows how they are compacted; None where nobody does that.
        shared: What they have in common with other indexes of this process; None where there are none.
    """

    def __init__(
        self, catalog: Catalog, compactor: CompactionWatch | None = None, shared: IngressLimits | None = None
    ) -> None:
        self.catalog = catalog
        self._compactor = compactor
        self._manager = CatalogManager(catalog, compactor.leave if compactor is not None else lambda root: None)
        self._limits = shared or IngressLimits(catalog.settings)

    @property
    def default(self) -> str | None:
        """The index that is asked where a request names none."""
        return self.catalog.default

    def engine(self, name: str) -> LocalIngress:
        """Return what answers for an index, which raises NotFound when it is asked and there is none."""
        index = CatalogIndex(self.catalog, name)
        return LocalIngress(index, self.catalog.settings, lambda: self._problem(name), self._limits)

    async def holds(self, name: str) -> bool:
        """Whether there is an index of a name."""
        return await self.catalog.holds(name)

    async def summaries(self, may_see: Callable[[str], bool]) -> Sequence[IndexSummary]:
        """Summarise the indexes that somebody may see; none is loaded for it."""
        return await self._manager.summaries(may_see)

    async def summary(self, name: str) -> IndexSummary:
        """Summarise one index. Raises NotFound."""
        return await self._manager.summary(name)

    async def create(self, new: NewIndex) -> IndexSummary:
        """Make an index. Raises InvalidArgument and Conflict."""
        return await self._manager.create(new)

    async def remove(self, name: str) -> None:
        """Remove an index. Raises NotFound and Conflict."""
        await self._manager.remove(name)

    async def ready(self) -> list[str]:
        """Name what is missing until everything can be searched that was given; empty means ready."""
        return self.catalog.missing()

    async def settle(self) -> None:
        """Wait until what is being removed is gone."""
        await self._manager.settle()

    def _problem(self, name: str) -> str | None:
        entry = self.catalog.entries.get(name)
        return None if self._compactor is None or entry is None else self._compactor.problem(entry.root)
