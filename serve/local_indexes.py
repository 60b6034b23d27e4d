"""The indexes of `shoal serve --local` behind the HTTP dialects."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from serve.telemetry import NullMeter, Telemetry
from serve.versions.compacting import Compactor
from serve.web.access import Admission, charge
from shoal.catalog.catalog import Catalog
from shoal.catalog.index import CatalogIndex
from shoal.catalog.management import CatalogManager, NewIndex
from shoal.catalog.summary import IndexSummary
from shoal.engine.description import IndexDescription
from shoal.engine.engine import LocalEngine
from shoal.engine.limits import RequestLimits
from shoal.index_root.version_list import ListedVersion
from shoal.namespaces import DEFAULT
from shoal.records import (
    EmbeddedTexts,
    FetchedPassages,
    InputType,
    ListedIds,
    ListedNamespaces,
    RerankedDocuments,
    ScoreScale,
    SearchAnswer,
    SearchRequest,
)
from shoal.settings import ServeSettings
from shoal.writing.requests import Deleted, DeleteRequest, Updated, UpdateRequest, WriteRequest, Written


class IngressLimits:
    """What all indexes of a server have in common: what a request may ask, what is logged, how many are answered."""

    def __init__(self, settings: ServeSettings) -> None:
        self.requests = RequestLimits(settings)
        self.telemetry = Telemetry(NullMeter(), settings.slow_query_ms, settings.log_queries)
        self.admission = Admission(settings)


class LocalIngress:
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
        shared = shared or IngressLimits(settings)
        self._engine = engine
        self._problem = problem
        self._limits = shared.requests
        self._telemetry = shared.telemetry
        self._admission = shared.admission

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer the queries of one HTTP request, in order. Raises Overloaded at once beyond `max_requests`."""
        started = time.monotonic()
        try:
            self._limits.check_search(requests)
            charge(len(requests))
            with self._admission.one_more():
                answers = await self._engine.search(requests)
        except BaseException as error:
            self._telemetry.ended(requests, error, 1000 * (time.monotonic() - started))
            raise
        self._telemetry.answered(requests, answers)
        return answers

    async def embed(
        self, texts: Sequence[str], input_type: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        """Return the vectors that the index compares, in input order. Raises as `search`."""
        with self._telemetry.embedding(len(texts)):
            self._limits.check_embed(texts, deadline, are_queries=input_type == "query")
            charge(len(texts))
            with self._admission.one_more():
                return await self._engine.embed(texts, input_type, deadline, with_tokens)

    async def rerank(self, query: str, documents: Sequence[str], deadline: float) -> RerankedDocuments:
        """Return the scores of documents, in input order. Raises as `search`."""
        with self._telemetry.reranking(len(documents)):
            self._limits.check_rerank(query, documents, deadline)
            charge(1)
            with self._admission.one_more():
                return await self._engine.rerank(query, documents, deadline)

    async def fetch(
        self,
        ids: Sequence[str],
        deadline: float,
        with_vectors: bool = False,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> FetchedPassages:
        """Return passages by their ids, in the order asked, and the ids that there are none of. Raises as `search`."""
        self._limits.check_fetch(ids, deadline, with_vectors=with_vectors)
        charge(1)
        with self._admission.one_more():
            return await self._engine.fetch(ids, deadline, with_vectors, namespace, min_position)

    async def list_ids(
        self,
        prefix: str,
        limit: int,
        cursor: str | None,
        deadline: float,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> ListedIds:
        """Return a page of the ids that begin with a prefix, in order. Raises as `search`."""
        self._limits.check_list(prefix, limit, deadline)
        charge(1)
        with self._admission.one_more():
            return await self._engine.list_ids(prefix, limit, cursor, deadline, namespace, min_position)

    async def list_namespaces(self, prefix: str, limit: int, cursor: str | None, deadline: float) -> ListedNamespaces:
        """Return a page of namespaces and how many passages each has. Raises as `search`."""
        self._limits.check_list(prefix, limit, deadline)
        charge(1)
        with self._admission.one_more():
            return await self._engine.list_namespaces(prefix, limit, cursor, deadline)

    async def count_namespace(self, namespace: str, deadline: float) -> int:
        """Return how many passages a namespace has. Raises as `search`."""
        charge(1)
        with self._admission.one_more():
            return await self._engine.count_namespace(namespace, deadline)

    async def write(self, request: WriteRequest) -> Written:
        """Write records; all of them durably, or none."""
        self._limits.check_write(request)
        charge(1)
        return await self._engine.write(request)

    async def delete(self, request: DeleteRequest) -> Deleted:
        """Delete records."""
        self._limits.check_write(request)
        charge(1)
        return await self._engine.delete(request)

    async def update(self, request: UpdateRequest) -> Updated:
        """Change the metadata of records."""
        self._limits.check_write(request)
        charge(1)
        return await self._engine.update(request)

    async def describe(self) -> IndexDescription:
        """Describe what is served."""
        description = await self._engine.describe()
        return replace(description, problem=description.problem or self._problem())

    def reranker_scale(self) -> ScoreScale | None:
        """Where the scores of the reranker lie; None if that is not known."""
        return self._engine.reranker_scale()

    def text_field(self) -> str:
        """The field that holds the text of records."""
        return self._engine.text_field()

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


class CatalogIndexes:
    """A `serve.web.indexes.IndexSource` over a catalog.

    Args:
        catalog: The indexes.
        compactor: Compacts them; None where nobody does.
    """

    def __init__(self, catalog: Catalog, compactor: Compactor | None = None) -> None:
        self.catalog = catalog
        self._compactor = compactor
        self._manager = CatalogManager(catalog, compactor.leave if compactor is not None else lambda root: None)
        self._limits = IngressLimits(catalog.settings)

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
