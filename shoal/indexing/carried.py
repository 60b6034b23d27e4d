"""What a build carries over from the index root itself: rows of its base, and what the log holds since then."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict

from shoal.shard.writer import BATCH_ROWS

Origin = Literal["source", "base", "log"]
"""Where the passages of a unit come from."""


class Carried(BaseModel):
    """What a plan carries over. Nothing of it is embedded: rows and entries have their vectors.

    The last write of a document counts: a row of the base is left out where the log has a later state of its document,
    and of the log the last state of each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: int
    """Position of the log that the base is complete to."""
    position: int
    """Position of the log that the new version is complete to."""
    rows: list[int]
    """Rows of each shard of the base."""
    entries: list[int]
    """Borders of the units of the log: unit i holds the positions from entries[i] + 1 to entries[i + 1]."""

    def ranges(self) -> Iterator[tuple[Origin, int, int, int]]:
        """Origin, shard of the base (0 for the log) and half-open range, of rows or positions, of each unit."""
        for shard, count in enumerate(self.rows):
            for start in range(0, count, BATCH_ROWS):
                yield "base", shard, start, min(start + BATCH_ROWS, count)
        for before, last in pairwise(self.entries):
            yield "log", 0, before + 1, last + 1
