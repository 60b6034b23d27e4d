"""Which index version is served: following CURRENT, activating, rolling back. No Ray; tested with fakes.

A version goes live in this order, so that no query ever finds it half there: every replica of every shard loads it,
CURRENT is replaced, new queries name it, and what is neither current nor previous is unloaded.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from serve.versions.discovery import FindServices, ServiceSet
from serve.versions.liveness import LivenessTracker
from shoal.engine.description import IndexDescription
from shoal.errors import Conflict, DeadlineExceeded, EncoderMismatch, NotFound, ShoalError, Unavailable
from shoal.index_root import versions
from shoal.index_root.manifest import TEXT_FIELD, Manifest
from shoal.index_root.storage import Storage
from shoal.search.live_index import LiveIndex
from shoal.serving.plan import ServingShape

logger = logging.getLogger("ray.serve")

PREPARE_S = 600.0
"""How long the shards may take to load a version, in seconds. Loading goes on beyond it: trying again finds it done."""
RETIRE_S = 10.0
"""How long replicas may take to close versions that nothing needs, in seconds."""
START_S = 0.2
"""Seconds between tries as long as nothing is served yet: replicas come up one by one."""
REFUSED_S = 60.0
"""Seconds before a version that was found broken is tried again: finding that out reads all of it."""

PATIENCE_S = 5.0
"""Seconds that a new ingress waits for all shards of the current version, before it makes do with what there is."""

REMEDY = (
    "`shoal serve` starts replicas for it beside these once it is current (`shoal index activate` on the index root); "
    "on a cluster deploy them as a second application"
)
"""What to do about a version that needs other services than those that run."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A version that replicas have loaded, but for shards that do not answer."""

    services: ServiceSet
    manifest: Manifest
    absent: Sequence[int]


class Activation:
    """Keeps one ingress replica on the version that CURRENT names.

    Args:
        storage: The index root.
        own_services: Those of the ingress's own application, if it has any.
        switch: Called with services, the manifest of the version that new queries shall be answered from, and the
            numbers of shards that do not answer yet.
        find_services: Gives others, the same ones again as long as they are there.
        clock: Seconds, what deadlines are compared with.
        prepare_more: What else is done before a version is served, once its shards have loaded it.
    """

    def __init__(
        self,
        storage: Storage,
        own_services: ServiceSet | None,
        switch: Callable[[ServiceSet, Manifest, Sequence[int]], None],
        find_services: FindServices,
        clock: Callable[[], float] = time.monotonic,
        prepare_more: Callable[[Manifest], Awaitable[None]] | None = None,
    ) -> None:
        self._storage = storage
        self._own_services = self._services = own_services
        self._switch = switch
        self._find_services = find_services
        self._clock = clock
        self._prepare_more = prepare_more
        self._lock = asyncio.Lock()
        self._liveness = LivenessTracker(clock)
        self._manifest: Manifest | None = None
        self._previous: str | None = None
        self._problem: str | None = None
        self._refused: tuple[str | None, float, str] = (None, 0.0, "")
        self._since: float | None = None
        self._fell_back = False
        self.settled = asyncio.Event()
        """Set once a version is served, or there is nothing to wait for."""

    async def activate(self, version: str) -> None:
        """Serve a published version. Raises NotFound, Conflict, EncoderMismatch, CorruptIndex, DeadlineExceeded."""
        async with self._lock:
            ready = await self._prepare(version)
            current = await asyncio.to_thread(versions.activate, self._storage, version)
            await self._serve(ready, current.previous)

    async def rollback(self) -> None:
        """Serve the previous version again. Raises Conflict when there is none."""
        async with self._lock:
            current = await asyncio.to_thread(versions.read_current, self._storage)
            if current is None or current.previous is None:
                place = self._storage.place()
                raise Conflict(f"{place} has no previous version to roll back to; activate one by name")
            ready = await self._prepare(current.previous)
            # By its name: a build may have made another version current while this one was loaded.
            current = await asyncio.to_thread(versions.activate, self._storage, ready.manifest.version)
            await self._serve(ready, current.previous)

    async def watch(self, every_s: float) -> None:
        """Follow CURRENT until cancelled."""
        while True:
            waited = self._has_waited()  # before: only then has this look made do with what there is
            await self.follow()
            if waited:
                self.settled.set()
            await asyncio.sleep(every_s if self._manifest else min(START_S, every_s))

    async def follow(self) -> None:
        """Look at CURRENT once and serve what it names.

        Never raises: a version that cannot be served is a problem that `describe` and the log tell.
        """
        async with self._lock:
            self._since = self._since or self._clock()
            try:
                current = await asyncio.to_thread(versions.read_current, self._storage)
                if current is None:
                    raise NotFound(f"{self._storage.place()} has no current version; build or activate one")
            except Exception as error:
                self._set_problem(f"CURRENT cannot be served: {error}")
                return
            if self._manifest is not None and self._manifest.version == current.version:
                self._previous, self._problem = current.previous, None
                await self._follow_services(self._manifest)
            elif not self._refuses(current.version):
                await self._go_to(current)
            elif self._manifest is None and current.previous is not None:  # its shards may have been starting too
                self._set_problem(await self._fall_back(current.previous, self._refused[2], None))

    def _has_waited(self) -> bool:
        return self._since is not None and self._clock() - self._since > PATIENCE_S

    async def _go_to(self, current: versions.Current) -> None:
        # Other ingress replicas serve the current version: one that starts should not differ for a moment's sake.
        partly = (self._manifest is None or self._fell_back) and self._has_waited()
        try:
            await self._serve(await self._prepare(current.version, self._patience_s(), partly), current.previous)
        except Exception as error:
            problem = f"{current.version} cannot be served: {error}"
            lasts = _is_permanent(error)
            if lasts:
                self._refused = (current.version, self._clock() + REFUSED_S, problem)
            if self._manifest is None and current.previous is not None and (lasts or self._has_waited()):
                problem = await self._fall_back(current.previous, problem, None if lasts else current.version)
            self._set_problem(problem)

    async def _follow_services(self, manifest: Manifest) -> None:
        """Go over to other services of the version that is served when those beside this ingress were replaced."""
        if self._services is self._own_services:
            return
        try:
            other = await self._find(ServingShape.of(manifest))
            if other is not None and other is not self._services:
                await self._serve(_Ready(other, manifest, await self._load(other, manifest.version)), self._previous)
        except Exception as error:
            self._set_problem(f"{manifest.version} cannot be served: {error}")

    def _refuses(self, version: str) -> bool:
        refused, until, _ = self._refused
        return version == refused and self._clock() < until

    async def missing(self, deadline: float) -> list[str]:
        """Name what keeps the active version from being searched completely."""
        if self._manifest is None or self._services is None:
            return [self._problem or "the index version is being loaded"]
        version, shards = self._manifest.version, self._services.shards
        held = await asyncio.gather(*(shard.holds(version, deadline) for shard in shards), return_exceptions=True)
        return [
            str(answer) if isinstance(answer, ShoalError) else f"shard {number} has not loaded version {version}"
            for number, answer in enumerate(held)
            if answer is False or not self._liveness.is_alive((version, number), answer)
        ]

    @property
    def text_field(self) -> str:
        """The field that holds the text of records; that of most before a version is served."""
        return TEXT_FIELD if self._manifest is None else self._manifest.text_field

    def describe(self, reranker: str | None, live: LiveIndex | None = None) -> IndexDescription:
        """Describe what is served, by the name of the reranker in use. Raises Unavailable before a version is.

        live: what was written since.
        """
        if self._manifest is None:
            raise Unavailable(self._problem or "the index version is being loaded; try again", retry_after_s=START_S)
        return IndexDescription.of(self._manifest, self._previous, reranker, self._problem, live)

    def _patience_s(self) -> float:
        """How long a look waits for the shards; while nothing is served, it does not wait for one that hangs."""
        if self._manifest is not None or self._since is None:
            return PREPARE_S
        return max(1.0, PATIENCE_S - (self._clock() - self._since))

    async def _prepare(self, version: str, patience_s: float = PREPARE_S, partly: bool = False) -> _Ready:
        manifest = await asyncio.to_thread(versions.read_manifest, self._storage, version)
        services = await self._services_for(manifest)
        absent = await self._load(services, version, patience_s, partly)
        if self._prepare_more is not None:
            await self._prepare_more(manifest)
        return _Ready(services, manifest, absent)

    async def _load(
        self, services: ServiceSet, version: str, patience_s: float = PREPARE_S, partly: bool = False
    ) -> list[int]:
        """Load a version in every shard.

        Args:
            partly: Shards that do not answer within `patience_s` may come when they can, as long as one has answered.

        Returns:
            Their numbers.
        """
        deadline = self._clock() + patience_s
        outcomes = await asyncio.gather(
            *(shard.prepare(version, deadline) for shard in services.shards), return_exceptions=True
        )
        errors = {number: outcome for number, outcome in enumerate(outcomes) if isinstance(outcome, BaseException)}
        come_later = all(isinstance(error, Unavailable | DeadlineExceeded) for error in errors.values())
        if errors and not (partly and come_later and len(errors) < len(outcomes)):
            raise max(errors.values(), key=_is_permanent)
        for number, error in errors.items():
            logger.error("version %s is served without shard %d: %s", version, number, error)
        for number in set(range(len(outcomes))) - errors.keys():
            self._liveness.is_alive((version, number), True)
        return list(errors)

    async def _find(self, shape: ServingShape) -> ServiceSet | None:
        return await self._find_services(shape, self._services if self._manifest is not None else None)

    async def _services_for(self, manifest: Manifest) -> ServiceSet:
        """Replicas that can serve a version. Raises Conflict, or EncoderMismatch, if there are none yet."""
        shape = ServingShape.of(manifest)
        for services in (self._services, self._own_services):
            if services is not None and services.shape.fits(shape):
                return services
        if other := await self._find(shape):
            return other
        version, own = manifest.version, self._services.shape if self._services is not None else None
        kind: type[Conflict] = Conflict
        if own is None:
            text = f"version {version} waits for replicas for {shape}"
        elif own.encoder.matches(shape.encoder):
            text = f"version {version} has {shape.shards} shards and this server {own.shards}"
        else:
            kind = EncoderMismatch
            text = f"version {version} was built with {shape.encoder}, this server encodes queries with {own.encoder}"
        raise kind(f"{text}; {REMEDY}", retry_after_s=START_S)

    async def _serve(self, ready: _Ready, previous: str | None) -> None:
        service_sets = dict.fromkeys(filter(None, (self._own_services, self._services, ready.services)))
        self._go_over(ready, previous)
        keep = [ready.manifest.version, *([previous] if previous else [])]
        deadline = self._clock() + RETIRE_S
        # A replica that misses this keeps a version too long, until the next one; nothing else depends on it.
        shards = [shard for services in service_sets for shard in services.shards]
        await asyncio.gather(*(shard.retire(keep, deadline) for shard in shards), return_exceptions=True)

    def _go_over(self, ready: _Ready, previous: str | None) -> None:
        self._switch(ready.services, ready.manifest, ready.absent)
        self._services, self._manifest, self._previous, self._problem = ready.services, ready.manifest, previous, None
        self._fell_back = False
        self.settled.set()
        logger.info("serving index version %s", ready.manifest.version)

    async def _fall_back(self, previous: str, problem: str, current: str | None) -> str:
        """Serve the version before one that cannot be, as the replicas do that were there before this one started.

        Args:
            current: The version wanted, unless it is broken. If both have one shape, the same services are missing for
                both, and when they come they shall serve that one. Nothing is unloaded: other ingress replicas may
                serve a broken version from files that were whole when opened.

        Returns:
            The problem that is left.
        """
        try:
            if current is not None and (await self._shape(previous)).fits(await self._shape(current)):
                return problem
            self._go_over(await self._prepare(previous, self._patience_s(), self._has_waited()), None)
            self._fell_back = True
        except Exception as error:
            return f"{problem}; nor can the version before it: {error}"
        return problem

    async def _shape(self, version: str) -> ServingShape:
        return ServingShape.of(await asyncio.to_thread(versions.read_manifest, self._storage, version))

    def _set_problem(self, problem: str) -> None:
        if problem != self._problem:
            logger.error("%s", problem)
        self._problem = problem


def _is_permanent(error: BaseException) -> bool:
    """Whether a version is broken, so that trying again soon is in vain."""
    return isinstance(error, Conflict | NotFound) and error.retry_after_s is None
