"""The published versions of an index root, as people choose among them."""

from dataclasses import dataclass
from typing import Literal

from shoal.errors import CorruptIndex, NotFound
from shoal.index_root import versions
from shoal.index_root.storage import Storage


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """A published version.

    Args:
        version: Its name.
        state: What CURRENT says of it; `refused` for one that a build did not make current; None for any other.
        created_at: When it was built, in ISO 8601; None where its manifest cannot be read.
        passages: How many it holds; None where its manifest cannot be read.
        problem: Why it cannot be read or was refused; None if neither.
    """

    version: str
    state: Literal["current", "previous", "refused"] | None
    created_at: str | None
    passages: int | None
    problem: str | None


def newest_versions(storage: Storage, limit: int) -> list[ListedVersion]:
    """List the newest published versions, newest first, with the current and the previous one wherever they stand.

    Reads a manifest for each. One that `prune` removes meanwhile is left out.

    Args:
        storage: The index root.
        limit: Most versions, beside the current and the previous one.

    Raises:
        NotFound: There is no index root.
    """
    published = versions.list_versions(storage)[::-1]
    try:
        current = versions.read_current(storage)
    except CorruptIndex:
        current = None  # a broken CURRENT is mended by activating one of these
    in_use = set() if current is None else {current.version, current.previous}
    chosen = [name for place, name in enumerate(published) if place < limit or name in in_use]
    refusals = versions.read_refusals(storage)
    listed = (_listed(storage, name, current, refusals.get(name)) for name in chosen)
    return [version for version in listed if version is not None]


def _listed(
    storage: Storage, name: str, current: versions.Current | None, refusal: versions.Refusal | None
) -> ListedVersion | None:
    state: Literal["current", "previous", "refused"] | None = None
    problem = None
    if current is not None and name == current.version:
        state = "current"
    elif current is not None and name == current.previous:
        state = "previous"
    elif refusal is not None:
        state, problem = "refused", "; ".join(map(str, refusal.reasons))
    try:
        manifest = versions.read_manifest(storage, name)
    except CorruptIndex as error:
        return ListedVersion(name, state, None, None, error.message)
    except NotFound:
        return None
    return ListedVersion(name, state, manifest.created_at, manifest.counts.passages, problem)
