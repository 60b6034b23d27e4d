"""Judged passages that a version does not hold: they count as misses, whatever a search finds."""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from shoal.evaluation.dataset import Judgements
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.shard.stored_rows import id_columns


@dataclass(frozen=True, slots=True)
class Absent:
    """Passages that are judged relevant and that a version lacks. ids: theirs, sorted. judged: how many there are."""

    ids: list[str]
    judged: int

    @property
    def share(self) -> float:
        """Share of the relevant passages that is absent."""
        return len(self.ids) / max(self.judged, 1)

    def __str__(self) -> str:
        return (
            f"{len(self.ids):,} of {self.judged:,} passages that are judged relevant are not in the index, such as "
            f"{self.ids[0]!r}"
            if self.ids
            else f"all {self.judged:,} passages that are judged relevant are in the index"
        )


def absent_passages(storage: Storage, manifest: Manifest, judgements: Judgements) -> Absent:
    """Look for the relevant passages of judgements in the shards of a version, until all are there.

    Reads the ids alone. Raises Unavailable when the root cannot be reached, CorruptIndex when a shard cannot be read.
    """
    relevant = {passage for judged in judgements.values() for passage, grade in judged.items() if grade > 0}
    wanted = set(relevant)
    for entry in manifest.shards:
        if not wanted:
            break
        for ids in id_columns(storage, manifest.version, entry.shard):
            wanted -= _held(ids, wanted)
    return Absent(sorted(wanted), len(relevant))


def _held(ids: pa.StringArray, wanted: Iterable[str]) -> set[str]:
    """Which of some ids stand in a column."""
    return set(ids.filter(pc.is_in(ids, pa.array(list(wanted), ids.type))).to_pylist())
