"""All passages of a source, in its order, as they are sent to a server: nothing is cut, nothing planned."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shoal.records import Passage
from shoal.settings import SourceSettings
from shoal.sources import sampling
from shoal.sources.files import InputFile
from shoal.sources.listing import Format, find_input
from shoal.sources.reader import InputPart, PassageReader


class BadInput(NamedTuple):
    """What of the input gives no passage: where it lies, such as `corpus.jsonl:17`, why, and how many records it is."""

    place: str
    reason: str
    records: int


def read_source(source: SourceSettings, dim: int, *, limit_text: bool = True) -> Iterator[Passage | BadInput]:
    """Read every passage of an input in any format that a build reads; long texts stay whole.

    Args:
        source: Where the input lies, and its fields; `format` may be auto.
        dim: Numbers of a vector, for records that bring theirs.
        limit_text: Whether a text longer than `max_passage_bytes` gives no passage; not where the index cuts texts.

    Raises:
        InvalidArgument: There is no input, it is not of its format, or it lacks the fields.
        Unavailable: A file cannot be reached.
    """
    listing = find_input(source.source, source.format, source.source)
    resolved = _resolved(source, listing.format)
    files = sampling.measure(listing.files, resolved).files
    for part, unit in _parts(files, listing.format):
        reader = PassageReader(part, resolved, dim, limit_text=limit_text)
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


def _parts(files: list[InputFile], source_format: Format) -> Iterable[tuple[InputPart, str]]:
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
