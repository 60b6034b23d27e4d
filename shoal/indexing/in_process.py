"""Whether a build is so small that starting workers for it would take longer than it saves."""

from shoal.errors import CorruptIndex, NotFound
from shoal.index_root import versions
from shoal.index_root.storage import Storage
from shoal.settings import BuildSettings
from shoal.system.machine import may_have_gpu


def fits_process(settings: BuildSettings, source_bytes: int) -> bool:
    """Whether one process shall make a build by itself: there is no GPU, and what it reads is small.

    That is the source, of so many bytes as it is stored, and the version that is current, which may be copied from.
    """
    most = settings.in_process_mib * 2**20
    if source_bytes > most or settings.gpus_per_worker or may_have_gpu():
        return False
    try:
        current = versions.current_manifest(Storage(settings.index))
    except (NotFound, CorruptIndex):
        return True
    return source_bytes + sum(file.bytes for file in current.all_files()) <= most
