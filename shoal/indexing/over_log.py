"""A build of a source over an index that was written to: what was written wins over what the source says."""

from collections.abc import Iterable, Sequence

import numpy as np

from shoal.errors import InvalidArgument, NotFound
from shoal.index_root import layout, versions
from shoal.index_root.log import Log
from shoal.index_root.log_entry import LogEntry
from shoal.index_root.manifest import LateInfo, Manifest
from shoal.index_root.storage import Storage
from shoal.indexes import precision
from shoal.indexing.carried import Carried
from shoal.indexing.compaction import Borders
from shoal.indexing.last_writes import LastWrites, in_order
from shoal.indexing.plan import Plan
from shoal.records import Passage
from shoal.shard.stored_rows import StoredRows

REMEDY = "; build with the settings of that version, or leave out all that was written with --drop-live"
"""What to do where something written cannot lie beside what the build makes."""


def over_log(plan: Plan, storage: Storage, drop: bool, reembed: bool = False) -> tuple[Plan, LastWrites, str | None]:
    """Return the plan of a source as one that takes over what was written, with the last writes and a remark.

    It stays as it is where nothing ever was. What other models have made is embedded anew.

    Args:
        plan: Of the source.
        storage: The index root.
        drop: Whether all that was written is left out instead, up to the end of the log.
        reembed: Whether all that was written is embedded anew, whatever made its vectors.

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
    last, borders, written = LastWrites(), Borders(after), _Written(plan, manifest, reembed)
    rows = [_live_rows(StoredRows(storage, manifest, entry.shard), written, last) for entry in manifest.shards]
    for entry in in_order(Log.open(storage), after, position):
        written.add_entry(entry)
        last.add(entry)
        borders.add(entry)
    written.require_fitting()
    carried = Carried(
        version=manifest.version,
        live_only=True,
        embedded=written.must_be_embedded,
        after=after,
        position=position,
        rows=rows,
        entries=borders.positions(),
    )
    how = ", their texts embedded anew," if carried.embedded else ""
    return (
        plan.with_carried(carried),
        last,
        (
            f"{len(last.places):,} documents that were written or deleted up to position {position} stay so{how} "
            "(--drop-live leaves them out)"
        ),
    )


class _Written:
    """What was written to an index, beside what a plan makes: whether it fits, and whether its vectors do.

    Args:
        plan: Of the source.
        manifest: Of the version that holds a part of it, and whose log holds the rest.
        reembed: Whether it is embedded anew in any case.
    """

    def __init__(self, plan: Plan, manifest: Manifest, reembed: bool) -> None:
        self.plan = plan
        self._manifest = manifest
        self._is_there = False
        self._without_text: str | None = None
        late = LateInfo(dims=plan.late.late_dims, bits=plan.late.late_bits) if plan.stores_tokens else None
        self.must_be_embedded = (
            reembed
            or not plan.encoder.matches(manifest.encoder)
            or precision(manifest.index.kind, manifest.dim) is None
            or manifest.late != late
        )
        """Whether the vectors and codes that it has are not those that the plan makes."""

    def add_rows(self, ids: Sequence[str], contents: Sequence[str]) -> None:
        """Take rows of the version into account, by the ids of their passages and what an encoder reads of them."""
        self._is_there = self._is_there or bool(ids)
        self._see(zip(ids, contents, strict=True))

    def add_entry(self, entry: LogEntry) -> None:
        """Take an entry of the log into account."""
        self._is_there = True
        if entry.encoder != self.plan.encoder.digest or (entry.codec is not None) != self.plan.stores_tokens:
            self.must_be_embedded = True
        passages = [passage for write in entry.documents for passage in write.passages]
        self._see((each.id, Passage(each.id, each.text, each.title, {}).content) for each in passages)

    def _see(self, passages: Iterable[tuple[str, str]]) -> None:
        self._without_text = self._without_text or next((id_ for id_, content in passages if not content.strip()), None)

    def require_fitting(self) -> None:
        """Raise InvalidArgument unless it can lie beside what the plan makes."""
        plan, manifest = self.plan, self._manifest
        if not self._is_there:
            return
        if (manifest.build.get("chunk_characters") is None) != (plan.source.chunk_characters is None):
            reason = "cuts its texts, or does not, unlike this build"
            raise InvalidArgument(f"{manifest.version}, which holds what was written to it, {reason}{REMEDY}")
        if not self.must_be_embedded:
            return
        other = "other models than those of this build made the vectors of what was written to the index"
        if plan.source.vectors_field is not None:
            raise InvalidArgument(f"{other}, whose own come with the source, so that nothing can embed it anew{REMEDY}")
        if self._without_text is not None:
            raise InvalidArgument(
                f"{other}, and passage {self._without_text!r} was written without a text that could be embedded "
                f"anew{REMEDY}"
            )


def _live_rows(stored: StoredRows, written: _Written, last: LastWrites) -> int:
    """Note what one shard holds of the log, and return how many rows have to be looked through for it."""
    last.add_deleted(stored.deleted())
    positions = stored.positions(np.arange(stored.count))
    live = np.flatnonzero(positions)
    if not len(live):
        return 0
    ids, contents = stored.passages(live)
    written.add_rows(ids, contents)
    last.add_rows(map(written.plan.document, ids), positions[live].tolist())
    return stored.count


def has_log(storage: Storage) -> bool:
    """Whether anything was ever written to an index root."""
    return storage.exists(layout.log_entry(1)) or any(storage.list(layout.LOG_FLOORS.rstrip("/")))


def _current(storage: Storage) -> Manifest | None:
    try:
        return versions.current_manifest(storage)
    except NotFound:
        return None
