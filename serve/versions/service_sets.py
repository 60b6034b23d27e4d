"""Which services run behind the endpoint of `shoal serve`: one set for each shape of the versions in use. No Ray.

A version of another shape than the one that is served (another number of shards, another encoder) needs replicas of its
own. They start beside the others; the endpoint goes over to them when they have loaded the version, and the others stay
as long as a rollback would return to them. What the endpoint has inside stays as long as it does.
"""

import math
import time
from collections.abc import Callable
from itertools import count

from shoal.errors import ShoalError
from shoal.index_root.storage import Storage
from shoal.index_root.versions import read_current, read_manifest
from shoal.serving.plan import ServingPlan, ServingShape, plan_serving
from shoal.settings import ServeSettings
from shoal.system.terminal import say

REFUSED_S = 60.0
"""Seconds before services that could not be planned or started are tried again."""


class ServiceSets:
    """Starts the services of an index and ends those that no version in use needs.

    Args:
        settings: Of the server.
        plan: The version to begin with.
        start: Starts services, by a number, and does not wait for them.
        end: Ends those of a number.
        failed: Says why those of a number cannot start, None if they may.
        served: Gives the version that the endpoint answers from, None if that cannot be told.
        inside: The endpoint serves versions of the shape of `plan` by itself.
        clock: Seconds from any start.
        name: Of the index, before what is told of it; None where it needs none.
    """

    def __init__(  # noqa: PLR0913 - how services start, end and fail is Ray's business, given as functions
        self,
        settings: ServeSettings,
        plan: ServingPlan,
        start: Callable[[int, ServingPlan], None],
        end: Callable[[int], None],
        failed: Callable[[int], str | None],
        served: Callable[[], str | None],
        inside: bool = False,
        clock: Callable[[], float] = time.monotonic,
        name: str | None = None,
    ) -> None:
        self._settings = settings
        self._storage = Storage(settings.index)
        self._start = start
        self._end = end
        self._failed = failed
        self._served = served
        self._clock = clock
        self._who = "shoal" if name is None else f"shoal: {name}"
        self._numbers = count(1)
        self._seen: dict[str, ServingShape] = {}
        self._shapes: dict[int, ServingShape] = {}
        self._tried: dict[str, float] = {}
        self._idle: dict[int, float] = {}
        self._problem: str | None = None
        self._inside = [ServingShape.of(plan.manifest)] if inside else []
        if not inside:
            self._add(plan)

    def follow(self) -> None:
        """Look at CURRENT once. Never raises: what keeps a version from being served is told on stderr, once."""
        try:
            self._follow()
            self._problem = None
        except Exception as error:  # Ray's own ones too: its controller may be starting again
            problem = error.message if isinstance(error, ShoalError) else f"{type(error).__name__}: {error}"
            if problem != self._problem:
                say(f"{self._who}: {problem}")
            self._problem = problem

    def _follow(self) -> None:
        current = read_current(self._storage)
        if current is None:
            return
        self._end_failed()
        used = [self._shape_of(current.version)]
        if not any(shape.fits(used[0]) for shape in (*self._inside, *self._shapes.values())):
            self._try(current.version)
        if current.previous is not None:
            used.append(self._shape_of(current.previous))
        self._end_others(current.version, used)

    def _shape_of(self, version: str) -> ServingShape:
        if version not in self._seen:  # a manifest never changes
            self._seen[version] = ServingShape.of(read_manifest(self._storage, version))
        return self._seen[version]

    def _try(self, version: str) -> None:
        now = self._clock()
        if now - self._tried.get(version, -math.inf) > REFUSED_S:
            self._tried[version] = now
            self._add(plan_serving(self._settings, version))

    def _add(self, plan: ServingPlan) -> None:
        number = next(self._numbers)
        self._start(number, plan)
        self._shapes[number] = ServingShape.of(plan.manifest)

    def _end_failed(self) -> None:
        for number, shape in list(self._shapes.items()):
            if problem := self._failed(number):
                say(f"{self._who}: nothing can serve {shape}: {problem}")
                self._drop(number)

    def _end_others(self, current: str, used: list[ServingShape]) -> None:
        """End what serves no version in use, once the endpoint has left it and the longest query in it is over."""
        unused = [number for number, shape in self._shapes.items() if not any(shape.fits(needed) for needed in used)]
        # As long as a version is not there yet, the endpoint goes on with whatever it had, CURRENT's previous or not.
        if not unused or self._served() != current:
            self._idle.clear()
            return
        now = self._clock()
        self._idle = {number: self._idle.get(number, now) for number in unused}
        # Each ingress replica looks every watch_s, and only one of them was asked.
        wait_s = self._settings.watch_s + self._settings.max_timeout_ms / 1000
        for number in unused:
            if now - self._idle[number] > wait_s:
                self._drop(number)

    def _drop(self, number: int) -> None:
        self._end(number)
        del self._shapes[number]
        self._idle.pop(number, None)
