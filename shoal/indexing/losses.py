"""What a build lost: its rejected and repeated records by reason, and what share of the input they are."""

import re
from collections import Counter
from typing import Any

from pydantic import Field

from shoal.errors import CorruptIndex, NotFound
from shoal.index_root import layout, versions
from shoal.index_root.manifest import Counts, Manifest, Record
from shoal.index_root.storage import Storage
from shoal.indexing.commits import Tally
from shoal.indexing.plan import Plan

MOST_REASONS = 20
"""Reasons that a report tells apart; the records of all further ones are counted together."""
OTHERS = "other reasons"
"""What they are counted as."""

REPEATED = "duplicate id"
"""Reason of a record whose id occurred before."""
_VARIES = re.compile(r"\(fields: [^)]*\)|(?<= is )'(?:[^'\\]|\\.)*'|, first in .*$|\d[\d,.]*")
"""What differs between two records that are lost for one reason: values, sizes, places."""


class Loss(Record):
    """Records that were lost for one reason.

    records: how many. reason: that of the first of them. location: where that one lies, such as `corpus.jsonl:17`.
    """

    records: int
    reason: str
    location: str


class BuildReport(Record):
    """What a build says about its input beside the counts of the manifest: `report.json` of a version."""

    lost: list[Loss] = Field(default_factory=list)
    """Rejected and repeated records by reason, the most frequent first."""
    unreadable: float = 0.0
    """Share of the input's bytes in files of which nothing can be read."""
    documents: int = 0
    """Records that gave passages, repeated ones among them; of texts that were cut one gave several."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """Metadata values that passages lack because they cannot be metadata, by field and reason."""
    files_left_out: dict[str, int] = Field(default_factory=dict)
    """Files of the source that are no input, by what they are: mostly an extension such as `.pdf`."""
    superseded: int = 0
    """Passages of the source, or of the version before, that a later write to the served index has replaced."""
    full: int = 0
    """Passages that were embedded and are as long as the encoder reads, or longer."""
    full_copied: int = 0
    """At most so many of the passages whose vectors were copied, by what the version said that these come from."""
    remarks: list[str] = Field(default_factory=list)
    """What else whoever builds should know, each a sentence, such as fields that filters can do less with."""

    def share(self, counts: Counts) -> float:
        """Share of the input that gave no passage.

        A file that cannot be read is one rejected record, whatever it holds, so that its bytes are counted instead. A
        text that was cut counts once, however many passages it gave.

        Args:
            counts: Those of the version, for the report of a version that has none.
        """
        if self.documents:
            lost = sum(loss.records for loss in self.lost)
            repeated = sum(loss.records for loss in self.lost if loss.reason == REPEATED)
            share = lost / (self.documents + lost - repeated)
        else:
            share = (counts.duplicates + counts.rejected) / max(counts.input, 1)
        return self.unreadable + (1 - self.unreadable) * share


class LossCounter:
    """Groups lost records by their reasons, one by one as they are read; small, whatever the input."""

    def __init__(self) -> None:
        self._groups: dict[str, Loss] = {}
        self._last = ""

    def add(self, record: dict[str, Any]) -> None:
        """Count one record of the report of rejected records; pieces of one text follow one another and count once."""
        location = location_of(record)
        if location == self._last:
            return
        self._last = location
        key = _VARIES.sub("#", record["reason"])
        is_new = key not in self._groups and not record["reason"].startswith(REPEATED)
        if is_new and len(self._groups) >= MOST_REASONS:
            key = OTHERS
        known = self._groups.get(key)
        if known is None:
            reason = OTHERS if key == OTHERS else record["reason"].partition(", first in ")[0]
            known = Loss(records=0, reason=reason, location=location)
        self._groups[key] = known.model_copy(update={"records": known.records + record.get("records", 1)})

    def by_frequency(self) -> list[Loss]:
        """The groups, the largest first."""
        return sorted(self._groups.values(), key=lambda loss: -loss.records)


def count_left_out(plan: Plan, tally: Tally) -> dict[str, int]:
    """Metadata values that passages lack, by field and reason, the most frequent first; columns count with all rows."""
    left_out = Counter(tally.left_out)
    for file in plan.files:
        for column in file.left_out:
            left_out[f"{column}: nested"] += file.rows or 0
    return dict(sorted(left_out.items(), key=lambda item: (-item[1], item[0])))


def location_of(record: dict[str, Any]) -> str:
    """Where a record of the report lies, as people read it: `corpus.jsonl:17`."""
    return ":".join(str(record[name]) for name in ("file", "line", "row") if name in record)


def unreadable_share(plan: Plan) -> float:
    """Share of the input's bytes in files of which nothing can be read."""
    return sum(file.bytes for file in plan.unreadable) / max(sum(file.bytes for file in plan.files), 1)


def older_rejections(storage: Storage, version: str) -> str | None:
    """What to say of a version from before there were reports, if this Shoal may read more of its input than it holds.

    Raises NotFound if the version is not published.
    """
    rejected = versions.read_manifest(storage, version).counts.rejected
    if not rejected or storage.exists(layout.report(version)):
        return None
    return (
        f"an older Shoal built it and rejected {rejected:,} records; this one reads records with nested values, and "
        "with a title alone, that were rejected then: --rebuild reads all of them again"
    )


def read_report(storage: Storage, manifest: Manifest) -> BuildReport:
    """Read the report of a version; an empty one for a version that was published without.

    Raises CorruptIndex when it cannot be read.
    """
    path = layout.report(manifest.version)
    try:
        return BuildReport.model_validate_json(storage.read(path))
    except NotFound:
        return BuildReport()
    except ValueError as error:
        raise CorruptIndex(
            f"{storage.place(path)} is not the report of a build; restore it or build again ({error})"
        ) from error
