"""Problems that whoever runs a server tells its ingress replicas, for those who ask what is wrong."""

import time
from collections.abc import Callable

NOTED_S = 30.0
"""Seconds for which a problem is told that the server has noted; it repeats what lasts every five seconds."""


class NotedProblem:
    """A problem that whoever runs the server tells a replica again and again for as long as it lasts.

    Args:
        clock: Seconds from any start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._text: str | None = None
        self._until = 0.0

    def note(self, text: str) -> None:
        """Tell a problem, until it was not repeated for NOTED_S."""
        self._text, self._until = text, self._clock() + NOTED_S

    @property
    def text(self) -> str | None:
        """What was noted in the last NOTED_S; None if nothing was."""
        return self._text if self._clock() < self._until else None


class NotedCompactions:
    """What a replica knows of the compactions of its catalog, which another process begins: what it was told."""

    def __init__(self) -> None:
        self._problems: dict[str, NotedProblem] = {}

    def note(self, root: str, problem: str) -> None:
        """Hear what keeps an index from being compacted."""
        self._problems = {each: noted for each, noted in self._problems.items() if noted.text is not None}
        self._problems.setdefault(root, NotedProblem()).note(problem)

    @property
    def any_problem(self) -> bool:
        """Whether an index has one."""
        return any(noted.text is not None for noted in self._problems.values())

    def problem(self, root: str) -> str | None:
        """Say what keeps an index from being compacted; None if nothing is known to."""
        noted = self._problems.get(root)
        return None if noted is None else noted.text

    def leave(self, root: str) -> None:
        """Do nothing: who compacts sees that the index is gone (`serve.versions.catalog_compaction`)."""
