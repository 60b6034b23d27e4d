"""Which services run behind the endpoint of `shoal serve`: one set for each shape of the versions in use. No Ray.

A version of another shape than the one that is served (another number of shards, another encoder) needs replicas of its
own. They start beside the others; the endpoint goes over to them when they have loaded the version, and the others stay
as long as a rollback would return to them. What the endpoint has inside stays as long as it does.
"""

import sys
import time
from collections.abc import Callable
from itertools import count

from shoal.errors import ShoalError
from shoal.serving import Serving, Shape, plan_serving
from shoal.settings import ServeSettings
from shoal.storage import Storage
from shoal.versions import read_current, read_manifest


class Fleets:
    """Starts the services of an index and ends those that no version in use needs.

    plan: the version to begin with. inside: the endpoint serves versions of its shape by itself. start: starts
    services, by a number, and does not wait for them. end: ends them.
    """

    def __init__(
        self,
        settings: ServeSettings,
        plan: Serving,
        start: Callable[[int, Serving], None],
        end: Callable[[int], None],
        inside: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._storage = Storage(settings.index)
        self._start = start
        self._end = end
        self._clock = clock
        self._numbers = count(1)
        self._seen: dict[str, Shape] = {}
        self._shapes: dict[int, Shape] = {}
        self._idle: dict[int, float] = {}
        self._problem: str | None = None
        self._inside = [Shape.of(plan.manifest)] if inside else []
        if not inside:
            self._add(plan)

    def follow(self) -> None:
        """Look at CURRENT once. Never raises: what keeps a version from being served is told on stderr, once."""
        try:
            self._follow()
            self._problem = None
        except ShoalError as error:
            if error.message != self._problem:
                print(f"shoal: {error.message}", file=sys.stderr, flush=True)  # noqa: T201
            self._problem = error.message

    def _follow(self) -> None:
        current = read_current(self._storage)
        if current is None:
            return
        used = [self._shape_of(current.version)]
        if not any(shape.fits(used[0]) for shape in (*self._inside, *self._shapes.values())):
            self._add(plan_serving(self._settings, current.version))
        if current.previous is not None:
            used.append(self._shape_of(current.previous))
        self._end_others(used)

    def _shape_of(self, version: str) -> Shape:
        if version not in self._seen:  # a manifest never changes
            self._seen[version] = Shape.of(read_manifest(self._storage, version))
        return self._seen[version]

    def _add(self, plan: Serving) -> None:
        number = next(self._numbers)
        self._start(number, plan)
        self._shapes[number] = Shape.of(plan.manifest)

    def _end_others(self, used: list[Shape]) -> None:
        """End what serves no version in use, once the longest query that it may still have is over."""
        now = self._clock()
        for number, shape in list(self._shapes.items()):
            if any(shape.fits(one) for one in used):
                self._idle.pop(number, None)
            elif now - self._idle.setdefault(number, now) > self._settings.max_timeout_ms / 1000:
                del self._shapes[number], self._idle[number]
                self._end(number)
