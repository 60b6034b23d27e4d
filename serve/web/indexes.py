"""The indexes of a server, as the request at hand may see them: the one gate through which every route passes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from serve.dialects.base import Engine
from serve.web.access import as_granted, bound_namespace, may_use
from serve.web.index_paths import asked_index
from shoal.catalog.management import NewIndex
from shoal.catalog.summary import IndexSummary
from shoal.errors import Conflict, InvalidArgument, NotFound, PermissionDenied, Unavailable
from shoal.serving.index_name import DEFAULT_NAME, index_name, no_such_index
from shoal.settings import ServeSettings


class IndexSource(Protocol):
    """Where a server has its indexes from."""

    @property
    def default(self) -> str | None:
        """The index that is asked where a request names none."""
        ...

    def engine(self, name: str) -> Engine | None:
        """Return what answers for an index. Where there is none it is None, or raises NotFound when it is asked."""
        ...

    async def holds(self, name: str) -> bool:
        """Whether there is an index of a name."""
        ...

    async def summaries(self, may_see: Callable[[str], bool]) -> Sequence[IndexSummary]:
        """Summarise the indexes that somebody may see; none is loaded for it."""
        ...

    async def summary(self, name: str) -> IndexSummary:
        """Summarise one index that is there."""
        ...

    async def create(self, new: NewIndex) -> IndexSummary:
        """Make an index. Raises InvalidArgument and Conflict."""
        ...

    async def remove(self, name: str) -> None:
        """Remove an index. Raises NotFound, InvalidArgument and Conflict."""
        ...

    async def ready(self) -> list[str]:
        """Name what is missing until everything can be searched that was given; empty means ready."""
        ...


class Indexes:
    """The indexes of a server, for the request at hand. Calling it gives the engine of the index that this is for.

    A key that is bound to indexes sees no other: of those it hears in the same words as of one that does not exist,
    before anything is looked up, so that it cannot tell whether there is one.
    """

    def __init__(self, source: IndexSource) -> None:
        self._source = source

    @property
    def name(self) -> str:
        """The name of the index that the request is for.

        Raises NotFound without one, and for one that the key is not good for.
        """
        asked = asked_index()
        if asked is not None and not may_use(asked):
            raise self.absent(asked)
        name = asked or self.example  # a default index that the key is not good for is none for it
        if name is None:
            raise NotFound(
                "there is no default index here; ask for one by its name, at /v1/indexes/NAME/..., which "
                "GET /v1/indexes tells"
            )
        return name

    def absent(self, name: str) -> NotFound:
        """What is said of an index that is not there, and of one that the key is not good for."""
        return no_such_index(name, self.example)

    @property
    def example(self) -> str | None:
        """An index that messages may name: the default one, if there is one and the key is good for it."""
        default = self._source.default
        return default if default is not None and may_use(default) else None

    def __call__(self) -> Engine:
        """Return the engine of the index that the request is for. Raises as `name`."""
        return self._engine(self.name)

    def named(self, name: str) -> Engine:
        """Return the engine of an index that a body names; `default` is that of the request. Raises as `name`."""
        if name == DEFAULT_NAME and self.example is not None:
            return self()
        if not may_use(name):
            raise self.absent(name)
        return self._engine(name)

    def _engine(self, name: str) -> Engine:
        engine = self._source.engine(name)
        if engine is None:
            raise self.absent(name)
        return as_granted(engine)

    async def summaries(self) -> Sequence[IndexSummary]:
        """Summarise the indexes that the key is good for."""
        return [_as_granted(summary) for summary in await self._source.summaries(may_use)]

    async def summary(self, name: str) -> IndexSummary:
        """Summarise an index. Raises NotFound, also for one that the key is not good for."""
        if not may_use(name) or not await self._source.holds(name):
            raise self.absent(name)
        return _as_granted(await self._source.summary(name))

    async def check_free(self, name: str) -> None:
        """Raise Conflict where there is an index of a name, as far as the key is good for it."""
        if may_use(name) and await self._source.holds(name):
            raise Conflict(f"there is an index {name!r} already; choose another name", param="name")

    async def create(self, new: NewIndex) -> IndexSummary:
        """Make an index. Raises PermissionDenied for a name that the key is not good for, taken or not."""
        if not may_use(new.name):
            raise PermissionDenied("the API key is good for certain indexes alone, and this is none of them")
        return await self._source.create(new)

    async def remove(self, name: str) -> None:
        """Remove an index. Raises NotFound, also for one that the key is not good for."""
        if not may_use(name) or not await self._source.holds(name):
            raise self.absent(name)
        await self._source.remove(name)

    async def ready(self) -> list[str]:
        """Name what is missing until everything can be searched that was given; empty means ready."""
        return await self._source.ready()


def _as_granted(summary: IndexSummary) -> IndexSummary:
    """A summary that tells the holder of a key that is bound to a namespace nothing of what lies in others."""
    return summary if bound_namespace() is None else replace(summary, passages=None, live=None)


class SingleIndex:
    """The `IndexSource` of a server of one index: over an engine, or a function that gives it when it is needed."""

    def __init__(self, engine: Engine | Callable[[], Engine], settings: ServeSettings) -> None:
        self._engine = engine if callable(engine) else lambda: engine
        self.default: str | None = index_name(settings.index)

    def engine(self, name: str) -> Engine | None:
        """Return the engine of the index; None for another name."""
        return self._engine() if name == self.default else None

    async def holds(self, name: str) -> bool:
        """Whether this is the name of the index."""
        return name == self.default

    async def summaries(self, may_see: Callable[[str], bool]) -> Sequence[IndexSummary]:
        """Summarise the index."""
        assert self.default is not None
        return [await self.summary(self.default)] if may_see(self.default) else []

    async def summary(self, name: str) -> IndexSummary:
        """Summarise the index."""
        return IndexSummary.of(name, "ready", await self._engine().describe())

    async def create(self, new: NewIndex) -> IndexSummary:
        """Refuse to make an index."""
        raise self._refusal()

    async def remove(self, name: str) -> None:
        """Refuse to remove an index."""
        raise self._refusal()

    async def ready(self) -> list[str]:
        """Name what is missing until the index can be searched."""
        return await self._engine().ready()

    def _refusal(self) -> InvalidArgument:
        return InvalidArgument(
            f"this server has the index {self.default!r} alone, and makes and removes none: it has no catalog; start "
            "it with --catalog DIR"
        )


class GivenIndexes:
    """The `IndexSource` of a server of certain indexes, all of which are there for as long as it is.

    Args:
        engines: Gives what answers for each index, by its name, when it is needed.
        names: Of the indexes, the default one first.
        ready: Names what is missing until all of them can be searched.
    """

    def __init__(
        self,
        engines: Callable[[], Mapping[str, Engine]],
        names: Sequence[str],
        ready: Callable[[], Awaitable[list[str]]],
    ) -> None:
        self._engines = engines
        self.names = names
        """Of the indexes, the default one first."""
        self._ready = ready
        self.default: str | None = names[0]

    def engine(self, name: str) -> Engine | None:
        """Return the engine of an index; None for a name of none."""
        return self._engines().get(name)

    async def holds(self, name: str) -> bool:
        """Whether there is an index of a name."""
        return name in self.names

    async def summaries(self, may_see: Callable[[str], bool]) -> Sequence[IndexSummary]:
        """Summarise the indexes that somebody may see."""
        return await asyncio.gather(*(self.summary(name) for name in self.names if may_see(name)))

    async def summary(self, name: str) -> IndexSummary:
        """Summarise an index that is there."""
        try:
            return IndexSummary.of(name, "ready", await self._engines()[name].describe())
        except Unavailable as error:  # none of its versions is served yet, which hides no other index
            return IndexSummary(name, "loading", problem=error.message)

    async def create(self, new: NewIndex) -> IndexSummary:
        """Refuse to make an index."""
        raise self._refusal()

    async def remove(self, name: str) -> None:
        """Refuse to remove an index."""
        raise self._refusal()

    async def ready(self) -> list[str]:
        """Name what is missing until every index can be searched."""
        return await self._ready()

    def _refusal(self) -> InvalidArgument:
        return InvalidArgument(
            "this server has the indexes that it was started with, and makes and removes none: it has no catalog; "
            "start it with --catalog DIR"
        )


class IndexesAndCatalog:
    """The `IndexSource` of a server whose catalog is answered by others than the indexes that it was started with.

    Args:
        given: The indexes that it was started with; None without any, so that there is no default one.
        catalog: Gives the source of its catalog, when it is needed, which knows what is given.
        ready: Names what is missing until everything can be searched that was given.
    """

    def __init__(
        self,
        given: GivenIndexes | None,
        catalog: Callable[[], IndexSource],
        ready: Callable[[], Awaitable[list[str]]],
    ) -> None:
        self._given = given
        self._catalog = catalog
        self._ready = ready
        self.default: str | None = None if given is None else given.default

    def _source(self, name: str) -> IndexSource:
        """The source of an index of a name, or else that of the catalog."""
        return self._given if self._given is not None and name in self._given.names else self._catalog()

    def engine(self, name: str) -> Engine | None:
        """Return what answers for an index. Where there is none, it raises NotFound when it is asked."""
        return self._source(name).engine(name)

    async def holds(self, name: str) -> bool:
        """Whether there is an index of a name."""
        return await self._source(name).holds(name)

    async def summaries(self, may_see: Callable[[str], bool]) -> Sequence[IndexSummary]:
        """Summarise the indexes that somebody may see, those that were given first; none is loaded for it."""
        given = [] if self._given is None else await self._given.summaries(may_see)
        return [*given, *await self._catalog().summaries(may_see)]

    async def summary(self, name: str) -> IndexSummary:
        """Summarise one index that is there."""
        return await self._source(name).summary(name)

    async def create(self, new: NewIndex) -> IndexSummary:
        """Make an index in the catalog. Raises InvalidArgument and Conflict."""
        return await self._catalog().create(new)

    async def remove(self, name: str) -> None:
        """Remove an index of the catalog. Raises NotFound, and Conflict for one that was given."""
        if self._given is not None and name in self._given.names:
            raise Conflict(f"{name!r} was given to the server by --index, and is not removed over HTTP")
        await self._catalog().remove(name)

    async def ready(self) -> list[str]:
        """Name what is missing until everything can be searched that was given."""
        return await self._ready()


def indexes_of(engine: Engine | Callable[[], Engine] | Indexes, settings: ServeSettings) -> Indexes:
    """Return the indexes that are given, or those of a server of one index."""
    return engine if isinstance(engine, Indexes) else Indexes(SingleIndex(engine, settings))
