"""What compacting the log of an index into a new version takes."""

from pydantic import Field

from shoal.settings.base import Name, Settings
from shoal.settings.build import GateSettings


class DueLimitSettings(Settings):
    """When what was written is worth a compaction: whatever comes first."""

    help_panel = "Due"

    due_rows: int = Field(20_000, ge=1, description="Passages that were written to one shard.")
    due_mib: int = Field(512, ge=1, description="MiB of texts, vectors and token codes that were written.")
    due_replaced: float = Field(
        0.1, gt=0, le=1, description="Share of the version's passages that were replaced or deleted."
    )
    due_hours: float = Field(24.0, ge=0, description="Hours that the oldest write has waited.")


class DueSettings(DueLimitSettings):
    """Whether it has to be worth it."""

    help_panel = "Due"

    if_due: bool = Field(
        False, description="Compact only what is worth it by the other options of this group, and else do nothing."
    )


class SelfCompactionSettings(GateSettings, DueLimitSettings):
    """How a server compacts by itself."""

    help_panel = "Due"

    compact: bool = Field(
        True,
        description="Compact what was written once it is worth it by the other options of this group, in a process of "
        "its own with one thread and low priority.",
    )
    compact_check_s: float = Field(60.0, ge=0.1, le=86_400, description="Seconds between looks whether it is worth it.")


class CompactSettings(GateSettings, DueSettings):
    """Everything that `shoal compact` takes."""

    index: Name = Field(
        description="Index root whose log is compacted: a local path or a URI such as s3://bucket/prefix."
    )
    index_kind: Name | None = Field(
        None,
        description="Index kind of the new version. Default: that of the current one, or by size (auto) where that is "
        "what a build would have chosen.",
    )
    retrain: bool = Field(
        False, description="Train the index kind anew; otherwise what was trained for the current version serves on."
    )
    shards: int | None = Field(
        None, ge=1, le=100_000, description="Shards of the new version. Default: as many as the current one has."
    )
    index_memory_gib: float = Field(
        8.0, gt=0, le=1_000_000, description="Memory that an index kind which is chosen by size stays within, in GiB."
    )
    verify_queries: int = Field(
        100,
        ge=0,
        le=10_000,
        description="Sampled passages for which the index is compared with exact search before publishing.",
    )
    threads: int = Field(1, ge=1, le=256, description="CPU threads of the index kind.")
    activate: bool = Field(True, description="Make the new version current once it is published.")
