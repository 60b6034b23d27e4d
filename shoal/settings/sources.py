"""Where passages come from."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from shoal.settings.base import Name, Settings

MetadataType = Annotated[
    str, StringConstraints(pattern=r"^.+:(string|integer|number|boolean|timestamp|list|none)$", strip_whitespace=True)
]
"""A metadata field and its type, such as year:integer."""


class MetadataSettings(Settings):
    """What filters know of metadata."""

    help_panel = "Source"

    metadata_types: list[MetadataType] | None = Field(
        None,
        description="Types of metadata fields for filters, such as year:integer: string, integer, number, boolean, "
        "timestamp, list, or none for a field not to filter by. A passage whose value does not fit is rejected. "
        "Default: what fits all values of the field.",
    )


class ChunkSettings(Settings):
    """How texts are cut into passages."""

    help_panel = "Source"

    chunk_characters: int | None = Field(
        None,
        ge=50,
        le=1_000_000,
        description="Cut texts into passages of at most this many characters. Default: 1000 for documents, else none.",
    )
    chunk_overlap: int = Field(
        0,
        ge=0,
        description="Characters that neighbouring passages of one text share; of a document with headings only those "
        "of one paragraph.",
    )
    piece_ids: Literal["number", "content"] = Field(
        "number",
        description="What stands behind # in the ids of passages that texts are cut into: their number, or a digest of "
        "title and text, which stays when the text before them changes.",
    )


class SourceSettings(MetadataSettings, ChunkSettings):
    """Where passages come from and which fields they have."""

    source: Name = Field(
        description="Input: a file, a folder, a glob or a URI of JSONL, Parquet, CSV, TSV, BEIR, or documents."
    )
    format: Literal["auto", "jsonl", "parquet", "csv", "tsv", "beir", "text"] = Field(
        "auto", description="Format of the input; auto goes by the file names. Documents are text, whatever their type."
    )
    cut_by: Literal["auto", "structure", "length"] = Field(
        "auto",
        description="How documents are cut: structure keeps sections, tables and code together where it can, and gives "
        "passages their headings as title; length cuts as Shoal 0.1 did; auto is structure.",
    )
    id_field: str | None = Field(
        None,
        description="Field of the passage id, or several with commas between them, such as doi,chunk-id; their values "
        "are joined by #. Default: id, or _id for BEIR.",
    )
    text_field: str = Field("text", description="Field of the text.")
    title_field: str | None = Field(
        None, description="Field of a title that is read before the text. Default: none, or title for BEIR."
    )
    vectors_field: Name | None = Field(
        None,
        description="Field of vectors that were computed elsewhere (JSONL, Parquet): lists of as many numbers as the "
        "encoder has dimensions. They are normalised and indexed, and no text is encoded; queries still are, so the "
        "encoder has to be the one that made them.",
    )
    metadata_fields: list[str] | None = Field(
        None, description="Fields kept as metadata. Default: every other field; give an empty list for none."
    )
    list_separator: str | None = Field(
        None,
        min_length=1,
        max_length=8,
        description="What stands between the items of a string in a field that metadata_types declares as a list, such "
        "as ;. JSON lists are read as such. Default: nothing; CSV and TSV values with ; or | in them are rejected.",
    )
    columns: list[str] | None = Field(None, description="Column names of a CSV or TSV file that has no header line.")
    max_passage_bytes: int = Field(
        1_000_000,
        ge=1_000,
        le=10_000_000,
        description="A longer text (UTF-8 bytes) is rejected; cut it into passages instead.",
    )
    unit_passages: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Passages in one unit of work: what is committed, retried and held in memory at once. "
        "Default: 4096, and fewer for a small input.",
    )

    @property
    def id_fields(self) -> list[str]:
        """The fields whose values make the passage id."""
        return [name.strip() for name in (self.id_field or "id").split(",")]
