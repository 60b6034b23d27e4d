"""What a build says at its end: a table for people, one JSON object for programs."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console

from shoal.index_root import layout
from shoal.indexing.losses import Loss
from shoal.indexing.publish import describe
from shoal.sources.listing import describe_left_out
from shoal.system.terminal import format_bytes, printable

FALLEN = 10
"""Queries that the table names at most, of those that answer worse."""


REASONS = 5
"""Reasons for lost records that the table shows at most."""


@dataclass(frozen=True, slots=True)
class Losses:
    """What part of the input gave no passage.

    share: of the records that were rejected or repeated. allowed: the share that may be lost. refused: the version was
    not made current because of it. reasons: how many records were lost for each reason, the most frequent first.
    """

    share: float
    allowed: float
    refused: bool
    reasons: list[Loss]

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values."""
        reasons = [loss.model_dump() for loss in self.reasons]
        return {"share": self.share, "allowed": self.allowed, "refused": self.refused, "reasons": reasons}

    @property
    def _enough(self) -> float:
        """The least share in whole percent that would let the version pass."""
        return min(math.floor(self.share * 100 + 1) / 100, 1.0)

    def rows(self) -> list[tuple[str, str]]:
        """Lines of the table: the reasons, and what came of them."""
        shown = [
            ("", f"{printable(loss.location)}: {printable(loss.reason)}{_likewise(loss.records - 1)}")
            for loss in self.reasons[:REASONS]
        ]
        if further := sum(loss.records for loss in self.reasons[REASONS:]):
            shown.append(("", f"and {further:,} for other reasons"))
        if self.refused:
            shown.append(
                (
                    "lost",
                    f"{self.share:.1%} of the records, more than the {self.allowed:.1%} of --max-lost: not made "
                    f"current; correct the input or the options, or run again with --max-lost {self._enough:g}",
                )
            )
        return shown


def _likewise(records: int) -> str:
    return f", and {records:,} more like it" if records else ""


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of a build. `built` is false when the same plan had been published before."""

    index: str
    version: str
    plan: str
    built: bool
    activated: bool
    passages: int
    duplicates: int
    rejected: int
    shards: int
    bytes: int
    recall_at_10: float | None
    base: str | None = None
    """Version that vectors were copied from."""
    reused: int = 0
    """Passages whose vectors were copied from there."""
    embedded: int = 0
    """Passages that were encoded."""
    removed: int | None = None
    """Passages of the base that are no more; None without one."""
    units: int = 0
    units_reused: int = 0
    workers: int = 0
    busy: list[float] = field(default_factory=list)
    """Share of its time that each worker encoded, lowest first."""
    passages_per_s: float = 0.0
    """From the start of the plan to the flip of CURRENT."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each stage, and in total."""
    gate: dict[str, Any] | None = None
    """What the gate measured, why it refused the version and which queries fell; None without a gate."""
    rejected_examples: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    """Metadata values that passages lack because they cannot be metadata, by field and reason."""
    files_left_out: dict[str, int] = field(default_factory=dict)
    """Files of the source that are no input, by what they are."""
    full: int = 0
    """Passages that were embedded and are as long as the encoder reads, or longer."""
    remarks: list[str] = field(default_factory=list)
    """What else whoever builds should know, each a sentence."""
    losses: Losses | None = None
    """What part of the input gave no passage, and why."""

    @property
    def refused(self) -> bool:
        """Whether the version was held back, by its gate or because its build lost too much."""
        by_gate = self.gate is not None and not self.gate["passed"]
        return by_gate or (self.losses is not None and self.losses.refused)

    @property
    def title(self) -> str:
        """What the table is about."""
        return f"Index {self.index}"

    def to_json(self) -> dict[str, Any]:
        """The fields as they are."""
        return {**asdict(self), "losses": None if self.losses is None else self.losses.to_json()}

    def rows(self) -> list[tuple[str, str]]:
        """Lines of the table."""
        rows = [
            ("version", f"{self.version} ({'active' if self.activated else 'not activated'})"),
            ("passages", f"{self.passages:,}"),
            ("duplicates", f"{self.duplicates:,}"),
            ("rejected", f"{self.rejected:,}"),
            *self._lost_rows(),
            *([("left out", printable(describe_left_out(self.files_left_out)))] if self.files_left_out else []),
            *self._left_out_rows(),
            *(("note", printable(remark)) for remark in self.remarks),
            ("shards", f"{self.shards:,}"),
            ("size", format_bytes(self.bytes)),
        ]
        if self.base is not None:
            rows.append(
                (
                    "vectors",
                    f"{self.reused:,} reused from {self.base}, {self.embedded:,} embedded; of its passages "
                    f"{self.removed:,} removed",
                )
            )
        if self.recall_at_10 is not None:
            rows.append(("recall@10", f"{self.recall_at_10:.4f} of exact search"))
        rows += _gate_rows(self.gate)
        if self.built:
            reused = f", {self.units_reused:,} of them from an earlier run" if self.units_reused else ""
            rows.append(("units", f"{self.units:,}{reused}"))
            busy = f", encoding {self.busy[0]:.1%} to {self.busy[-1]:.1%} of their time" if self.busy else ""
            rows.append(("workers", f"{self.workers:,}{busy}"))
            rows.append(("seconds", ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in self.seconds.items())))
            rows.append(("speed", f"{self.passages_per_s:,.0f} passages/s"))
        return rows

    def _left_out_rows(self) -> list[tuple[str, str]]:
        rows = [
            ("" if number else "left out", f"{count:,} x metadata {printable(field)}")
            for number, (field, count) in enumerate(list(self.left_out.items())[:REASONS])
        ]
        return [*rows, *([("", f"and {len(self.left_out) - REASONS} more")] if len(self.left_out) > REASONS else [])]

    def _lost_rows(self) -> list[tuple[str, str]]:
        whole = (
            [("", f"each in {self.index}/{layout.rejected(self.version)}")] if self.rejected or self.duplicates else []
        )
        if self.losses is not None and self.losses.reasons:
            return [*whole, *self.losses.rows()]
        return [*whole, *(("", describe(example)) for example in self.rejected_examples)]


def _gate_rows(gate: dict[str, Any] | None) -> list[tuple[str, str]]:
    if gate is None:
        return []
    measured = ", ".join(f"{name} {value:.4f}" for name, value in gate["measured"].items())
    if gate["passed"]:
        passed = [("gate", f"passed: {measured}")]
        if absent := gate["absent"] and gate["absent"]["count"]:
            passed.append(("", f"{absent:,} of {gate['absent']['judged']:,} relevant passages are not in the version"))
        return passed
    rows = [("gate", f"refused: {'; '.join(gate['reasons'])}")]
    for one in gate["fallen"][:FALLEN]:
        before = "" if one["before"] is None else f"{one['before']:.4f} -> "
        rows.append(("", f"{before}{one['now']:.4f} {printable(one['id'])}: {printable(one['text'])}"))
    if len(gate["fallen"]) > FALLEN:
        rows.append(("", f"and {len(gate['fallen']) - FALLEN} more queries"))
    return rows


def print_rows(console: Console, title: str, rows: list[tuple[str, str]]) -> None:
    """Print two columns, each row on one line however long, so that a log keeps them whole."""
    width = max(len(name) for name, _ in rows) + 2
    for line in (title, *(f"{name:<{width}}{value}" for name, value in rows)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def span(seconds: float) -> str:
    """Seconds, for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
