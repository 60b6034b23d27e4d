"""What a build would do and need: `--dry-run`. Nothing is written to the index root."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from jobs.build import tasks
from jobs.build.driver import Builder
from jobs.report import span
from shoal.capacity.planner import sizes
from shoal.index_root import versions
from shoal.index_root.digests import document_digests
from shoal.index_root.storage import Storage
from shoal.indexing.base import open_base
from shoal.indexing.plan import UNIT_PASSAGES, Plan
from shoal.indexing.sample import stratified
from shoal.indexing.token_budget import token_bytes
from shoal.indexing.unit_input import read_unit
from shoal.sources import Rejected
from shoal.sources.listing import describe_left_out
from shoal.system.terminal import format_bytes, printable

SAMPLE = 256
"""Passages that are really encoded for the estimate of time."""
UNITS = 8
"""Units from all over the input whose passages are looked up in the base."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a plan asks for, reckoned from samples of the input."""

    index: str
    plan: str
    files: int
    input_bytes: int
    passages: int
    units: int
    shards: int
    workers: int
    index_kind: str
    dim: int
    shard_bytes: int
    """Vectors, tokens, words and passages of one shard: what serving maps."""
    resident_bytes: int
    """Of these, what every search goes through: the vector index and the words."""
    disk_bytes: int
    """At the peak: committed units and finished shards lie side by side until the version is published."""
    unit_bytes: int
    """Passages and vectors of one unit: what a worker holds besides its model."""
    embed_seconds: float | None
    """From the measured speed of one worker, for the passages that are not copied; None when no passage could be read,
    or the input brings its vectors."""
    published: str | None
    """Version that has been built from this plan already."""
    files_left_out: dict[str, int] = field(default_factory=dict)
    """Files of the source that are no input, by what they are."""
    base: str | None = None
    """Version that vectors are copied from."""
    reused: int = 0
    """Passages whose vectors are copied from there, about."""

    @property
    def title(self) -> str:
        """What the table is about."""
        return f"Plan for {self.index} (dry run: nothing was written)"

    def to_json(self) -> dict[str, Any]:
        """The fields as they are."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Lines of the table."""
        return [
            ("input", f"{self.files:,} files, {format_bytes(self.input_bytes)}"),
            *([("left out", printable(describe_left_out(self.files_left_out)))] if self.files_left_out else []),
            ("passages", f"about {self.passages:,}"),
            ("units", f"about {self.units:,}, {format_bytes(self.unit_bytes)} each in a worker"),
            ("workers", f"{self.workers:,}"),
            ("index", f"{self.index_kind}, {self.dim} dimensions"),
            (
                "shards",
                f"{self.shards:,}, {format_bytes(self.shard_bytes)} each on disk, "
                f"{format_bytes(self.resident_bytes)} of it in memory",
            ),
            ("disk", f"{format_bytes(self.disk_bytes)} in the index root while building"),
            *([("reused", f"about {self.reused:,} vectors of {self.base}")] if self.base is not None else []),
            ("embedding", "time unknown" if self.embed_seconds is None else f"about {span(self.embed_seconds)}"),
            *([("published", f"{self.published} has this plan: nothing to do")] if self.published else []),
        ]


def estimate(builder: Builder) -> Estimate:
    """Plan, and encode a small sample on a worker to learn its speed."""
    plan, settings = builder.with_base(builder.plan()), builder.settings
    texts = [] if plan.source.vectors_field else list(islice(_texts(plan, builder), SAMPLE))
    speed = builder.workplace.run(tasks.encode_speed, settings, texts, **builder.workers.options) if texts else None
    text_bytes = plan.unit_bytes / plan.unit_records
    stored_bytes = 0.0
    if plan.stores_tokens:
        stored_bytes = token_bytes(plan.late, plan.encoder, text_bytes)
    each = sizes(plan.index.index_kind, plan.encoder.dim, text_bytes, plan.lexical.lexical, stored_bytes)
    passages = plan.estimated_passages
    reused = round(passages * _reused_share(plan, builder.storage))
    return Estimate(
        index=builder.storage.uri,
        plan=plan.content_hash,
        files=len(plan.files),
        input_bytes=sum(file.bytes for file in plan.files),
        passages=passages,
        units=plan.estimated_units,
        shards=plan.shards,
        workers=builder.workers.count,
        index_kind=plan.index.index_kind,
        dim=plan.encoder.dim,
        shard_bytes=math.ceil(passages * each.stored / plan.shards),
        resident_bytes=math.ceil(passages * each.resident / plan.shards),
        disk_bytes=math.ceil(passages * (each.stored + each.staged)),
        unit_bytes=math.ceil(passages * each.staged / max(plan.estimated_units, 1)),
        embed_seconds=None if speed is None else round((passages - reused) / (speed * builder.workers.count), 1),
        published=versions.find_plan(builder.storage, plan.content_hash),
        files_left_out=plan.left_out,
        base=plan.base,
        reused=reused,
    )


def _reused_share(plan: Plan, storage: Storage) -> float:
    """Share of the passages that the base holds, of some units from all over the input.

    Of an input that has to be spooled first, of the passages at its beginning.
    """
    base = open_base(plan, storage)
    if base is None:
        return 0.0
    units = (
        [plan.head] if plan.pending else [plan.units[number] for number in stratified(len(plan.units), UNITS, seed=5)]
    )
    seen = copied = 0
    for unit in units:
        items = (item[1] for item in read_unit(plan, unit, storage) if not isinstance(item, Rejected))
        passages = list(islice(items, UNIT_PASSAGES))
        documents = document_digests(plan.document(passage.id) for passage in passages)
        seen += len(passages)
        copied += len(base.look_up(documents, passages).places)
    return copied / max(seen, 1)


def _texts(plan: Plan, builder: Builder) -> Iterator[str]:
    """Texts from the beginning of the input."""
    for item in read_unit(plan, plan.head, builder.storage):
        if not isinstance(item, Rejected):
            yield item[1].content
