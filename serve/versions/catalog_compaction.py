"""Which indexes of a catalog on Ray are compacted, and that nothing works on for one that was removed. No Ray.

The replicas of the endpoint serve the catalog, and none of them compacts: one process for all of them does, that which
has started the server. It looks after the indexes that are in the memory of a replica.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

from serve.versions.compacting import Compactor
from shoal.catalog.folder import CatalogFolder
from shoal.errors import ShoalError
from shoal.settings import EndpointSettings

logger = logging.getLogger(__name__)


class CompactedIndexes:
    """The indexes of a server that are compacted: those that were given, and of the catalog those in memory.

    Args:
        settings: Of the server.
        given: The indexes that were given: the root of each by its name, which is None for the default one.
    """

    def __init__(self, settings: EndpointSettings, given: Mapping[str | None, str]) -> None:
        self._given = given
        self._folder = None if settings.catalog is None else CatalogFolder(settings.catalog)
        self._in_memory: dict[str, str] = {}
        self._begun: dict[str, str] = {}
        self._ended: set[str] = set()

    def roots(self) -> list[str]:
        """The index roots that are looked after now. In any thread."""
        return [*self._given.values(), *self._in_memory.values()]

    def problems(self, compactor: Compactor) -> dict[str | None, str]:
        """Why indexes are not compacted that should be, by their names; None names the default one."""
        roots = dict[str | None, str](self._given)
        roots.update(self._in_memory.items())
        problems = {name: compactor.problem(root) for name, root in roots.items()}
        return {name: problem for name, problem in problems.items() if problem is not None}

    def follow(self, compactor: Compactor, loaded: Callable[[], Sequence[str] | None]) -> None:
        """Look once which indexes are in memory, and end what works on one that was removed. Never raises.

        Args:
            compactor: Compacts them.
            loaded: Asks the replicas for the names of those in memory; None if that cannot be told now.
        """
        if self._folder is None:
            return
        try:
            self._leave_removed(compactor, self._folder)
        except (ShoalError, OSError) as error:  # a store that does not answer now
            logger.debug("the catalog is looked at again soon: %s", error)
        names = loaded()
        if names is not None:
            self._in_memory = {name: self._folder.root(name) for name in names}

    def _leave_removed(self, compactor: Compactor, folder: CatalogFolder) -> None:
        """End the compactions of indexes that were removed; at the next look, remove what these have written since."""
        for name in self._ended:
            folder.remove_remains(name)
        self._ended.clear()
        running = compactor.running()
        self._begun = {name: root for name, root in {**self._begun, **self._in_memory}.items() if root in running}
        for name, root in self._begun.items():
            if not folder.holds(name):
                compactor.leave(root)
                self._ended.add(name)
