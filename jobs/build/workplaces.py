"""Where the steps of a build run: on the workers of a Ray cluster, or, if there is little to do, in this process."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from jobs import session
from jobs.build.embedding import Counts, embed_here, embed_on_ray
from jobs.session import Workers, cause
from shoal.index_root.storage import Storage
from shoal.indexing.plan import Plan
from shoal.settings import BuildSettings


class Workplace(Protocol):
    """Runs steps, which are functions of `jobs.build.tasks`. Each of them raises the ShoalError of its step.

    one_process: whether all steps run in one process, so that what one of them has loaded is there for the next.
    """

    one_process: bool

    def start(self, function: Callable[..., Any], *arguments: Any, **options: float) -> Any:
        """Run a call, whose result may be given to other calls as an argument; options are its resources, for Ray."""
        ...

    def run(self, function: Callable[..., Any], *arguments: Any, **options: float) -> Any:
        """Run a call and return its result."""
        ...

    def spread(
        self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], limit: int, **options: float
    ) -> Iterator[Any]:
        """Run many calls, at most `limit` at a time, and give their results as they come."""
        ...

    def embed(
        self, settings: BuildSettings, plan: Plan, storage: Storage, units: list[int], workers: Workers
    ) -> Iterator[Counts]:
        """Embed and commit units, and give the counts of some as they are done."""
        ...

    def shortage(self, workers: Workers) -> str | None:
        """Say what is lacking for a worker, so that the build would wait for it."""
        ...


class OnRay:
    """The workers of the cluster that `jobs.session.ray_session` has joined."""

    one_process = False

    def start(self, function: Callable[..., Any], *arguments: Any, **options: float) -> Any:
        """Start a task; returns a reference."""
        return session.start(function, *arguments, **options)

    def run(self, function: Callable[..., Any], *arguments: Any, **options: float) -> Any:
        """Run a task and wait for it."""
        return session.run(function, *arguments, **options)

    def spread(
        self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], limit: int, **options: float
    ) -> Iterator[Any]:
        """Run tasks side by side; one whose process or node dies runs again."""
        return session.spread(function, calls, limit, **options)

    def embed(
        self, settings: BuildSettings, plan: Plan, storage: Storage, units: list[int], workers: Workers
    ) -> Iterator[Counts]:
        """Embed in a pool of workers."""
        try:
            yield from embed_on_ray(settings, plan, storage, units, workers)
        except Exception as error:
            raise cause(error) from None

    def shortage(self, workers: Workers) -> str | None:
        """Say what no node has."""
        return session.shortage(workers)


class InProcess:
    """This process, without Ray: one step after the other, and units in threads."""

    one_process = True

    def start(self, function: Callable[..., Any], *arguments: Any, **options: float) -> Any:
        """Make the call; returns the result itself."""
        try:
            return function(*arguments)
        except Exception as error:
            raise cause(error) from None

    run = start

    def spread(
        self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], limit: int, **options: float
    ) -> Iterator[Any]:
        """Make the calls one after the other. Each may have threads of its own."""
        return (self.start(function, *arguments) for arguments in calls)

    def embed(
        self, settings: BuildSettings, plan: Plan, storage: Storage, units: list[int], workers: Workers
    ) -> Iterator[Counts]:
        """Embed in threads."""
        try:
            yield from embed_here(settings, plan, storage, units)
        except Exception as error:
            raise cause(error) from None

    def shortage(self, workers: Workers) -> str | None:
        """Nothing ever: `embedding_workers` has compared with this machine."""
        return None
