"""Which options fit an input, judged by the fields of some of its records."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from shoal.metadata import timestamp
from shoal.settings import SourceSettings

SHOWN_FIELDS = 20
"""Fields that a description names at most."""
REPEATED = 0.1
"""Share of records with ids of others beyond which the id is taken for the wrong field."""
SHORT = 200
"""Most characters, on average, of strings that may identify a passage."""
LONGEST_NAME = 60
"""Characters of a name of a field beyond which it is taken for a value."""
_TEXT_NAMES = ("text", "chunk", "content", "contents", "page_content", "body", "passage", "document", "abstract")
"""What fields of texts are called, the most telling first."""
_ID_NAME = re.compile(r"(^|[^a-z])(u?u?id|key|doi|ur[il]|pmid|pid|hash|number|index|part)$|id$", re.IGNORECASE)
"""What fields that tell records apart are called, among others."""
_BASIC_DATE = re.compile(r"\d{8}", re.ASCII)
"""A date such as 20230719, or any other number of eight digits."""


class Fields:
    """What the fields of some records hold. Memory: all their values."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []

    def see(self, record: dict[str, Any]) -> None:
        """Take a record into account; it is kept."""
        self._records.append(record)

    def describe(self) -> str:
        """Name the fields with their types: `doi (string), chunk (string of 812 characters), authors (list)`."""
        names = self._names()
        shown = [f"{name} ({self._type_of(name)})" for name in names[:SHOWN_FIELDS]]
        return ", ".join([*shown, *([f"and {len(names) - SHOWN_FIELDS} more"] if len(names) > SHOWN_FIELDS else [])])

    def propose(self, source: SourceSettings) -> list[str]:
        """Return options that would make more of the records passages, such as `--text-field chunk`."""
        text = source.text_field
        options = []
        if not self._mostly(text, str) and (fitting := self._text(source)) is not None:
            options.append(f"--text-field {fitting}")
            text = fitting
        missing = any(not self._mostly(name, str | int) for name in source.id_fields)
        if missing or len(set(self._tuples(source.id_fields))) < (1 - REPEATED) * len(self._records):
            known = [] if missing else source.id_fields
            ids = next(self._ids(known, {text, source.title_field}), None)
            if ids is not None:
                options.append(f"--id-field {','.join(ids)}")
        return options

    def look_like_values(self) -> bool:
        """Whether names of fields look like values, as they do where a first line is taken for a header."""
        return any(name.strip().isdigit() or len(name) > LONGEST_NAME for name in self._names())

    def basic_dates(self, source: SourceSettings) -> list[str]:
        """Fields that hold dates such as 20230719 and nothing else, and whose type is not declared."""
        declared = {item.rpartition(":")[0] for item in source.metadata_types or ()}
        used = {*source.id_fields, source.text_field, source.title_field, *declared}
        kept = [name for name in self._names() if source.metadata_fields is None or name in source.metadata_fields]
        return [
            name
            for name in kept
            if name not in used
            and (values := [value for value in self._values(name) if value is not None and value != ""])
            and all(_is_basic_date(value) for value in values)
        ]

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for record in self._records for name in record))

    def _values(self, name: str) -> list[Any]:
        return [record.get(name) for record in self._records]

    def _mostly(self, name: str, types: Any) -> bool:
        """Whether at least half of the records have a value of these types in a field that is not blank."""
        usable = sum(isinstance(value, types) and str(value).strip() != "" for value in self._values(name))
        return 2 * usable >= len(self._records)

    def _mean_length(self, name: str) -> float:
        return sum(len(value) for value in self._values(name) if isinstance(value, str)) / max(len(self._records), 1)

    def _text(self, source: SourceSettings) -> str | None:
        """The field of strings that looks most like the text: one that is called so, or the longest."""
        lengths = {
            name: self._mean_length(name)
            for name in self._names()
            if name not in (*source.id_fields, source.title_field) and self._mostly(name, str)
        }
        longest = max(lengths.values(), default=0.0)
        named = next((name for name in _TEXT_NAMES if lengths.get(name, 0.0) >= max(longest / 4, 1)), None)
        return named or max(lengths, key=lambda name: lengths[name], default=None)

    def _ids(self, known: list[str], taken: set[str | None]) -> Iterator[tuple[str, ...]]:
        """Fields that tell all records apart: those called ids first, then the known ones with others, then any."""
        scalars = [name for name in self._names() if name not in taken and self._identifies(name)]
        called = [name for name in scalars if _ID_NAME.search(name)]
        # Of records that share one id a counter is unique, which says nothing of the rest of the input.
        groups = len(set(self._tuples(known))) if known else 2
        if groups > 1:
            yield from ((name,) for name in called if self._are_unique((name,)))
        others = [name for name in (*called, *scalars) if name not in known]
        if known:
            yield from ((*known, name) for name in others if self._are_unique((*known, name)))
        yield from (pair for pair in combinations(called, 2) if self._are_unique(pair))
        if groups > 1:
            yield from ((name,) for name in scalars if self._are_unique((name,)))

    def _identifies(self, name: str) -> bool:
        """Whether every record has a short string or an integer in a field, and a comma would not split its name."""
        return (
            "," not in name
            and self._mean_length(name) <= SHORT
            and all(type(value) in (str, int) and str(value).strip() != "" for value in self._values(name))
        )

    def _tuples(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        return [tuple(str(record.get(name)) for name in names) for record in self._records]

    def _are_unique(self, names: Sequence[str]) -> bool:
        values = self._tuples(names)
        return len(set(values)) == len(values)

    def _type_of(self, name: str) -> str:
        kinds = Counter(_type_name(value) for value in self._values(name) if value is not None)
        if not kinds:
            return "null"
        kind = kinds.most_common(1)[0][0]
        length = round(self._mean_length(name))
        return f"{kind} of {length:,} characters" if kind == "string" and length > SHORT else kind


def _is_basic_date(value: object) -> bool:
    text = str(value) if type(value) is int else value
    return isinstance(text, str) and bool(_BASIC_DATE.fullmatch(text)) and timestamp(text) is not None


def _type_name(value: object) -> str:
    if isinstance(value, list):
        return "list of objects" if any(isinstance(item, dict) for item in value) else "list"
    names = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object"}
    return names.get(type(value), type(value).__name__)
