"""One index of a catalog, and what of it is in memory."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from shoal.engine.engine import LocalEngine
from shoal.errors import ShoalError
from shoal.index_root import versions
from shoal.index_root.storage import Storage
from shoal.records import ScoreScale

OVERHEAD_BYTES = 2**20
"""Memory of an index beside its files: threads, caches, objects; measured by benchmarks/catalog.py."""


@dataclass(slots=True)
class IndexEntry:
    """One index of a catalog.

    Args:
        name: Of the index.
        root: Its path or URI.
        is_given: Whether it was given by its root, and stays in memory.
        engine: What answers; None while it is not loaded.
        loading: The task that loads it, while it does.
        uses: Requests that have the engine, or wait for it.
        last_use: When the last of them ended, by the clock of the catalog.
        memory_bytes: About what it takes, or will once it is loaded; 0 while it takes nothing.
        failure: Why it could not be loaded; None if that was not tried, or went well.
        failed_at: When that was, by the clock of the catalog.
        scale: Where the scores of its reranker lie, as far as is known.
        is_removed: Whether it is being removed, and there for nobody any more.
        is_retired: Whether it is not that of its name any more, and is unloaded once nobody uses it.
        unused: Is set while nobody uses it.
        closed: Engines that were closed, and may still write to the root what they had begun.
    """

    name: str
    root: str
    is_given: bool = False
    engine: LocalEngine | None = None
    loading: "asyncio.Task[None] | None" = None
    uses: int = 0
    last_use: float = 0.0
    memory_bytes: int = 0
    failure: ShoalError | None = None
    failed_at: float = 0.0
    scale: ScoreScale | None = None
    is_removed: bool = False
    is_retired: bool = False
    unused: asyncio.Event = field(default_factory=asyncio.Event)
    closed: set[LocalEngine] = field(default_factory=set)

    @contextmanager
    def use(self) -> Iterator[None]:
        """Count a request, so that the engine stays until it has ended."""
        self.uses += 1
        self.unused.clear()
        try:
            yield
        finally:
            self.uses -= 1
            if not self.uses:
                self.unused.set()

    @property
    def is_evictable(self) -> bool:
        """Whether the engine may be closed now."""
        return self.engine is not None and not self.uses and not self.is_given

    def unload(self) -> None:
        """Close the engine. Nobody may use it."""
        engine, self.engine = self.engine, None
        self.memory_bytes = 0
        if engine is not None:
            engine.close()
            self.closed.add(engine)

    def join(self) -> None:
        """Wait, in any thread, until no engine that was closed writes any more."""
        for engine in list(self.closed):
            engine.join()
            self.closed.discard(engine)


def expected_bytes(root: str) -> int:
    """Count about how much memory the current version of an index root will take. Raises what reading it raises."""
    manifest = versions.current_manifest(Storage(root))
    return OVERHEAD_BYTES + sum(file.bytes for file in manifest.all_files())
