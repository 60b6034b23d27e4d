"""Which versions hold, together with the log, all that was written: the others are not made current."""

import hashlib
import io

from shoal.errors import Conflict
from shoal.index_root import layout
from shoal.index_root.digests import reduction_bytes
from shoal.index_root.log import Log
from shoal.index_root.log_entry import LogEntry
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.system.array_files import load_array


def require_cover(storage: Storage, manifest: Manifest, current: Manifest | None = None) -> None:
    """Raise Conflict for a version that would serve without something that was written to the index.

    Args:
        storage: The index root.
        manifest: Of the version.
        current: Of the one that is current now: what was written for it need not be read if its models are the same.
    """
    floors = [int(name) for name in storage.list(layout.LOG_FLOORS.rstrip("/")) if name.isdecimal()]
    if manifest.complete_to < (floor := max(floors, default=0)):
        raise Conflict(
            f"version {manifest.version} holds what was written to the index up to position {manifest.complete_to} of "
            f"its log, and entries up to {floor} may be gone: serving it would lose writes; activate a later version, "
            "or build its source again, which takes over what was written"
        )
    if (missing := missing_file(manifest)) and storage.exists(layout.log_entry(manifest.complete_to + 1)):
        raise Conflict(
            f"version {manifest.version} was built before documents could be written to an index that is served (it "
            f"lacks {missing}), and something was written since; build it again: nothing is embedded anew"
        )
    codec = _codec_digest(storage, manifest)
    if current is not None and _models(current) == _models(manifest) and _codec_digest(storage, current) == codec:
        return
    for entry in Log.open(storage).read(manifest.complete_to):
        require_models(manifest, entry)
        if entry.codec != codec:
            raise _other_models(manifest, entry, "reduction of token vectors")


def _codec_digest(storage: Storage, manifest: Manifest) -> str | None:
    """Digest of what the token vectors of a version are reduced with, as entries name it; None where it has none."""
    late = manifest.late
    if late is None or not manifest.shards:
        return None
    data = storage.read(f"{layout.shard_dir(manifest.version, 0)}/{layout.LATE_PROJECTION}")
    projection = load_array(io.BytesIO(data))
    return hashlib.sha256(reduction_bytes(projection, late.bits)).hexdigest()


def require_models(manifest: Manifest, entry: LogEntry) -> None:
    """Raise Conflict for an entry whose vectors or terms others have made than those of a version."""
    if (other := other_models(manifest, entry)) is not None:
        raise _other_models(manifest, entry, other)


def _other_models(manifest: Manifest, entry: LogEntry, other: str) -> Conflict:
    return Conflict(
        f"entry {entry.position} of the log was written for a version with another {other} than "
        f"{manifest.version}, which would serve without it; activate a version with those models, or build the "
        "source again while nothing is written: that embeds anew what was written, and copies from "
        f"{manifest.version} what it holds already"
    )


def other_models(manifest: Manifest, entry: LogEntry) -> str | None:
    """Name what made an entry and is another in a version; None if the entry can be laid over the version."""
    encoder, analyzer, has_codes = _models(manifest)
    others = {
        "encoder": entry.encoder != encoder,
        "lexical index": entry.analyzer != analyzer,
        "kind of token vectors": (entry.codec is not None) != has_codes,
    }
    return next((name for name, is_so in others.items() if is_so), None)


def _models(manifest: Manifest) -> tuple[str, str | None, bool]:
    """What entries have to agree with."""
    analyzer = None if manifest.lexical is None else manifest.lexical.analyzer_digest
    return manifest.encoder.digest, analyzer, manifest.late is not None


def missing_file(manifest: Manifest) -> str | None:
    """Name a file that a version lacks to have documents written to it; None if it has all."""
    needed = [layout.DOCUMENTS, layout.ORDER]
    if manifest.lexical is not None:
        needed += [layout.LEXICAL_LENGTHS, layout.LEXICAL_COUNTS]
        terms = layout.corpus_terms_of(manifest.version).removeprefix(f"{layout.version_dir(manifest.version)}/")
        if terms not in [file.path for file in manifest.files]:
            return terms
    for entry in manifest.shards:
        names = {file.path.partition("/")[2] for file in entry.files}
        if lacking := [name for name in needed if name not in names]:
            return f"{layout.shard_name(entry.shard)}/{lacking[0]}"
    return None
