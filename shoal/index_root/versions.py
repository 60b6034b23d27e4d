"""Index versions of a root: which there are, which is current, and whether they are whole.

Long because who makes a version current and who removes one have to be read side by side.
"""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from shoal.errors import Conflict, CorruptIndex, InvalidArgument, NotFound
from shoal.index_root import layout, signatures
from shoal.index_root.log_cover import require_cover
from shoal.index_root.manifest import FileEntry, Manifest
from shoal.index_root.storage import Storage

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Names that a version can have."""
_MADE = re.compile(r"[0-9]{8}T[0-9]{6,9}-(?P<plan>[0-9a-f]{8})")
"""Names that builds give their versions: a time in UTC, to the second or finer, and the start of the plan's hash."""
_PLAN_LETTERS = 8
"""Characters of a plan's hash in the name of its version."""
_MOST_BYTES = 2**16
"""Bytes of CURRENT, a signature or a refusal, at most: they are read into memory."""
_MOST_MANIFEST_BYTES = 2**28
"""Bytes of a manifest, at most."""
_MANIFEST = "manifest"
"""What a signature of a manifest is for."""
IDLE_S = 7 * 86_400.0
"""Seconds without a write after which a build in staging counts as dead: no unit and no shard takes that long."""
_HASHING_THREADS = 4
"""Files that are read and hashed at once when a version is verified."""


@dataclass(frozen=True, slots=True)
class Current:
    """What CURRENT says. `previous` is what rollback returns to; `activated_at` is UTC, ISO 8601."""

    version: str
    previous: str | None
    activated_at: str


def make_version(now: datetime, plan_hash: str) -> str:
    """Name a version, such as 20261122T233411042-1a2b3c4d: the time in UTC, so that names sort by it, and the plan.

    To the millisecond: two builds of one plan must not share a name, also when they start in the same second.
    """
    utc = now.astimezone(UTC)
    return f"{utc:%Y%m%dT%H%M%S}{utc.microsecond // 1000:03d}-{plan_hash[:_PLAN_LETTERS]}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why what made a version did not make it current: each reason a sentence; `refused_at` is UTC, ISO 8601.

    maker: `build` or `compaction`.
    """

    reasons: list[str]
    refused_at: str
    maker: str = "build"


def refuse(storage: Storage, version: str, reasons: list[str], maker: str = "build") -> None:
    """Write down why a published version is not made current, for `shoal index list` and the next compaction."""
    refusal = Refusal(reasons, datetime.now(UTC).isoformat(timespec="seconds"), maker)
    storage.write(layout.refusal(version), json.dumps(asdict(refusal), indent=1).encode() + b"\n")


def read_refusals(storage: Storage) -> dict[str, Refusal]:
    """Return the refusals of a root by version. One that cannot be read is left out: it only says what happened."""
    refusals = {}
    for name in storage.list(layout.REFUSALS):
        try:
            refusal = Refusal(**json.loads(storage.read(f"{layout.REFUSALS}/{name}", _MOST_BYTES)))
        except (CorruptIndex, NotFound, ValueError, TypeError, RecursionError):
            continue
        if isinstance(refusal.reasons, list):
            refusals[name.removesuffix(".json")] = refusal
    return refusals


def nothing_published(storage: Storage) -> NotFound:
    """The error of whoever finds no current version; of a build that was refused it names the reason and the remedy."""
    place = storage.place()
    if not (refusals := read_refusals(storage)):
        return NotFound(f"{place} has no published index version; build one with `shoal build`")
    version, refusal = max(refusals.items())
    return NotFound(
        f"{place} has no current version: {version} was built and refused ({'; '.join(map(str, refusal.reasons))}); "
        f"correct that and build again, or take it as it is: shoal index activate {version} --index {place}"
    )


def read_current(storage: Storage) -> Current | None:
    """Return the active version, or None when nothing has been activated yet.

    Raises NotFound when there is no index root at all, CorruptIndex when CURRENT cannot be read or is not signed as it
    has to be (`shoal.index_root.signatures`).
    """
    found = _read_current(storage)
    if found is None:
        return None
    current, signature = found
    signatures.check(layout.CURRENT, _current_bytes(current), signature, storage.place(layout.CURRENT))
    return current


def _read_current(storage: Storage) -> tuple[Current, str | None] | None:
    """Return what CURRENT says, and its signature."""
    try:
        data = storage.read(layout.CURRENT, _MOST_BYTES)
    except NotFound:
        storage.require()
        return None
    try:
        body = json.loads(data)
        signature = body.pop("signature", None)
        current = Current(**body)
        for name in (current.version, current.previous or current.version):
            _check_name(name)
        if not isinstance(signature, str | None):
            raise ValueError("its signature is no text")
    except (ValueError, TypeError, AttributeError, RecursionError, InvalidArgument) as error:
        raise CorruptIndex(
            f"{storage.place(layout.CURRENT)} cannot be read ({error}); activate a version again"
        ) from error
    return current, signature


def read_manifest(storage: Storage, version: str) -> Manifest:
    """Read the manifest of a version.

    Raises NotFound if it is not published, CorruptIndex if it has been changed or is not signed as it has to be
    (`shoal.index_root.signatures`).
    """
    data = _manifest_bytes(storage, version)
    place = storage.place(layout.manifest(version))
    signatures.check(_MANIFEST, data, _manifest_signature(storage, version), place)
    return _parsed(data, version, place)


def _manifest_bytes(storage: Storage, version: str) -> bytes:
    _check_name(version)
    try:
        return storage.read(layout.manifest(version), _MOST_MANIFEST_BYTES)
    except NotFound as error:
        known = ", ".join(list_versions(storage)) or "none"
        raise NotFound(
            f"{storage.place()} has no published version {version}; published are: {known}", param="version"
        ) from error


def _manifest_signature(storage: Storage, version: str) -> str | None:
    try:
        return storage.read(layout.signature(version), _MOST_BYTES).decode("ascii", "replace").strip()
    except NotFound:
        return None


def _parsed(data: bytes, version: str, place: str) -> Manifest:
    manifest = Manifest.from_bytes(data, place)
    if manifest.version != version:
        raise CorruptIndex(f"{place} belongs to version {manifest.version}; restore it or activate another one")
    return manifest


def current_manifest(storage: Storage) -> Manifest:
    """Read the manifest of the current version. Raises NotFound if there is none, CorruptIndex as `read_manifest`."""
    current = read_current(storage)
    if current is None:
        raise NotFound(f"{storage.place()} has no current version; build one with `shoal build`")
    return read_manifest(storage, current.version)


def list_versions(storage: Storage) -> list[str]:
    """Return the published versions, oldest first: folders with a manifest, and with a name that a version can have."""
    names = filter(_NAME.fullmatch, storage.list(layout.VERSIONS))
    return [version for version in names if storage.exists(layout.manifest(version))]


def find_plan(storage: Storage, plan_hash: str) -> str | None:
    """Return the newest published version that was built by this plan, or None."""
    for version in reversed(list_versions(storage)):
        if version.endswith(f"-{plan_hash[:_PLAN_LETTERS]}"):
            try:
                manifest = read_manifest(storage, version)
            except CorruptIndex:
                continue
            if manifest.plan == plan_hash:
                return version
    return None


def publish(storage: Storage, manifest: Manifest) -> None:
    """Write the manifest, which makes the folder a version. Raises Conflict if the version has another one already."""
    path, data = layout.manifest(manifest.version), manifest.to_bytes()
    if not storage.exists(path) or storage.read(path) == data:
        _sign_manifest(storage, manifest.version, data)  # before: the manifest makes it a version
    if not storage.exists(path):
        storage.write(path, data)
    elif storage.read(path) != data:
        raise Conflict(
            f"{storage.place(path)} is published already and never changed; build under another version name"
        )


def _sign_manifest(storage: Storage, version: str, data: bytes) -> None:
    if (signature := signatures.sign(_MANIFEST, data)) is not None:
        storage.write(layout.signature(version), f"{signature}\n".encode())


def sign(storage: Storage, version: str | None = None) -> list[str]:
    """Sign published versions that nobody signed, and CURRENT with all of them, as they stand; return their names.

    Only who knows that nobody else has written them should ask for that.

    Args:
        storage: The index root.
        version: The only one to sign; None for every published version, and CURRENT.

    Raises:
        CorruptIndex: A file of a version is not what its manifest says.
        InvalidArgument: This process has no key.
        NotFound: The version is not published.
    """
    if not signatures.signing_keys():
        raise InvalidArgument(f"there is no key to sign with; set {signatures.KEY} or {signatures.KEY_FILE}")
    names = list_versions(storage) if version is None else [version]
    for name in names:
        data = _manifest_bytes(storage, name)
        if problems := _problems(storage, _parsed(data, name, storage.place(layout.manifest(name)))):
            raise CorruptIndex(f"version {name} is not signed: {problems[0]}; restore it, or prune it")
        _sign_manifest(storage, name, data)
    if version is None and (found := _read_current(storage)) is not None:
        _write_current(storage, found[0])
    return names


def discard_staging(storage: Storage, plan_hash: str) -> None:
    """Remove the staging folder of a build.

    The plan goes first: interrupted halfway, the rest is no build that could be continued, and what is left of it is
    only used where it is whole.
    """
    storage.delete(layout.plan(plan_hash))
    storage.delete(layout.staging_dir(plan_hash))


def verify(storage: Storage, version: str) -> list[str]:
    """Compare every file of a version with its manifest and return the problems; an empty list means it is whole.

    A changed, missing or extra file and a changed manifest are all found. Reads the whole version. Raises NotFound if
    the version is not published.
    """
    try:
        manifest = read_manifest(storage, version)
    except CorruptIndex as error:
        return [error.message]
    return _problems(storage, manifest)


def _problems(storage: Storage, manifest: Manifest) -> list[str]:
    """Say how the files of a version differ from its manifest."""
    folder, files = layout.version_dir(manifest.version), manifest.all_files()
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        problems = list(pool.map(lambda file: file_problem(storage, f"{folder}/{file.path}", file), files))
    beside = (layout.manifest(manifest.version), layout.signature(manifest.version))
    expected = {file.path for file in files} | {path.removeprefix(f"{folder}/") for path in beside}
    extra = (
        f"{storage.place(folder)}/{path} is not in the manifest"
        for path in storage.files(folder)
        if path not in expected
    )
    return [*filter(None, problems), *extra]


def file_problem(storage: Storage, path: str, file: FileEntry) -> str | None:
    """Say how a file differs from its manifest entry; None if it does not."""
    place = storage.place(path)
    try:
        digest, size = storage.sha256(path)
    except NotFound:
        return f"{place} is missing"
    if size != file.bytes:
        return f"{place} has {size} bytes, its manifest says {file.bytes}"
    if digest != file.sha256:
        return f"{place} does not match the checksum in its manifest"
    return None


def activate(storage: Storage, version: str, *, verified: bool = False) -> Current:
    """Verify a version completely, unless the caller has just done so (`verified`), and make it current.

    Raises NotFound, CorruptIndex naming what does not match, and Conflict when `prune` has removed it meanwhile, or
    when it would serve without something that was written to the index.
    """
    if not verified and (problems := verify(storage, version)):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CorruptIndex(
            f"version {version} is not activated: {problems[0]}{more}; restore it or activate another one"
        )
    try:
        before = read_current(storage)
    except CorruptIndex:
        before = None  # a broken CURRENT is mended by activating a version
    if before is not None and before.version == version:
        return before
    removed = Conflict(
        f"version {version} was removed by `shoal index prune` while it was activated, and CURRENT is as it was; "
        "activate one that `shoal index list` shows"
    )
    if not storage.exists(layout.manifest(version)):
        raise removed
    require_cover(storage, read_manifest(storage, version), _served(storage, before))
    current = Current(version, before.version if before else None, datetime.now(UTC).isoformat(timespec="seconds"))
    _write_current(storage, current)
    storage.delete(layout.refusal(version))
    if not storage.exists(layout.manifest(version)):  # and again: see `_remove`
        if before is None:
            storage.delete(layout.CURRENT)
        else:
            _write_current(storage, before)
        raise removed
    return current


def _served(storage: Storage, current: Current | None) -> Manifest | None:
    """The manifest of the current version; None where it cannot be read, and another one mends that."""
    try:
        return None if current is None else read_manifest(storage, current.version)
    except (NotFound, CorruptIndex):
        return None


def _write_current(storage: Storage, current: Current) -> None:
    signature = signatures.sign(layout.CURRENT, _current_bytes(current))
    body = asdict(current) | ({} if signature is None else {"signature": signature})
    storage.write(layout.CURRENT, json.dumps(body, indent=1).encode() + b"\n")


def _current_bytes(current: Current) -> bytes:
    """What a signature of CURRENT is made of."""
    return json.dumps(asdict(current), sort_keys=True).encode()


def rollback(storage: Storage) -> Current:
    """Make the previous version current again, verified like any other. Raises Conflict if there is none."""
    current = read_current(storage)
    if current is None or current.previous is None:
        raise Conflict(f"{storage.place()} has no previous version to roll back to; activate one by name")
    return activate(storage, current.previous)


def prune(storage: Storage, keep: int, idle_s: float = IDLE_S) -> list[str]:
    """Remove old versions and what dead builds left; return the versions, oldest first. Nothing else is touched.

    Kept are the current and the previous version, the newest `keep` published ones, every version of a build that is
    in staging, which may be about to be made current, and those that such builds copy from. A build in staging is
    dead, and goes too, when nothing was written there for `idle_s` seconds.
    """
    if keep < 0:
        raise InvalidArgument(f"keep must be >= 0, got {keep}", param="keep")
    # In this order: a build that ends meanwhile is seen in staging, or else what it published and made current is.
    names = list(storage.list(layout.VERSIONS))
    running, bases = set(), set()
    for plan in storage.list(layout.STAGING):
        if storage.idle_s(layout.staging_dir(plan)) < idle_s:
            running.add(plan[:_PLAN_LETTERS])
            bases |= _bases(storage, plan)
        else:
            discard_staging(storage, plan)
    published = list_versions(storage)
    kept = {*published[max(0, len(published) - keep) :], *_in_use(storage), *bases}
    removed = []
    for version in names:
        build = _MADE.fullmatch(version)
        made_by = None if build is None else build["plan"]
        if version in kept or made_by in running or (made_by is None and version not in published):
            continue
        if _remove(storage, version):
            removed.append(version)
    return removed


def _bases(storage: Storage, plan: str) -> set[str]:
    """Versions that a build in staging copies or takes anything over from; none if it has not begun."""
    try:
        body = json.loads(storage.read(layout.plan(plan)))
    except (NotFound, ValueError):
        return set()
    body = body if isinstance(body, dict) else {}
    carried = body.get("carried")
    named = (body.get("base"), carried.get("version") if isinstance(carried, dict) else None)
    return {name for name in named if isinstance(name, str)}


def _in_use(storage: Storage) -> set[str]:
    current = read_current(storage)
    return set() if current is None else {current.version, current.previous or current.version}


def _remove(storage: Storage, version: str) -> bool:
    """Remove a version, unless it has come into use meanwhile, and say whether it is gone.

    The manifest goes first: interrupted halfway, the rest is an unfinished folder and not a broken version. CURRENT is
    looked at before, and once more after that. `activate` writes CURRENT and looks for the manifest then, so whichever
    of the two comes second sees the other, and a version is never removed while it becomes current.
    """
    path = layout.manifest(version)
    if version in _in_use(storage):
        return False
    try:
        manifest = storage.read(path)
    except NotFound:
        manifest = None  # an unfinished build, which nobody can activate
    storage.delete(path)
    if manifest is not None and version in _in_use(storage):
        storage.write(path, manifest)
        return False
    storage.delete(layout.version_dir(version))
    storage.delete(layout.refusal(version))
    return True


def _check_name(version: str) -> None:
    if not _NAME.fullmatch(version):
        raise InvalidArgument(
            f"{version!r} is not the name of a version; `shoal index list` shows them", param="version"
        )
