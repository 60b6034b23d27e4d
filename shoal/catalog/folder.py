"""The folder of a catalog: which index roots lie in it, and how one is made and removed."""

import logging
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shoal.errors import Conflict, InvalidArgument, NotFound
from shoal.index_root import layout
from shoal.index_root.storage import Storage
from shoal.indexing.empty import create_index
from shoal.indexing.first_encoder import FirstEncoder
from shoal.serving.index_name import is_index_name
from shoal.settings import CreateSettings

logger = logging.getLogger(__name__)

ROOT_ENTRIES = frozenset({layout.CURRENT, layout.VERSIONS, layout.STAGING, layout.REFUSALS, layout.LOG})
"""What lies in an index root; where there is more, somebody keeps something else there."""
LOOKS_AT_ONCE = 16
"""Folders of a remote catalog that are looked at side by side."""
_REMOVED = re.compile(r"\.[a-z0-9][a-z0-9-]{0,62}\.removed-[0-9a-f]{16}")
"""Names of folders that are being removed."""


class CatalogFolder:
    """The index roots below a folder or URI, by the names of their folders. Blocks; for any threads.

    Nothing is ever read, made or removed behind a link that lies in the folder.

    Args:
        uri: Of the folder.

    Raises:
        NotFound: There is no such folder on this machine's disk.
    """

    def __init__(self, uri: str) -> None:
        self._storage = Storage(uri)
        if self._storage.is_local and not Path(self._storage.uri).is_dir():
            raise NotFound(f"there is no folder {uri} for a catalog; make it, or correct --catalog")

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine's disk."""
        return self._storage.is_local

    def place(self) -> str:
        """How messages name the folder."""
        return self._storage.place()

    def root(self, name: str) -> str:
        """The path or URI of the index root of a name."""
        head, mark, options = self._storage.uri, "", ""
        if not self._storage.is_local:
            head, mark, options = head.partition("?")
        return f"{head.rstrip('/')}/{name}{mark}{options}"

    def holds(self, name: str) -> bool:
        """Whether there is an index of a name."""
        return is_index_name(name) and self._is_root(name)

    def gone(self, served: Mapping[str, str]) -> list[str]:
        """Say which of some indexes are not there any more, or are other ones by now, which another process has made.

        Args:
            served: The version of each that this process serves, by its name. No two indexes have one of one name.
        """
        if self._storage.is_local:
            return [name for name, version in served.items() if not self._holds_version(name, version)]
        with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:
            held = pool.map(self._holds_version, served, served.values())
            return [name for name, is_held in zip(served, held, strict=True) if not is_held]

    def _holds_version(self, name: str, version: str) -> bool:
        if not self._storage.is_local:
            return self._storage.exists(f"{name}/{layout.manifest(version)}")
        return self._is_root(name) and Path(self._storage.uri, name, layout.manifest(version)).is_file()

    def names(self) -> list[str]:
        """Names of all indexes, ascending."""
        entries = [name for name in self._storage.list("") if is_index_name(name)]
        if self._storage.is_local:
            return [name for name in entries if self.holds(name)]
        with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:
            return [name for name, held in zip(entries, pool.map(self.holds, entries), strict=True) if held]

    def strange_names(self) -> list[str]:
        """Names of index roots that no index can have, so that nobody can ask for them."""
        strange = [name for name in self._storage.list("") if not name.startswith(".") and not is_index_name(name)]
        with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:
            return [name for name, held in zip(strange, pool.map(self._is_root, strange), strict=True) if held]

    def _is_root(self, name: str) -> bool:
        """Whether an index root lies in the folder under a name, which need not be that of an index."""
        if not self._storage.is_local:
            return self._storage.exists(f"{name}/{layout.CURRENT}")
        folder = Path(self._storage.uri, name)
        return not folder.is_symlink() and (folder / layout.CURRENT).is_file()

    def create(self, name: str, settings: CreateSettings, encoder: FirstEncoder | None = None) -> None:
        """Make an index without passages. Raises Conflict where something is already.

        Args:
            name: Of the index.
            settings: Of the index, with its root.
            encoder: What is to be known of its encoder, where that is known.
        """
        if self.holds(name):
            raise Conflict(f"there is an index {name!r} already; choose another name", param="name")
        self._clear(name)
        folder = self._claim(name)
        try:
            create_index(settings, encoder)
        except BaseException:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        logger.info("created the index %s", name)

    def _clear(self, name: str) -> None:
        """Remove the log of an index to which somebody wrote while it was removed: no build begins with one."""
        if self._storage.is_local and Path(self._storage.uri, name).is_symlink():
            return
        if list(self._storage.list(name)) == [layout.LOG]:
            self.remove(name)

    def _claim(self, name: str) -> Path | None:
        """Make the folder of an index, which of several that try only one can; on a remote store there is no such."""
        if not self._storage.is_local:
            return None
        folder = Path(self._storage.uri, name)
        try:
            with self._storage.errors(name, writing=True):
                folder.mkdir()
        except InvalidArgument:
            if not folder.is_symlink() and not folder.exists():
                raise
            raise Conflict(
                f"something else lies where an index {name!r} would; choose another name", param="name"
            ) from None
        return folder

    def check_removable(self, name: str, given: list[str]) -> None:
        """Raise Conflict for an index whose folder is no index alone, or that was given to the server by its root.

        Args:
            name: Of an index that is there.
            given: Roots that were given by --index.
        """
        strange = sorted(set(self._storage.list(name)) - ROOT_ENTRIES)
        if strange:
            raise Conflict(
                f"the folder of {name!r} holds {strange[0][:100]!r}, which belongs to no index; take it away first"
            )
        if self._storage.is_local:
            folder = Path(self._storage.uri, name).resolve()
            if any(folder in (root, *root.parents) for root in (Path(each).resolve() for each in given)):
                raise Conflict(f"{name!r} was given to the server by --index, and is not removed over HTTP")

    def remove(self, name: str) -> None:
        """Remove an index root. What a process that ends leaves of it is removed by `sweep`."""
        if not self._storage.is_local:
            root = Storage(self.root(name))
            for entry in (layout.CURRENT, *root.list("")):  # without the first it is no index any more
                root.delete(entry)
            return
        folder = Path(self._storage.uri, name)
        if folder.is_symlink():
            raise Conflict(f"the folder of {name!r} has become a link; remove it with your own tools")
        removed = folder.with_name(f".{name}.removed-{secrets.token_hex(8)}")
        with self._storage.errors(name, writing=True):
            folder.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)  # a process that starts beside this one may remove it too
            if removed.exists():
                shutil.rmtree(removed)

    def remove_remains(self, name: str) -> None:
        """Remove what a process has written for an index after that was removed, unless somebody makes another there.

        Every build writes its plan before anything else.
        """
        plans = (f"{name}/{layout.plan(staged)}" for staged in self._storage.list(f"{name}/{layout.STAGING}"))
        if any(self._storage.list(name)) and not self.holds(name) and not any(map(self._storage.exists, plans)):
            self.remove(name)

    def sweep(self) -> None:
        """Remove what was left of indexes that were being removed when their process ended."""
        for folder in self._left_overs():
            logger.info("removing %s, of which a removal was not finished", folder)
            shutil.rmtree(folder, ignore_errors=True)

    def _left_overs(self) -> Iterator[Path]:
        if self._storage.is_local:
            for entry in Path(self._storage.uri).iterdir():
                if _REMOVED.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink():
                    yield entry
