"""A build of a source over an index that was written to: what was written wins over what the source says."""

import numpy as np

from shoal.errors import InvalidArgument, NotFound
from shoal.index_root import layout, versions
from shoal.index_root.log import Log
from shoal.index_root.log_entry import LogEntry
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexes import precision
from shoal.indexing.carried import Carried
from shoal.indexing.compaction import Borders
from shoal.indexing.last_writes import LastWrites, in_order
from shoal.indexing.plan import Plan
from shoal.shard.stored_rows import StoredRows

REMEDY = "; build with the settings of that version, or leave out all that was written with --drop-live"
"""What to do where something written cannot lie beside what the build makes."""


def over_log(plan: Plan, storage: Storage, drop: bool) -> tuple[Plan, LastWrites, str | None]:
    """Return the plan of a source as one that takes over what was written, with the last writes and a remark.

    It stays as it is where nothing ever was.

    Args:
        plan: Of the source.
        storage: The index root.
        drop: Whether all that was written is left out instead, up to the end of the log.

    Raises:
        InvalidArgument: Something that was written does not fit what the build makes.
        CorruptIndex: An entry of the log is gone.
    """
    manifest = _current(storage)
    after = 0 if manifest is None else manifest.complete_to
    position = Log.open(storage).end(after) if has_log(storage) else after
    if not position:
        return plan, LastWrites(), None
    if manifest is None or drop:
        nothing = Carried(version="", live_only=True, after=position, position=position, rows=[], entries=[position])
        return plan.with_carried(nothing), LastWrites(), f"all that was written up to position {position} is left out"
    last = LastWrites()
    rows = [_live_rows(StoredRows(storage, manifest, entry.shard), plan, last) for entry in manifest.shards]
    if any(rows):
        _require_fitting(plan, manifest)
    borders = Borders(after)
    for entry in in_order(Log.open(storage), after, position):
        _require_same_models(plan, manifest, entry)
        last.add(entry)
        borders.add(entry)
    carried = Carried(
        version=manifest.version,
        live_only=True,
        after=after,
        position=position,
        rows=rows,
        entries=borders.positions(),
    )
    return (
        plan.with_carried(carried),
        last,
        (
            f"{len(last.places):,} documents that were written or deleted up to position {position} stay so "
            "(--drop-live leaves them out)"
        ),
    )


def has_log(storage: Storage) -> bool:
    """Whether anything was ever written to an index root."""
    return storage.exists(layout.log_entry(1)) or any(storage.list(layout.LOG_FLOORS.rstrip("/")))


def _current(storage: Storage) -> Manifest | None:
    try:
        return versions.current_manifest(storage)
    except NotFound:
        return None


def _live_rows(stored: StoredRows, plan: Plan, last: LastWrites) -> int:
    """Note what one shard holds of the log, and return how many rows have to be looked through for it."""
    last.add_deleted(stored.deleted())
    positions = stored.positions(np.arange(stored.count))
    live = np.flatnonzero(positions)
    if not len(live):
        return 0
    ids, _ = stored.passages(live)
    last.add_rows(map(plan.document, ids), positions[live].tolist())
    return stored.count


def _require_fitting(plan: Plan, manifest: Manifest) -> None:
    """Raise InvalidArgument unless rows of a version can lie beside what a plan embeds."""
    reasons = {
        "was built with another encoder": not plan.encoder.matches(manifest.encoder),
        "keeps approximations of its vectors only": precision(manifest.index.kind, manifest.dim) is None,
        "cuts its texts, or does not, unlike this build": (manifest.build.get("chunk_characters") is None)
        != (plan.source.chunk_characters is None),
        "has other token vectors": (manifest.late is not None) != plan.stores_tokens,
    }
    for reason, is_so in reasons.items():
        if is_so:
            raise InvalidArgument(f"{manifest.version}, which holds what was written to it, {reason}{REMEDY}")


def _require_same_models(plan: Plan, manifest: Manifest, entry: LogEntry) -> None:
    """Raise InvalidArgument unless what an entry holds can lie beside what a plan embeds."""
    _require_fitting(plan, manifest)
    if entry.encoder != plan.encoder.digest or (entry.codec is not None) != plan.stores_tokens:
        raise InvalidArgument(f"entry {entry.position} of the log was written with other models{REMEDY}")
