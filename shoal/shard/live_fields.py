"""Types of the metadata fields of an index that documents come to.

The fields of the version keep their types. The first value of a new field fixes its type; integers widen to numbers.
Beyond MAX_FIELDS a new field gets none: each takes a column in every run, and names without end would take all memory.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from shoal.errors import InvalidArgument
from shoal.index_root.log_entry import LogEntry
from shoal.metadata import MAX_FIELDS, FieldType, FieldTypes, convert, type_of

_AS_THEY_ARE: dict[FieldType, frozenset[FieldType]] = {
    "string": frozenset({"string", "timestamp"}),
    "integer": frozenset({"integer"}),
    "number": frozenset({"number", "integer"}),
    "boolean": frozenset({"boolean"}),
    "timestamp": frozenset({"timestamp"}),
    "list": frozenset({"list", "string", "timestamp"}),
}
"""Types of the values that a column of a type takes."""


def widened(types: FieldTypes, metadata: Mapping[str, Any]) -> FieldTypes:
    """Return the types of an index after a passage with this metadata has come; the same object if none changes.

    Of several new fields the first by name get the types that are left, in whatever order the metadata has them.

    Raises InvalidArgument, naming the field, for a value that does not fit.
    """
    changed: dict[str, Any] = {}
    if len(types) < MAX_FIELDS and (new := metadata.keys() - types.keys()):
        changed = {name: type_of(metadata[name]) for name in sorted(new)[: MAX_FIELDS - len(types)]}
    for name, value in metadata.items():
        known = types.get(name)
        if known is None or known == "mixed":
            continue
        kind = type_of(value)
        if kind in _AS_THEY_ARE[known] and convert(value, known) is not None:
            continue
        elif (known, kind) == ("integer", "number"):
            changed[name] = "number"
        else:
            raise InvalidArgument(
                f"metadata field {name} has type {known} in this index, and {value!r} does not fit it; leave it out "
                "or build the index again with another type",
                param="metadata",
            )
    return dict(sorted({**types, **changed}.items())) if changed else types


def after(types: FieldTypes, entries: Iterable[LogEntry]) -> FieldTypes:
    """Return the types of an index after entries of the log, whose writers have checked that all values fit."""
    for entry in entries:
        for document in entry.documents:
            for passage in document.passages:
                if passage.metadata:
                    types = widened(types, passage.metadata)
    return types
