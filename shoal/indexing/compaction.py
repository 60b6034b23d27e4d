"""Compaction: a build whose input is the current version and what the log of the root holds beyond it."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from shoal import indexes
from shoal.errors import Conflict, CorruptIndex, InvalidArgument, NotFound
from shoal.index_root import layout, versions
from shoal.index_root.log_entry import LogEntry
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexes import _structure, index_kind
from shoal.indexes._auto import AUTO, choose
from shoal.indexing.base import check_shard, damaged
from shoal.indexing.carried import Carried
from shoal.indexing.carry import carry_units
from shoal.indexing.commits import Tally, committed_units
from shoal.indexing.last_writes import EntryReader, LastWrites, in_order
from shoal.indexing.plan import NO_SOURCE, UNIT_BYTES, UNIT_PASSAGES, Plan
from shoal.indexing.stages import publish_units
from shoal.indexing.tokens import inherit_codec
from shoal.settings import CompactSettings, IndexSettings, LateSettings, LexicalSettings, SourceSettings
from shoal.shard.stored_rows import StoredRows

MAKER = "compaction"
"""Who refuses a version that a compaction has made (`shoal.index_root.versions.Refusal`)."""
PLAN_FORMAT = 1
"""Version of the fields of such a plan; another one begins a compaction anew."""


class LogReader(EntryReader, Protocol):
    """The part of the log that a compaction needs (`shoal.index_root.log.Log`)."""

    def end(self) -> int:
        """Position of the last entry; 0 without any."""
        ...


def compact(
    settings: CompactSettings, log: LogReader, judge: Callable[[Manifest], list[str]] | None = None
) -> Manifest | None:
    """Publish a version that holds what the current one and the log hold, and make it current if that is wanted.

    One that was interrupted is continued, and one that was published and not made current is looked at again. Searches
    see the same documents before and after, whether it is made current or not.

    Args:
        settings: Of the compaction.
        log: Of the root.
        judge: Says why a published version shall not be made current; nothing if it shall. What it says is written down
            (`shoal.index_root.versions.refuse`).

    Returns:
        The manifest of the new version; None where the log holds nothing beyond the current one.

    Raises:
        NotFound: There is no current version.
        InvalidArgument: Its index kind keeps no vectors that could be carried over.
        CorruptIndex: A file that is read is damaged, or an entry of the log is gone.
        Conflict: The version was removed meanwhile, or another run publishes the same.
    """
    storage = Storage(settings.index)
    manifest = versions.current_manifest(storage)
    for staged in _staged_plans(storage):
        if staged.version == manifest.version:  # it was killed when nothing else was left to do
            versions.discard_staging(storage, staged.hash)
    plan = _staged(storage, manifest) or _planned(settings, storage, manifest, log)
    if plan is None:
        return None
    is_new = not storage.exists(layout.manifest(plan.version))
    compacted = _run(settings, plan, storage, log)
    reasons = [] if judge is None else judge(compacted)
    if reasons:
        versions.refuse(storage, compacted.version, reasons, MAKER)
    else:
        storage.delete(layout.refusal(compacted.version))
        if settings.activate:
            _activate(storage, plan, compacted, verified=is_new)
    versions.discard_staging(storage, plan.hash)
    return compacted


def _activate(storage: Storage, plan: Plan, compacted: Manifest, *, verified: bool) -> None:
    """Make a compacted version current. Raises Conflict when what it was made of is not current any more.

    verified: whether its files were compared with its manifest just now.
    """
    current = versions.read_current(storage)
    if current is None:
        raise Conflict(f"{storage.place()} has no current version any more: somebody has removed the index meanwhile")
    if current.version not in (plan.base, compacted.version):
        raise Conflict(
            f"{compacted.version} is published, but not current: {current.version} has become so since it was begun; "
            "run it again"
        )
    versions.activate(storage, compacted.version, verified=verified)


def is_under_way(storage: Storage, manifest: Manifest, idle_s: float) -> bool:
    """Whether somebody compacts a version: a compaction in staging was written to within so many seconds."""
    plan = _staged(storage, manifest)
    return plan is not None and storage.idle_s(layout.staging_dir(plan.hash)) < idle_s


def plan_compaction(settings: CompactSettings, base: Manifest, carried: Carried, passages: int) -> Plan:
    """Decide what a compaction makes of a version.

    Args:
        settings: Of the compaction.
        base: The version that it starts from, whose settings are kept.
        carried: What of it and of the log is taken over.
        passages: How many those of the log are, at most.

    Raises:
        InvalidArgument: The index kind of the version keeps no vectors, or the settings name no kind.
    """
    if indexes.precision(base.index.kind, base.dim) is None:
        raise InvalidArgument(
            f"{base.version} keeps approximations of its vectors only (index_kind {base.index.kind}), which cannot be "
            "carried over; build its source again with another --index-kind",
            param="index_kind",
        )
    shards = settings.shards or len(base.shards)
    estimated = base.counts.passages + passages
    index = _index_settings(settings, base, estimated, shards)
    indexes.check(index.index_kind, base.dim, index.index_search)
    now = datetime.now(UTC)
    plan = Plan(
        hash="",
        version="",
        created_at=now.isoformat(timespec="milliseconds"),
        files=[],
        shards=shards,
        estimated_passages=estimated,
        unit_records=UNIT_PASSAGES,
        unit_bytes=UNIT_BYTES,
        source=SourceSettings.model_validate({"source": NO_SOURCE} | _kept(base.build, SourceSettings)),
        index=index,
        lexical=LexicalSettings(lexical=False) if base.lexical is None else base.lexical.settings,
        late=_late_settings(base),
        encoder=base.encoder,
        base=base.version,
        base_passages=base.counts.passages,
        carried=carried,
    )
    body = [PLAN_FORMAT, hashlib.sha256(base.to_bytes()).hexdigest(), carried.model_dump(), plan.settings]
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
    changes = {"hash": digest, "content_hash": digest, "version": versions.make_version(now, digest)}
    return plan.model_copy(update=changes)


def _staged(storage: Storage, manifest: Manifest) -> Plan | None:
    """The plan of a compaction of the current version that was interrupted, if there is one."""
    return next((plan for plan in _staged_plans(storage) if plan.base == manifest.version), None)


def _staged_plans(storage: Storage) -> Iterator[Plan]:
    """The plans of all compactions in staging."""
    for name in storage.list(layout.STAGING):
        try:
            plan = Plan.from_bytes(storage.read(layout.plan(name)))
        except (NotFound, CorruptIndex):  # none, or one of another Shoal
            continue
        if plan.carried is not None and not plan.files:
            yield plan


def _planned(settings: CompactSettings, storage: Storage, base: Manifest, log: LogReader) -> Plan | None:
    """Look through the log once, and leave a plan in staging; None where there is nothing to compact."""
    position = log.end()
    if position <= base.complete_to:
        return None
    last, borders = LastWrites(), Borders(base.complete_to)
    for entry in base.shards:
        last.add_deleted(StoredRows(storage, base, entry.shard).deleted())
    for logged in in_order(log, base.complete_to, position):
        last.add(logged)
        borders.add(logged)
    carried = Carried(
        version=base.version,
        after=base.complete_to,
        position=position,
        rows=[entry.count for entry in base.shards],
        entries=borders.positions(),
    )
    plan = plan_compaction(settings, base, carried, borders.passages)
    if (published := versions.find_plan(storage, plan.hash)) is not None:
        plan = plan.model_copy(update={"version": published})
    last.stage(storage, plan.hash)
    storage.write(layout.plan(plan.hash), plan.to_bytes())
    return plan


class Borders:
    """Cuts a log into units of about UNIT_PASSAGES passages. after: the position that it is read from."""

    def __init__(self, after: int) -> None:
        self._borders = [after]
        self._end = after
        self._waiting = 0
        self.passages = 0
        """Passages of all entries so far."""

    def add(self, entry: LogEntry) -> None:
        """Take an entry into the unit that is open, or begin another one with it."""
        count = sum(len(write.passages) for write in entry.documents)
        if self._waiting and self._waiting + count > UNIT_PASSAGES:
            self._borders.append(self._end)
            self._waiting = 0
        self._waiting += count
        self.passages += count
        self._end = entry.position

    def positions(self) -> list[int]:
        """The borders of all units."""
        return [*self._borders, self._end] if self._end > self._borders[-1] else self._borders


def _run(settings: CompactSettings, plan: Plan, storage: Storage, log: EntryReader) -> Manifest:
    """Carry everything over, index and publish it; what is done already is only looked up."""
    if storage.exists(layout.manifest(plan.version)):
        return versions.read_manifest(storage, plan.version)
    try:
        if plan.stores_tokens:
            inherit_codec(plan, storage)
        _check_base(plan, storage)
        tally = Tally(len(plan.units), plan.shards)
        for commit in carry_units(plan, storage, log):
            tally.add_commit(commit)
        if not settings.retrain:
            _inherit_quantizer(plan, storage)
    except NotFound as error:
        raise Conflict(f"what is compacted was removed meanwhile ({error.message}); run it again") from error
    return publish_units(plan, storage, tally, settings.threads, settings.verify_queries)


def _check_base(plan: Plan, storage: Storage) -> None:
    """Read what is carried over once, before damage is carried over too. Raises CorruptIndex."""
    assert plan.base is not None
    assert plan.carried is not None
    if len(committed_units(storage, plan.hash)) == len(plan.units):
        return
    problems = [problem for shard in range(len(plan.carried.rows)) for problem in check_shard(plan, shard, storage)]
    if problems:
        raise damaged(plan.base, problems)


def _inherit_quantizer(plan: Plan, storage: Storage) -> None:
    """Take over what the base was trained to, for a kind that needs training, so that vectors are rounded as before."""
    assert plan.base is not None
    path = layout.trained_index(plan.hash)
    kind = index_kind(plan.index.index_kind)
    base = versions.read_manifest(storage, plan.base)
    if not kind.TRAINED or storage.exists(path) or base.index.kind != plan.index.index_kind or not base.counts.passages:
        return
    with storage.scratch(layout.scratch(plan.hash)) as folder:
        local = folder / layout.VECTORS
        with local.open("wb") as file:
            for chunk in storage.chunks(f"{layout.shard_dir(base.version, 0)}/{layout.VECTORS}"):
                file.write(chunk)
        storage.write(path, _structure.emptied(local))


def _index_settings(settings: CompactSettings, base: Manifest, estimated: int, shards: int) -> IndexSettings:
    """The index of the new version: of the kind that is asked for, or of the base, or that its size asks for."""
    kept = _kept(base.build, IndexSettings)
    memory = settings.index_memory_gib * 2**30

    def chosen(passages: int, count: int) -> str:
        return choose(passages, count, base.dim, memory)

    kind = settings.index_kind
    if kind is None:
        # A kind that was not what a build chooses by itself was asked for.
        automatic = not base.counts.passages or base.index.kind == chosen(base.counts.passages, len(base.shards))
        kind = AUTO if automatic else base.index.kind
    if kind == AUTO:
        kind = chosen(estimated, shards)
    search = kept.get("index_search", "") if kind == base.index.kind else ""
    return IndexSettings.model_validate({**kept, "index_kind": kind, "index_search": search})


def _late_settings(base: Manifest) -> LateSettings:
    if base.late is None:
        return LateSettings(late_interaction="none")
    return LateSettings(late_interaction="stored", late_dims=base.late.dims, late_bits=base.late.bits)


def _kept(build: Mapping[str, Any], model: type[SourceSettings] | type[IndexSettings]) -> dict[str, Any]:
    """Settings of a build that belong to a model."""
    return {name: build[name] for name in model.model_fields if name in build}
