"""What a build takes."""

from typing import Annotated

from pydantic import Field, StringConstraints

from shoal.settings.base import Name, Settings
from shoal.settings.index import AutoSettings, IndexSettings, LateSettings, LexicalSettings
from shoal.settings.inference import EncoderSettings
from shoal.settings.sources import SourceSettings

GateDemand = Annotated[
    str, StringConstraints(pattern=r"^(qrels|min_ndcg|max_drop|recall|blend)=.+$", strip_whitespace=True)
]
"""One demand on a new version, such as recall=0.95."""


class GateSettings(Settings):
    """What a version has to reach before it is made current."""

    gate: list[GateDemand] | None = Field(
        None,
        description="Demands on a new version, without which it is published but not made current (exit code 3): "
        "recall=0.95 of the vector index; with judged queries, qrels=DIR in BEIR layout or sample_judgements, "
        "min_ndcg=0.5 and max_drop=0.01 against the active version, and blend=FILE to rerank with a learned blend.",
    )
    max_lost: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the records that may be rejected or repeated, and of the passages that a gate judges by "
        "and the version lacks; beyond it a version is published but not made current (exit code 3).",
    )
    sample_judgements: int = Field(
        0, ge=0, le=100_000, description="Make so many known-item queries from the corpus for the gate to judge by."
    )


class BuildSettings(
    GateSettings, AutoSettings, SourceSettings, EncoderSettings, IndexSettings, LexicalSettings, LateSettings
):
    """Everything that `python -m jobs.build_index` and `shoal build` take."""

    index: Name = Field(description="Index root to publish to: a local path or a URI such as s3://bucket/prefix.")
    shards: int | None = Field(
        None, ge=1, le=100_000, description="Shards of the index. Default: one for every million passages (estimated)."
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Embedding workers. Default: one for each GPU, or as many as the cluster's CPUs allow.",
    )
    gpus_per_worker: float | None = Field(
        None, ge=0, le=8, description="GPUs of one embedding worker. Default: 1 if the cluster has GPUs, else 0."
    )
    in_process_mib: float = Field(
        64,
        ge=0,
        le=1_000_000,
        description="Most MiB of a source, and of the version that is current, for which the build runs in one process "
        "without Ray. Larger builds, and those on a machine with a GPU or on a cluster, run on Ray; with 0 all do.",
    )
    verify_queries: int = Field(
        100,
        ge=0,
        le=10_000,
        description="Sampled passages for which the index is compared with exact search before publishing.",
    )
    activate: bool = Field(True, description="Make the new version current once it is published.")
    rebuild: bool = Field(False, description="Build again even if this plan has been published already.")
    reembed: bool = Field(
        False,
        description="Embed every passage. Otherwise texts that have not changed since the current version keep its "
        "vectors, if its encoder is the same.",
    )
    drop_live: bool = Field(
        False,
        description="Leave out all that was written to the index while it was served. Otherwise that wins over the "
        "source, and what was deleted stays so.",
    )
    dry_run: bool = Field(False, description="Print the plan with its memory and time estimate, and stop.")
