"""What of the log of a root is not needed any more, by the versions that there are."""

from shoal.errors import CorruptIndex
from shoal.index_root import layout, versions
from shoal.index_root.log import Log
from shoal.index_root.storage import Storage


def prune_log(storage: Storage) -> list[str]:
    """Raise the floor of the log to what every published version holds, and remove what lies below older floors.

    A version that cannot be read keeps the floor where it is. Nothing happens in a root without a log.

    Returns:
        Names of the files that were removed.
    """
    if not storage.exists(layout.log_entry(1)) and not any(storage.list(layout.LOG_FLOORS.rstrip("/"))):
        return []
    try:
        complete_to = [
            versions.read_manifest(storage, version).complete_to for version in versions.list_versions(storage)
        ]
    except CorruptIndex:
        complete_to = []
    log = Log.open(storage)
    if floor := min(complete_to, default=0):
        log.raise_floor(floor)
    return log.prune()
