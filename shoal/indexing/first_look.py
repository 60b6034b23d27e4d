"""A look at the first records of the input before any work, with a proposal where most of them would be lost."""

from dataclasses import dataclass, field
from typing import NamedTuple

from shoal.errors import InvalidArgument
from shoal.indexing.losses import LossCounter
from shoal.indexing.source_options import resolve_source
from shoal.settings import BuildSettings, SourceSettings
from shoal.sources.fields import BadRecord, FieldMapping
from shoal.sources.listing import find_input
from shoal.sources.preview import first_records
from shoal.sources.proposals import Fields

HOPELESS = 0.5
"""Share of lost records beyond which a build is not begun: the first records need not be like the rest."""
_REASONS = 3
"""Reasons that a message names at most."""


class FirstLook(NamedTuple):
    """What is known of an input before any work.

    remarks: what whoever builds should know, each a sentence. bytes: of its files, as they are stored.
    """

    remarks: list[str]
    bytes: int


@dataclass(slots=True)
class _Look:
    """What the first records gave."""

    fields: Fields = field(default_factory=Fields)
    losses: LossCounter = field(default_factory=LossCounter)
    records: int = 0
    lost: int = 0


def look_at_input(settings: BuildSettings) -> FirstLook:
    """List the input, and read its first records as a build would.

    Raises:
        InvalidArgument: More than half of them, and more than `max_lost`, would be lost; it says why and proposes
            options. Also what listing the input and resolving the options raise.
        Unavailable: The input cannot be reached.
    """
    listing = find_input(settings.source, settings.format, settings.index)
    source = resolve_source(settings, listing.format)
    size = sum(file.bytes for file in listing.files)
    if listing.format == "text":
        return FirstLook([], size)
    look = _Look()
    mapping = FieldMapping(
        source.model_copy(update={"vectors_field": None}), 0, limit_text=source.chunk_characters is None
    )
    seen: dict[str, str] = {}
    for location, fields in first_records(listing.files, source):
        look.records += 1
        reason = fields if isinstance(fields, str) else None
        if isinstance(fields, dict):
            look.fields.see(dict(fields))
            try:
                identity = mapping.passage(fields).id
                if identity in seen:
                    reason = f"duplicate id, first in {seen[identity]}"
                seen.setdefault(identity, ":".join(map(str, location.values())))
            except BadRecord as bad:
                reason = bad.reason
        if reason is not None:
            look.lost += 1
            look.losses.add({**location, "reason": reason})
    return FirstLook(_judge(look, source, settings.max_lost), size)


def _judge(look: _Look, source: SourceSettings, max_lost: float) -> list[str]:
    remarks = [
        f"the field {name} holds dates such as 20230719; --metadata-types {name}:timestamp lets filters compare them"
        for name in look.fields.basic_dates(source)
    ]
    share = look.lost / max(look.records, 1)
    if share <= max_lost:
        return remarks
    reasons = "; ".join(
        f"{loss.location}: {loss.reason}" + (f", and {loss.records - 1:,} more like it" if loss.records > 1 else "")
        for loss in look.losses.by_frequency()[:_REASONS]
    )
    options = look.fields.propose(source)
    if source.format in ("csv", "tsv") and source.columns is None and look.fields.look_like_values():
        options = ["--columns with a name for each column, such as id,text: the first line seems to be no header"]
    message = f"{look.lost:,} of the first {look.records:,} records give no passage ({reasons})"
    if described := look.fields.describe():
        message += f"; their fields are {described}"
    if options:
        message += f"; try {' '.join(options)}"
    if share <= HOPELESS:
        return [message, *remarks]
    remedy = "correct the input or the options, or build what there is with --max-lost 1"
    raise InvalidArgument(f"{message}; nothing was built: {remedy}", param="source")
