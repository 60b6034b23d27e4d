"""The first records of the input as they stand there, to look at before a build decides anything."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pyarrow.types as pt

from shoal.settings import SourceSettings
from shoal.sources import sampling
from shoal.sources.files import Damaged, InputFile, content, opened
from shoal.sources.reader import InputPart, PassageReader

RECORDS = 1000
"""Records that are looked at, of all files together."""
FILES = 8
"""Files that are looked into, evenly spread over the input."""


class FirstRecord(NamedTuple):
    """A record as it stands in the input. location: its file and place in it. fields: what it holds, or why nothing."""

    location: dict[str, str | int]
    fields: dict[str, Any] | str


def first_records(files: list[InputFile], source: SourceSettings) -> Iterator[FirstRecord]:
    """Yield the first records of some files, without those nested columns of Parquet that can be no metadata.

    A file that cannot be read gives none; the plan of a build names it. `source.format` is resolved, and not text.

    Raises:
        InvalidArgument: A file is a JSON array, or has no header that can be read.
        Unavailable: A file cannot be reached.
    """
    files = [sampling.checked(file) for file in files]
    chosen = sampling.spread(files, FILES)
    for index in chosen:
        with suppress(Damaged):
            yield from islice(_records(files[index], source), max(1, RECORDS // len(chosen)))


def _records(file: InputFile, source: SourceSettings) -> Iterator[FirstRecord]:
    part = InputPart([file], 0, file.bytes)
    unit = "line"
    if source.format == "parquet":
        file = file.model_copy(update={"rows": RECORDS, "columns": _flat_columns(file)})
        part, unit = InputPart([file], 0, RECORDS), "row"
    elif source.format in ("csv", "tsv"):
        file = sampling.with_header(file, source)
        part = InputPart([file], file.first, file.bytes)
    else:
        sampling.require_lines(file)
    # Vectors are as long as an encoder says, which is not there yet.
    plain = source.model_copy(update={"vectors_field": None})
    for number, fields in PassageReader(part, plain, 0).records():
        yield FirstRecord({"file": file.name, unit: file.first_line - 1 + number}, fields)


def _flat_columns(file: InputFile) -> list[str]:
    with opened(file) as stream, content(stream):
        schema = pq.ParquetFile(stream).schema_arrow
    return [field.name for field in schema if not pt.is_nested(field.type)]
