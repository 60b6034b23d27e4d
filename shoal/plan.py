"""The plan of a build: which input, cut into which units, into how many shards, under which hash.

A plan holds one entry for each input file and, for CSV and compressed files, one number for each unit. Nothing is kept
for a record, and the units of plain JSONL, TSV and Parquet files are computed from sizes: the plan of 10 billion passages
in 1,000 files takes a few hundred kilobytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from shoal.fingerprint import Fingerprint
from shoal.settings import BuildSettings, IndexSettings, SourceSettings
from shoal.storage import Storage

# SIGNATURES ONLY, being implemented now (C1). C2 may code against everything below.


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work.

    number: its place in the plan, counted from 0; names its files in staging.
    file: index in `Plan.files` (of the first file, when the unit is a group of text files).
    start, stop: half-open range: bytes of a plain file, rows of a Parquet file, the piece of a spooled file, or files.
    """

    number: int
    file: int
    start: int
    stop: int


class InputFile(BaseModel):
    name: str
    """As users see it: relative to the source folder, or the URI of a remote file."""
    uri: str
    bytes: int
    mtime_ns: int
    # ... how it is cut


class Plan(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    hash: str
    """16 hex digits over everything that decides the content of the index (not version, created_at or cuts)."""
    version: str
    created_at: str
    """UTC, ISO 8601."""
    files: list[InputFile]
    shards: int
    estimated_passages: int
    source: SourceSettings
    """Resolved: format, id_field, title_field and chunk_characters are never left to a default."""
    index: IndexSettings
    encoder: Fingerprint

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide the content, for `Manifest.build`."""

    @property
    def units(self) -> Sequence[Unit]:
        """Lazy: computes each unit when asked for. Only after `spool` (ValueError while `pending`)."""

    @property
    def estimated_units(self) -> int:
        """For --dry-run, known before `spool`."""

    @property
    def pending(self) -> list[int]:
        """Files that need one sequential pass (compressed and CSV files) before their units are known."""

    def place(self, unit: Unit, record: int, before: int) -> dict[str, Any]:
        """Where a record lies: {"file", "line"}, {"file", "row"} for Parquet, {"file"} for text files.

        before: sum of `UnitReader.lines` over the earlier units of the same file (same `unit.file`).
        """

    def to_bytes(self) -> bytes: ...

    @classmethod
    def from_bytes(cls, data: bytes) -> "Plan": ...


def make_plan(settings: BuildSettings, fingerprint: Fingerprint) -> Plan:
    """List the input and cut it into units. Reads only samples. Raises InvalidArgument for no or unreadable input."""
    raise NotImplementedError


def spool(plan: Plan, storage: Storage) -> Plan:
    """Return the plan with its final units: one sequential pass over each pending file. Resumable.

    Compressed files become pieces in staging, CSV files are scanned for record boundaries. `spool_file` does one file, so
    that files can be spooled in parallel.
    """
    raise NotImplementedError


def shard_of(passage_id: str, shards: int) -> int:
    """Return the shard of a passage: blake2b of the id, 8 bytes, little endian, modulo `shards`."""
    raise NotImplementedError
