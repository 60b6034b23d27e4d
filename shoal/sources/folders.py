"""What the names in a folder tell: which files are no passages though their names look so, and which are metadata."""

import re
from collections.abc import Iterable
from urllib.parse import unquote

from shoal.index_root import layout

_OWN_FOLDERS = frozenset(
    {
        "_temporary",
        "_spark_metadata",
        "_delta_log",
        "_delta_index",
        "_change_data",
        "_symlink_format_manifest",
        "_impala_insert_staging",
    }
)
"""Folders that Spark, Delta, Hive and Impala keep for themselves beside what they write."""
_OWN_FILES = re.compile(r"_SUCCESS|_metadata|_common_metadata|_(started|committed)_\d+|_committed_vacuum\d+")
"""Files that they keep for themselves, with or without an extension."""
DELTA_LOG = "_delta_log/"
"""How the log of a Delta table is counted."""
INDEX_ROOT = "of an index root"
"""How files of an index root are counted."""
_BUILT = re.compile(rf"(.*/)?(?:{layout.VERSIONS}/\d{{8}}T\d{{9}}-[0-9a-f]{{8}}|{layout.STAGING}/[0-9a-f]{{16}})/.+")
"""A file that a build wrote, behind the path of the index root."""
_STORED = (layout.VERSIONS, layout.STAGING, layout.REFUSALS)
"""Folders of an index root."""
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""What Hive and Spark write for null."""
_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}", re.ASCII)
"""An integer as it is written back: without zeros before it."""

Partition = dict[str, bool | int | float | str]
"""Metadata that the path of a file gives to all of its records."""


def bookkeeping(name: str) -> str | None:
    """Return what a file of Spark, Delta and their kin is counted as, or None for a file that may be input."""
    *folders, file = name.split("/")
    own = next((folder for folder in folders if folder in _OWN_FOLDERS), None)
    if own is not None:
        return f"{own}/"
    match = _OWN_FILES.match(file)
    is_own = match is not None and file[match.end() : match.end() + 1] in ("", ".")
    return file.partition(".")[0] if is_own else None


def stored_in_index_roots(names: Iterable[str]) -> tuple[str, ...]:
    """Return what the names of all files begin with that index roots among these store, whichever they are."""
    roots = {match[1] or "" for name in names if (match := _BUILT.fullmatch(name))}
    folders = tuple(f"{root}{folder}/" for root in sorted(roots) for folder in _STORED)
    return folders + tuple(f"{root}{layout.CURRENT}" for root in sorted(roots))


def partitions(names: Iterable[str]) -> dict[str, Partition]:
    """Return by name what folders such as `year=2020/lang=en` say of the files in them, as Hive and Spark write them.

    The values of a field are integers if all of them are written so, else strings.
    """
    found = {name: _fields(name) for name in names}
    texts = {field for fields in found.values() for field, text in fields.items() if not _INTEGER.fullmatch(text)}
    return {
        name: {field: text if field in texts else int(text) for field, text in fields.items()}
        for name, fields in found.items()
    }


def _fields(name: str) -> dict[str, str]:
    pairs = (unquoted for folder in name.split("/")[:-1] if (unquoted := _field(folder)))
    return {field: text for field, text in pairs if text != _NO_VALUE}


def _field(folder: str) -> tuple[str, str] | None:
    field, sign, text = folder.partition("=")
    return (unquote(field), unquote(text)) if field and sign else None
