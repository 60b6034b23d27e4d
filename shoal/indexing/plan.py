"""The plan of a build: which input, cut into which units, into how many shards, under which hash.

A plan holds one entry for each input file and, for CSV files, one number for each unit; nothing for a record. The
units of other files are computed from sizes: the plan of 10 billion passages in 1,000 files takes some 200 kilobytes.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from itertools import accumulate
from math import ceil
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from shoal.errors import CorruptIndex, InvalidArgument
from shoal.fingerprint import Fingerprint
from shoal.index_root.digests import document_digests
from shoal.index_root.versions import make_version
from shoal.indexes import gives_vectors
from shoal.indexes._auto import AUTO, choose
from shoal.indexing.carried import Carried
from shoal.indexing.source_options import TEXT_CHARACTERS, resolve_source
from shoal.indexing.token_budget import resolved_late
from shoal.indexing.work_units import Behind, ComputedUnits, Unit
from shoal.settings import BuildSettings, IndexSettings, LateSettings, LexicalSettings, SourceSettings
from shoal.sources import documents
from shoal.sources.files import InputFile
from shoal.sources.listing import find_input, remarks_on
from shoal.sources.sampling import Sample, measure

NO_SOURCE = "-"
"""What stands for the input of a plan that reads none."""
PLAN_FORMAT = 1
"""Version of the plan's fields: another one begins a build anew."""
SHARD_PASSAGES = 1_000_000
"""Passages of one shard, when the number of shards is not set."""
UNIT_BYTES = 64 * 2**20
"""Most bytes of one unit: long records make units of fewer passages. By the estimate where units are ranges of bytes or
rows; by what was read, but for the rest of a record, where a file is spooled."""
LARGE_GROUP = 4
"""Units of one Parquet row group beyond which its file is spooled: a unit decodes its row group from the beginning."""
UNIT_PASSAGES = 4096
"""Passages of one unit, when it is not set and the input is large."""
LEAST_UNITS = 32
"""Units that a smaller input is cut into all the same, so that many workers share it."""
_LATER_OPTIONS = {"list_separator": (None,), "cut_by": ("auto", "length"), "piece_ids": ("number",)}
"""Options that are no part of a plan where they have these values, so that versions of before they were are found."""
LEAST_UNIT = 128
"""Passages of a unit that are worth the cost of its commit."""


class Plan(BaseModel):
    """What a build does, decided before it starts."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    hash: str
    """16 hex digits over `content_hash` and `base`, with the first 8 digits of the former; names the staging folder."""
    content_hash: str = ""
    """16 hex digits over all that decides the content of the index: two plans that share it give the same shards, but
    for the last bits of vectors that are copied. Empty in a plan that an older Shoal has left in staging."""
    base: str | None = None
    """Version that vectors of unchanged texts are copied from."""
    base_passages: int = 0
    """Passages of that version."""
    carried: Carried | None = None
    """What is taken over from there and from the log as it is; None for a build of a source alone."""
    version: str
    """Name of the index version to be published; versions sort by time."""
    created_at: str
    """UTC, ISO 8601."""
    files: list[InputFile]
    shards: int
    estimated_passages: int
    unit_records: int
    """Records of one unit."""
    unit_bytes: int
    """Bytes of one unit of a plain JSONL or TSV file; holds about `unit_records` records."""
    source: SourceSettings
    """Resolved: format, id_field, title_field, chunk_characters and unit_passages stand as they are used."""
    index: IndexSettings
    lexical: LexicalSettings
    late: LateSettings = LateSettings(late_interaction="none")
    encoder: Fingerprint
    left_out: dict[str, int] = {}
    """Files of the source that are no input, by what they are: mostly an extension such as `.pdf`."""

    @property
    def stores_tokens(self) -> bool:
        """Whether the shards keep token vectors."""
        return self.late.late_interaction == "stored"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide the content of the index, and where it came from, for the manifest."""
        parts = (self.source, self.index, self.lexical, self.late)
        unread = {"source"} if self.source.source == NO_SOURCE else set()
        return {
            name: value for part in parts for name, value in part.model_dump(mode="json", exclude=unread).items()
        } | {"shards": self.shards}

    @property
    def pending(self) -> list[int]:
        """Indexes of files whose units take a pass over them: compressed files, CSV, Parquet of large row groups."""
        return [index for index, file in enumerate(self.files) if self._count(file) is None]

    @property
    def unreadable(self) -> list[InputFile]:
        """Files of which nothing can be read."""
        return [file for file in self.files if file.unreadable is not None]

    @property
    def remarks(self) -> list[str]:
        """What was assumed of the input, each a sentence for whoever builds."""
        remarks = remarks_on(self.left_out, self.source.format)
        if self.source.format != "tsv":
            return remarks
        plain = [file for file in self.files if not file.quoted]
        quoted = [file for file in self.files if file.quoted]
        said = [
            (plain, "quotes are part of the values"),
            (quoted, "quotes stand around values, as in CSV, and are taken off"),
        ]
        return remarks + [
            f"{len(files):,} TSV files, such as {files[0].name}: by their first records, {meaning}"
            for files, meaning in said
            if files
        ]

    @property
    def estimated_units(self) -> int:
        """About how many units there will be; known before `spool`."""
        return ceil(self.estimated_passages / (self.source.unit_passages or 1)) if self.pending else len(self.units)

    @cached_property
    def units(self) -> Sequence[Unit]:
        """The units in input order, each computed when it is asked for. Raises ValueError while files are pending."""
        if self.carried is None:
            return self._source_units
        carried = list(self.carried.units())
        return Behind(carried, self._source_units) if self.files else carried

    @cached_property
    def _source_units(self) -> Sequence[Unit]:
        if self.source.format == "text":
            return _group(self.files, self.source)
        counts = [self._count(file) for file in self.files]
        if None in counts:
            raise ValueError("the units of a plan are known only after spool()")
        return _Units(self, [count or 0 for count in counts])

    @property
    def head(self) -> Unit:
        """All of the first file that holds anything, to read samples from before `spool`. Not one of `units`."""
        index = next(index for index, file in enumerate(self.files) if file.bytes and file.unreadable is None)
        file = self.files[index]
        if self.source.format == "text":
            return Unit(0, index, index, index + 1)
        if file.compression is not None:
            return Unit(0, index, 0, 0)
        return Unit(0, index, file.first, file.bytes) if file.rows is None else Unit(0, index, 0, file.rows)

    def document(self, passage_id: str) -> str:
        """Return the id of the record that a passage comes from; pieces of a text are numbered behind it."""
        return passage_id if self.source.chunk_characters is None else passage_id.rpartition("#")[0]

    def place(self, unit: Unit, record: int, before: int) -> dict[str, str | int]:
        """Where a record lies: {"file", "line"}; {"file", "row"} in Parquet; {"file"} for all of a file.

        Args:
            record: Its place in the unit.
            before: Sum of `PassageReader.lines` over the earlier units with the same `file`.
        """
        if self.source.format == "text":
            return {"file": self.files[unit.start + record - 1].name}
        file = self.files[unit.file]
        if file.unreadable is not None:
            return {"file": file.name}
        if file.rows is not None:
            return {"file": file.name, "row": before + record}
        return {"file": file.name, "line": file.first_line - 1 + before + record}

    def moved(self, now: "Plan") -> "Plan":
        """Return this plan for where input and model lie now, as another plan of the same hash has found them."""
        files = [file.model_copy(update={"uri": other.uri}) for file, other in zip(self.files, now.files, strict=True)]
        moved = {"files": files, "source": now.source, "encoder": now.encoder, "left_out": now.left_out}
        return self.model_copy(update={**moved, "content_hash": now.content_hash})

    def with_base(self, version: str, passages: int) -> "Plan":
        """Return this plan as one that copies from a version of so many passages.

        It has a staging folder of its own: what was embedded beside copies from another version is not mixed with it.
        """
        digest = hashlib.sha256(f"{self.content_hash} {version}".encode()).hexdigest()
        changes = {"base": version, "base_passages": passages, "hash": self.content_hash[:8] + digest[:8]}
        return self.model_copy(update=changes)

    def with_carried(self, carried: Carried) -> "Plan":
        """Return this plan as one that takes over what was written to the index up to a position of its log.

        Everything written comes from the log, so that its position decides the content, whatever the base.
        """
        body = f"{self.content_hash} log {carried.position} {bool(carried.version)}"
        digest = hashlib.sha256(body.encode()).hexdigest()[:16]
        changes = {"carried": carried, "hash": digest, "content_hash": digest}
        version = self.version.rpartition("-")[0]
        return self.model_copy(update={**changes, "version": f"{version}-{digest[:8]}"})

    def to_bytes(self) -> bytes:
        """Serialise."""
        return self.model_dump_json().encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Plan":
        """Read a plan. Raises CorruptIndex when it is none."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise CorruptIndex(
                f"the plan in staging cannot be read; remove the staging folder of the build: {error}"
            ) from error

    def _count(self, file: InputFile) -> int | None:
        """How many units a file has; None while it is pending."""
        if not file.bytes or self.source.format == "text":
            return 0
        if file.unreadable is not None:
            return 1
        if file.compression is not None or file.group > LARGE_GROUP * self.unit_records:
            return file.pieces
        if file.rows is not None:
            return ceil(file.rows / self.unit_records)
        if self.source.format == "csv" or file.quoted:
            return None if file.offsets is None else len(file.offsets) - 1
        return ceil((file.bytes - file.first) / self.unit_bytes)

    def _bounds(self, file: InputFile, unit: int) -> tuple[int, int]:
        """Range of the file's n-th unit."""
        if file.unreadable is not None:
            return 0, 1
        if file.pieces is not None:
            return unit, unit + 1
        if file.rows is not None:
            return unit * self.unit_records, min((unit + 1) * self.unit_records, file.rows)
        if file.offsets is not None:
            return file.offsets[unit], file.offsets[unit + 1]
        start = file.first + unit * self.unit_bytes
        return start, min(start + self.unit_bytes, file.bytes)


class _Units(ComputedUnits):
    """Units computed from the sizes of files."""

    def __init__(self, plan: Plan, counts: list[int]) -> None:
        self._plan = plan
        self._ends = list(accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def unit(self, number: int) -> Unit:
        """Make the unit of a number from 0 to len - 1."""
        file = bisect_right(self._ends, number)
        start, stop = self._plan._bounds(self._plan.files[file], number - (self._ends[file - 1] if file else 0))
        return Unit(number, file, start, stop)


def make_plan(settings: BuildSettings, fingerprint: Fingerprint, token_width: int = 0) -> Plan:
    """List the input, look at samples of it, and decide how it is cut.

    Deterministic but for `version` and `created_at`.

    Args:
        settings: Of the build.
        fingerprint: Of its encoder.
        token_width: Dimensions of the encoder's token vectors, for late_interaction=auto; 0 if none shall be stored.

    Raises:
        InvalidArgument: There is no input, it may not be read, its format is not clear, or settings contradict one
            another.
        Unavailable: The input cannot be reached.
    """
    listing = find_input(settings.source, settings.format, settings.index)
    source = resolve_source(settings, listing.format)
    plan = plan_sample(measure(listing.files, source), source, settings, fingerprint, token_width)
    return plan.model_copy(update={"left_out": listing.left_out})


def plan_sample(
    sample: Sample, source: SourceSettings, settings: BuildSettings, fingerprint: Fingerprint, token_width: int = 0
) -> Plan:
    """Decide how a measured input is cut; touches no file. `source` is resolved; token_width: see `make_plan`."""
    per_record = 1.0
    if source.chunk_characters is not None:
        per_record = max(1.0, sample.mean_bytes / (source.chunk_characters - source.chunk_overlap))
    estimated = ceil(sample.records * per_record)
    unit_passages = source.unit_passages or max(LEAST_UNIT, min(UNIT_PASSAGES, ceil(estimated / LEAST_UNITS)))
    source = source.model_copy(update={"unit_passages": unit_passages})
    unit_records = max(1, min(round(unit_passages / per_record), int(UNIT_BYTES / max(sample.mean_bytes, 1))))
    now = datetime.now(UTC)
    shards = settings.shards or max(1, ceil(estimated / SHARD_PASSAGES))
    index = settings.part(IndexSettings)
    if index.index_kind == AUTO:
        kind = choose(estimated, shards, fingerprint.dim, settings.index_memory_gib * 2**30)
        index = index.model_copy(update={"index_kind": kind})
    if settings.late_interaction == "stored" and not gives_vectors(index.index_kind, fingerprint.dim):
        raise InvalidArgument(
            "late_interaction=stored scores passages by their vectors too, which an index of "
            f"index_kind={index.index_kind} cannot give back; take another index_kind, or leave late_interaction out",
            param="late_interaction",
        )
    if settings.late_interaction == "none" and fingerprint.late is not None:
        raise InvalidArgument(
            "late_encoder makes token vectors, and with late_interaction=none none are stored; leave one of them out",
            param="late_encoder",
        )
    plan = Plan(
        hash="",
        version="",
        created_at=now.isoformat(timespec="milliseconds"),
        files=sample.files,
        shards=shards,
        estimated_passages=estimated,
        unit_records=unit_records,
        unit_bytes=max(1, round(sample.mean_bytes * unit_records)),
        source=source,
        index=index,
        lexical=settings.part(LexicalSettings),
        late=resolved_late(
            settings, index.index_kind, fingerprint, token_width, (estimated, sample.mean_bytes / per_record)
        ),
        encoder=fingerprint,
    )
    digest = _hash(plan, sample.digest)
    return plan.model_copy(update={"hash": digest, "content_hash": digest, "version": make_version(now, digest)})


def shard_of(document: str, shards: int) -> int:
    """Return the shard of a document: the first 8 bytes of BLAKE2b of its id, little endian, modulo `shards`."""
    return int(document_digests([document])[0]) % shards


def _hash(plan: Plan, sampled: str) -> str:
    # Left out is what changes no more than the last bits of a vector, such as batch_tokens and threads: a build that
    # ran out of memory can be continued with less of it.
    body = {
        "format": PLAN_FORMAT,
        "files": [[file.name, file.bytes, file.mtime_ns, file.unreadable] for file in plan.files],
        "sampled": sampled,
        "source": {
            name: value
            for name, value in plan.source.model_dump(mode="json", exclude={"source"}).items()
            if value not in _LATER_OPTIONS.get(name, ())
        },
        "index": plan.index.model_dump(mode="json"),
        "lexical": plan.lexical.model_dump(mode="json"),
        # The same weights lie under different paths on different machines.
        "encoder": plan.encoder.model_dump(
            mode="json", exclude={"model": True, "sparse": {"model"}, "late": {"model"}}
        ),
        "cut": [plan.shards, plan.unit_records, plan.unit_bytes],
        # Left out where nothing is stored, so that versions of before it could be are found by their plans.
        **({"late": plan.late.model_dump(mode="json")} if plan.stores_tokens else {}),
        # TSV was read without quotes before: what was built so has other passages.
        **({"quoted": True} if any(file.quoted for file in plan.files) else {}),
        # So is Parquet with decimals, for example.
        **({"read_anew": True} if any(file.read_anew for file in plan.files) else {}),
        # What paths say of records was not read before.
        **({"partitions": True} if any(file.partition for file in plan.files) else {}),
        # Pieces of one text were spread over the shards before: what was built so has other shards.
        **({"pieces": "together"} if plan.source.chunk_characters is not None else {}),
        **documents.revision(plan.files, plan.source),
    }
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def _group(files: list[InputFile], source: SourceSettings) -> list[Unit]:
    """Group text files that follow one another into units of about `unit_passages` passages."""
    passage = (source.chunk_characters or TEXT_CHARACTERS) - source.chunk_overlap
    units: list[Unit] = []
    start = size = 0
    for index, file in enumerate(files):
        size += max(1, ceil(documents.text_bytes(file) / passage))
        if size >= (source.unit_passages or 1) or index + 1 == len(files):
            units.append(Unit(len(units), start, start, index + 1))
            start, size = index + 1, 0
    return units
