"""What a build carries over from the index root itself: rows of its base, and what the log holds since then."""

from collections.abc import Iterator
from itertools import pairwise

from pydantic import BaseModel, ConfigDict

from shoal.indexing.work_units import Origin, Unit
from shoal.shard.writer import BATCH_ROWS


class Carried(BaseModel):
    """What a plan carries over. Rows and entries have their vectors; other models make theirs anew of the texts.

    The last write of a document counts: a row of the base is left out where the log has a later state of its document,
    and of the log the last state of each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    """The base: the version that rows are taken over from."""
    live_only: bool = False
    """Whether only rows count that were written to the served index: the others come from a source again."""
    embedded: bool = False
    """Whether texts are embedded anew, because other models made their vectors or codes than the plan's."""
    after: int
    """Position of the log that the base is complete to."""
    position: int
    """Position of the log that the new version is complete to."""
    rows: list[int]
    """Rows of each shard of the base."""
    entries: list[int]
    """Borders of the units of the log: unit i holds the positions from entries[i] + 1 to entries[i + 1]."""

    def units(self) -> Iterator[Unit]:
        """The units, whose ranges are of rows of the base or of positions of the log.

        Files are negative and ascend, before those of a source: shards of the base, then -1 for the log.
        """
        for number, (origin, file, start, stop) in enumerate(self._ranges()):
            yield Unit(number, file, start, stop, origin)

    def shard(self, file: int) -> int:
        """The shard of the base that a unit of this file holds rows of."""
        return file + len(self.rows) + 1

    def _ranges(self) -> Iterator[tuple[Origin, int, int, int]]:
        for shard, count in enumerate(self.rows):
            for start in range(0, count, BATCH_ROWS):
                yield "base", shard - len(self.rows) - 1, start, min(start + BATCH_ROWS, count)
        for before, last in pairwise(self.entries):
            yield "log", -1, before + 1, last + 1
