"""All passages of a source, in its order, as they are sent to a server: nothing is cut, nothing planned."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shoal.records import Passage
from shoal.settings import SourceSettings
from shoal.sources import sampling
from shoal.sources.files import InputFile
from shoal.sources.listing import Format, find_input, named_below
from shoal.sources.reader import InputPart, PassageReader


class BadInput(NamedTuple):
    """What of the input gives no passage: where it lies, such as `corpus.jsonl:17`, why, and how many records it is."""

    place: str
    reason: str
    records: int


class NamedInput(NamedTuple):
    """The files that a source names, and how they are read: `settings` with its format and the fields of that."""

    settings: SourceSettings
    files: list[InputFile]

    @property
    def is_documents(self) -> bool:
        """Whether each file is one text, of any length."""
        return self.settings.format == "text"


def find_source(source: SourceSettings, relative_to: str | None = None) -> NamedInput:
    """Find an input in any format that a build reads.

    Args:
        source: Where the input lies, and its fields; `format` may be auto.
        relative_to: A folder above the files that their names, and so the ids of documents, are relative to; None for
            the source.

    Raises:
        InvalidArgument: There is no input, or not in that folder, it is not of its format, or it lacks the fields.
        Unavailable: A file cannot be reached.
    """
    listing = find_input(source.source, source.format, source.source)
    resolved = _resolved(source, listing.format)
    files = listing.files if relative_to is None else named_below(listing.files, relative_to)
    return NamedInput(resolved, sampling.measure(files, resolved).files)


def read_source(found: NamedInput, dim: int, *, limit_text: bool = True) -> Iterator[Passage | BadInput]:
    """Read every passage of an input; long texts stay whole.

    Args:
        found: The input.
        dim: Numbers of a vector, for records that bring theirs.
        limit_text: Whether a text longer than `max_passage_bytes` gives no passage; not where the index cuts texts.

    Raises:
        Unavailable: A file cannot be reached.
    """
    for part, unit in _parts(found.files, found.settings.format):
        reader = PassageReader(part, found.settings, dim, limit_text=limit_text)
        for item in reader:
            if isinstance(item, tuple):
                yield item[1]
            else:
                yield BadInput(_place(part, unit, item.record), item.reason, item.records)


def _resolved(source: SourceSettings, source_format: Format) -> SourceSettings:
    changes: dict[str, object] = {"format": source_format, "chunk_characters": None, "chunk_overlap": 0}
    changes["id_field"] = source.id_field or ("_id" if source_format == "beir" else "id")
    if source_format == "beir":
        changes["title_field"] = source.title_field or "title"
    if source_format == "text":
        changes |= {"id_field": "id", "text_field": "text", "title_field": None}
    return source.model_copy(update=changes)


def _parts(files: list[InputFile], source_format: str) -> Iterable[tuple[InputPart, str]]:
    match source_format:
        case "text":
            return [(InputPart(files, 0, len(files)), "")]
        case "parquet":
            return [(InputPart([file], 0, file.rows or 0), "row") for file in files]
        case _:
            return [(InputPart([file], file.first, file.bytes), "line") for file in files]


def _place(part: InputPart, unit: str, record: int) -> str:
    if not unit:
        return part.files[record - 1].name
    file = part.files[0]
    first = file.first_line - 1 if unit == "line" else 0
    return f"{file.name}:{first + record}"
