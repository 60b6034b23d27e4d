"""The catalog of an ingress replica: its indexes are served by engines in the replica itself. No Ray."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from serve.admitted_engine import IngressLimits
from serve.local_indexes import CatalogIndexes
from serve.replicas.noted import NotedCompactions
from shoal.catalog.catalog import Catalog
from shoal.engine.model_pool import Lender
from shoal.errors import ShoalError
from shoal.settings import CatalogSettings, ServeSettings

OPEN_AGAIN_S = 5.0
"""Seconds before a catalog that could not be looked at is looked at again."""

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class CatalogOptions:
    """What an ingress replica needs to know of its catalog.

    Args:
        settings: Of all its indexes; the root in it counts for nothing.
        limits: Where it is, and what may be kept of it in memory.
        elsewhere: Index roots that were given to the server, for which others answer.
    """

    settings: ServeSettings
    limits: CatalogSettings
    elsewhere: Sequence[str] = ()


class ReplicaCatalog:
    """The catalog of an ingress replica. All of its coroutines belong to the event loop that makes it.

    Args:
        options: Which catalog.
        shared: What its indexes have in common with the others of the replica.
        lend: Gives the models of others for an encoder.

    Raises:
        NotFound: There is no such folder on this machine's disk.
    """

    def __init__(self, options: CatalogOptions, shared: IngressLimits, lend: Lender) -> None:
        self.compactions = NotedCompactions()
        """What is told of compactions."""
        catalog = Catalog(options.settings, options.limits, elsewhere=options.elsewhere, lend=lend)
        self.indexes = CatalogIndexes(catalog, self.compactions, shared)
        """Its indexes, for the HTTP layer."""
        self._missing: str | None = "the catalog is being opened"
        self._opening = asyncio.create_task(self._open())

    async def _open(self) -> None:
        while True:
            try:
                await self.indexes.catalog.open()
                self._missing = None
                return
            except ShoalError as error:
                self._missing = f"the catalog: {error}"
                logger.error("the catalog cannot be looked at, which is tried again: %s", error)
            await asyncio.sleep(OPEN_AGAIN_S)

    def missing(self) -> list[str]:
        """Name what is missing until indexes can be asked for; empty means ready."""
        return [] if self._missing is None else [self._missing]

    def loaded_names(self) -> list[str]:
        """Name the indexes that are in memory."""
        return [name for name, entry in self.indexes.catalog.entries.items() if entry.engine is not None]

    def note(self, name: str, problem: str) -> None:
        """Hear what keeps an index from being compacted."""
        if (entry := self.indexes.catalog.entries.get(name)) is not None:
            self.compactions.note(entry.root, problem)

    def close(self) -> None:
        """Close all indexes."""
        self._opening.cancel()
        self.indexes.catalog.close()
