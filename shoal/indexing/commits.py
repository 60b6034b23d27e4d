"""What a running build has finished: one commit record for each unit and each shard, written after their data."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from shoal.index_root import layout
from shoal.index_root.manifest import Record, ShardEntry
from shoal.index_root.storage import Storage
from shoal.metadata import Observed, ObservedType

Counts = NDArray[np.int64]


class RejectedRecord(Record):
    """A record that gave no passage. `record` is its place within the unit, from 1; `records` as in `Rejected`."""

    record: int
    reason: str
    id: str | None = None
    records: int = 1


class UnitCommit(Record):
    """A unit that is embedded."""

    unit: int
    lines: int
    """Places (lines, rows or files) of the unit, so that later units of the file know the lines before them."""
    rows: list[int]
    """Passages for each shard."""
    rejected: list[RejectedRecord]
    fields: dict[str, dict[ObservedType, int]] | None
    """How many values of each type every metadata field has; None if there are too many fields."""
    codec: str | None = None
    """Digest of the codec that has rounded its token vectors; None without these."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """Metadata values that its passages lack, by field and reason, as in `FieldMapping.left_out`."""
    documents: int | None = None
    """Records that gave its passages, of which one that was cut gave several; None if that was not counted."""
    full: int = 0
    """Passages that took all the tokens that the encoder reads: what stands behind these was not read."""
    superseded: int = 0
    """Passages, or records of a source, that a later write to the served index has hidden."""

    @field_validator("fields", mode="before")
    @classmethod
    def _count_kinds(cls, fields: object) -> object:
        """Read what Shoal 0.1 wrote, which did not count them."""
        if not isinstance(fields, dict):
            return fields
        return {name: dict.fromkeys(kinds, 1) if isinstance(kinds, list) else kinds for name, kinds in fields.items()}


class Duplicate(Record):
    """A passage whose id occurred before: one line of its shard's duplicates file. Records count within their units."""

    id: str
    unit: int
    record: int
    first_unit: int
    first_record: int


class NearestSample(Record):
    """What the sampled queries found in one shard. Each list has one row a query, of at most 10 scores, best first."""

    exact: list[list[float]] = Field(default_factory=list)
    """Scores of the nearest passages by exact search."""
    found: list[list[float]] = Field(default_factory=list)
    """Scores that the index gave to the passages it found; it may round them."""
    found_exact: list[list[float]] = Field(default_factory=list)
    """Exact scores of the passages in `found`, in the same order; an upper bound for one far beyond the nearest."""


class Trial(Record):
    """What one shard gave with some search parameters."""

    search: str
    cost: float
    """About how long a query takes, in microseconds; computed and not measured."""
    nearest: NearestSample
    latency_ms: float | None
    """Median search time of one query; None without queries."""


class ShardCommit(Record):
    """A shard that is indexed and stored in the version's folder."""

    version: str
    entry: ShardEntry
    duplicates: int
    text_bytes: int
    known: int = 0
    """Passages whose ids the base of the build holds; 0 without one."""
    reused: int = 0
    """Passages whose vectors were copied from there."""
    codec: str | None = None
    """As in `UnitCommit`."""
    trials: list[Trial]
    """With the parameters of the settings first, then with all others that are tried; the same for every shard."""

    @property
    def queries(self) -> int:
        """Sampled queries that it was measured with."""
        return len(self.trials[0].nearest.exact)

    def without_sample(self) -> "ShardCommit":
        """The commit without its recall samples, which are the larger part of it."""
        return self.model_copy(update={"trials": []})


class Tally:
    """What the units and shards of a plan gave, in 25 bytes a unit however large the corpus.

    fields: the types that values of metadata fields have. left_out: metadata values that passages lack, by field and
    reason. documents: records that gave the passages. full: passages that took all the tokens that the encoder reads.
    superseded: passages and records that a later write to the served index has hidden.

    done: bool (units,). lines, passages, rejected: int64 (units,), 0 for a unit that is not embedded yet.
    shard_rows, shard_passages, shard_duplicates: int64 (shards,); rows = passages + duplicates once a shard is indexed.
    known, reused: int64 (shards,), of the passages, as in `ShardCommit`.
    """

    def __init__(self, units: int, shards: int) -> None:
        self.fields = Observed()
        self.left_out: Counter[str] = Counter()
        self.documents = 0
        self.full = 0
        self.superseded = 0
        self.done: NDArray[np.bool_] = np.zeros(units, np.bool_)
        self.lines: Counts = np.zeros(units, np.int64)
        self.passages: Counts = np.zeros(units, np.int64)
        self.rejected: Counts = np.zeros(units, np.int64)
        self.shard_rows: Counts = np.zeros(shards, np.int64)
        self.shard_passages: Counts = np.zeros(shards, np.int64)
        self.shard_duplicates: Counts = np.zeros(shards, np.int64)
        self.known: Counts = np.zeros(shards, np.int64)
        self.reused: Counts = np.zeros(shards, np.int64)

    def add_unit(
        self,
        unit: int,
        lines: int,
        rows: Counts | list[int],
        rejected: int,
        fields: Mapping[str, Mapping[ObservedType, int]] | None,
        left_out: Mapping[str, int],
    ) -> None:
        """Count one embedded unit. rows: passages for each shard. fields, left_out: as in its commit record."""
        self.fields.merge(fields)
        self.left_out.update(left_out)
        self.done[unit] = True
        self.lines[unit] = lines
        self.passages[unit] = int(np.sum(rows))
        self.rejected[unit] = rejected
        self.shard_rows += np.asarray(rows, np.int64)

    def add_commit(self, commit: UnitCommit) -> None:
        """Count one embedded unit by its commit record."""
        self.add_unit(commit.unit, commit.lines, commit.rows, len(commit.rejected), commit.fields, commit.left_out)
        self.documents += sum(commit.rows) if commit.documents is None else commit.documents
        self.full += commit.full
        self.superseded += commit.superseded

    def add_shard(self, commit: ShardCommit) -> None:
        """Count one indexed shard."""
        self.shard_passages[commit.entry.shard] = commit.entry.count
        self.shard_duplicates[commit.entry.shard] = commit.duplicates
        self.known[commit.entry.shard] = commit.known
        self.reused[commit.entry.shard] = commit.reused


def committed_units(storage: Storage, plan_hash: str) -> list[int]:
    """Numbers of the units that are embedded already, ascending.

    Both files of a unit have to be there: clearing the staging folder may have been interrupted in any order.
    """
    names = set(storage.list(layout.units_dir(plan_hash)))
    return sorted(int(name[:-5]) for name in names if name.endswith(".json") and f"{name[:-5]}.arrow" in names)


def read_unit_commit(storage: Storage, plan_hash: str, unit: int) -> UnitCommit:
    """Read the commit record of a unit. Raises NotFound."""
    return UnitCommit.model_validate_json(storage.read(layout.unit_commit(plan_hash, unit)))


def read_shard_commit(storage: Storage, plan_hash: str, shard: int) -> ShardCommit:
    """Read the commit record of a shard. Raises NotFound."""
    return ShardCommit.model_validate_json(storage.read(layout.shard_commit(plan_hash, shard)))
