"""The options that say how an input is read, resolved once its format is known."""

from typing import Any

from shoal.errors import InvalidArgument
from shoal.extraction.places import LINE_FIELD, PAGE_FIELD
from shoal.metadata import declared_types
from shoal.settings import BuildSettings, SourceSettings
from shoal.sources.listing import Format

TEXT_CHARACTERS = 1000
"""Characters of a passage of a text file, when `chunk_characters` is not set."""


def resolve_source(settings: BuildSettings, source_format: Format) -> SourceSettings:
    """Put the defaults that depend on the format in their places."""
    values = settings.model_dump(include=set(SourceSettings.model_fields)) | {"format": source_format}
    if source_format == "beir":
        values["id_field"] = settings.id_field or "_id"
        values["title_field"] = settings.title_field or "title"
    elif source_format == "text":
        values |= {"id_field": "id", "text_field": "text", "title_field": None}
        values["chunk_characters"] = settings.chunk_characters or TEXT_CHARACTERS
        values["cut_by"] = "length" if settings.cut_by == "length" else "structure"
    else:
        values["id_field"] = settings.id_field or "id"
    if settings.columns is not None and source_format not in ("csv", "tsv"):
        raise InvalidArgument(f"columns is for CSV and TSV; the input is {source_format}", param="columns")
    if settings.columns is not None and len(set(settings.columns)) < len(settings.columns):
        raise InvalidArgument("columns names a column twice", param="columns")
    _check_vectors(settings, values)
    declared = declared_types(settings.metadata_types)
    ids = _id_fields(values["id_field"])
    # A field that is only a part of the id stays metadata.
    taken = {*(ids if len(ids) == 1 else ()), values["text_field"], values["title_field"], settings.vectors_field}
    if taken := taken & declared.keys():
        raise InvalidArgument(
            f"metadata_types names {sorted(taken)[0]!r}, which is no metadata", param="metadata_types"
        )
    if settings.metadata_fields is not None and (lost := declared.keys() - set(settings.metadata_fields)):
        raise InvalidArgument(
            f"metadata_types names {sorted(lost)[0]!r}, which metadata_fields does not keep", param="metadata_types"
        )
    _check_cutting(settings, values)
    return SourceSettings(**values)


def _check_cutting(settings: BuildSettings, values: dict[str, Any]) -> None:
    """Raise InvalidArgument where what says how texts are cut contradicts the rest."""
    characters = values["chunk_characters"]
    if settings.chunk_overlap and characters is None:
        raise InvalidArgument("chunk_overlap needs chunk_characters, which is not set", param="chunk_overlap")
    if settings.chunk_overlap >= (characters or settings.chunk_overlap + 1):
        raise InvalidArgument("chunk_overlap must be less than chunk_characters", param="chunk_overlap")
    if settings.piece_ids == "content" and characters is None:
        raise InvalidArgument("piece_ids needs chunk_characters, which is not set", param="piece_ids")
    if values["format"] != "text":
        if settings.cut_by != "auto":
            raise InvalidArgument(f"cut_by is for documents; the input is {values['format']}", param="cut_by")
        return
    for name, kind in declared_types(settings.metadata_types).items():
        if name in (PAGE_FIELD, LINE_FIELD) and kind not in ("integer", "number", None):
            raise InvalidArgument(
                f"metadata_types makes {name} a {kind}; that of a document is an integer", param="metadata_types"
            )


def _check_vectors(settings: BuildSettings, values: dict[str, Any]) -> None:
    """Raise InvalidArgument where the input cannot have vectors of its own, or the field is another one already."""
    field = settings.vectors_field
    if field is None:
        return
    if settings.late_interaction == "stored":
        raise InvalidArgument(
            "late_interaction=stored keeps what the encoder makes of the texts, and with vectors_field no text is "
            "encoded; leave one of them out",
            param="late_interaction",
        )
    if values["format"] not in ("jsonl", "beir", "parquet"):
        raise InvalidArgument(
            f"vectors_field is for JSONL and Parquet; the input is {values['format']}", param="vectors_field"
        )
    if values["chunk_characters"] is not None:
        raise InvalidArgument(
            "vectors_field gives one vector for a whole text, chunk_characters cuts it; leave one of them out",
            param="vectors_field",
        )
    if field in (
        *_id_fields(values["id_field"]),
        values["text_field"],
        values["title_field"],
        *(settings.metadata_fields or ()),
    ):
        raise InvalidArgument(
            f"vectors_field names {field!r}, which is the id, the text, the title or metadata", param="vectors_field"
        )


def _id_fields(id_field: str) -> list[str]:
    """The fields of an id. Raises InvalidArgument unless each has a name and stands there once."""
    names = [name.strip() for name in id_field.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise InvalidArgument(
            f"id_field should be a field, or different fields with commas between them, not {id_field!r}",
            param="id_field",
        )
    return names
