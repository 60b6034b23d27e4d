"""Compactions whose gate failed, and when the next one is worth a try.

Each of them has made a whole version, and the next one would be much the same. What was written meanwhile stays where
it is: in the log, laid over the current version.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from shoal.errors import CorruptIndex, NotFound
from shoal.index_root import versions
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexing.compaction import MAKER

FIRST_WAIT_S, LONGEST_WAIT_S = 3600.0, 24 * 3600.0
"""Seconds after a gate failed until what has been written since is compacted by itself: doubled each time, at most."""


@dataclass(frozen=True, slots=True)
class RefusedCompactions:
    """The compactions of a version whose gate failed, since it became current.

    version: the newest of them. reasons: why it was not made current. wait_s: seconds until another one is worth it; 0
    or less if it is.
    """

    version: str
    reasons: list[str]
    wait_s: float


def refused_compactions(storage: Storage, current: Manifest, now: datetime | None = None) -> RefusedCompactions | None:
    """Look for compactions of the current version that were refused; None if none was. now: in UTC."""
    refusals = {
        version: refusal
        for version, refusal in versions.read_refusals(storage).items()
        if refusal.maker == MAKER and _is_later(storage, version, current)
    }
    if not refusals:
        return None
    newest = max(refusals)  # names begin with the time
    refused_at = max(datetime.fromisoformat(refusal.refused_at) for refusal in refusals.values())
    wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (len(refusals) - 1))
    waited_s = ((now or datetime.now(UTC)) - refused_at).total_seconds()
    return RefusedCompactions(newest, refusals[newest].reasons, wait_s - waited_s)


def _is_later(storage: Storage, version: str, current: Manifest) -> bool:
    try:
        manifest = versions.read_manifest(storage, version)
    except (NotFound, CorruptIndex):  # pruned meanwhile
        return False
    return manifest.complete_to > current.complete_to
