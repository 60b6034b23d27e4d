"""Delta tables at their current version: the log says which files it has, and deltalake reads the log.

The files are read as any Parquet. What was deleted or replaced is in none of them, and partition columns, which the
files lack, come from the log with their types.
"""

import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from shoal.errors import InvalidArgument
from shoal.index_root.storage import s3_connection
from shoal.sources.folders import Partition

EXTRA = "delta"
"""The extra that brings deltalake."""
_MAPPING = "delta.columnMapping.mode"
"""Property of tables whose files call their columns otherwise."""


class DeltaFile(NamedTuple):
    """A file of the current version. name: relative to the table. partition: what its records have in common."""

    name: str
    partition: Partition


def current_files(source: str) -> list[DeltaFile]:
    """Return the files of the current version of a table, by their names.

    Raises InvalidArgument where deltalake is not installed, the log cannot be read, or the table has what files alone
    do not tell: deletion vectors, mapped columns, files in other places.
    """
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise InvalidArgument(
            f"source {source} is a Delta table, whose log says which rows there are; pip install 'shoal[{EXTRA}]' to "
            "read it (files of rows that were deleted are never read)",
            param="source",
        ) from None
    place, options = _connection(source)
    try:
        table = DeltaTable(place, storage_options=options)
        if table.metadata().configuration.get(_MAPPING, "none") != "none":
            raise _unreadable(source, "maps its columns to other names")
        if any(True for _ in table.deletion_vectors()):
            raise _unreadable(source, "marks deleted rows in deletion vectors; run REORG TABLE ... APPLY (PURGE) first")
        actions = _rows(table.get_add_actions(flatten=False))
    except (DeltaError, OSError, ValueError) as error:
        detail = " ".join(str(error).split())[:300]
        raise InvalidArgument(f"the Delta table {source} cannot be read ({detail})", param="source") from error
    if outside := [action["path"] for action in actions if "://" in action["path"] or action["path"].startswith("/")]:
        raise _unreadable(source, f"has files in other places, such as {outside[0]}")
    files = (DeltaFile(unquote(action["path"]), _partition(action.get("partition") or {})) for action in actions)
    return sorted(files, key=lambda file: file.name)


def _unreadable(source: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"the Delta table {source} {why}; or write its rows to a folder of their own", param="source"
    )


def _rows(table: Any) -> list[dict[str, Any]]:
    import pyarrow as pa

    return list(
        pa.table(table).select([name for name in ("path", "partition") if name in table.schema.names]).to_pylist()
    )


def _connection(source: str) -> tuple[str, dict[str, str] | None]:
    """The URI of a table and the options of its store, as deltalake wants them."""
    place, _, query = source.partition("?")
    if not place.startswith("s3://"):
        return place, None
    connection = s3_connection(place.removeprefix("s3://").partition("/")[0], dict(parse_qsl(query)))
    options = {"AWS_REGION": connection.region}
    if connection.endpoint is not None:
        scheme = "" if "://" in connection.endpoint else f"{connection.scheme or 'https'}://"
        options |= {"AWS_ENDPOINT_URL": f"{scheme}{connection.endpoint}", "AWS_ALLOW_HTTP": "true"}
    return place, options


def _partition(values: dict[str, Any]) -> Partition:
    """Values of partition columns as metadata; null is none."""
    return {name: _plain(value) for name, value in values.items() if value is not None}


def _plain(value: Any) -> str | int | float | bool:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    return value if isinstance(value, str | int | float | bool) else str(value)
