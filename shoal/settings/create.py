"""What creating an index without passages takes."""

from pydantic import Field

from shoal.settings.base import Name
from shoal.settings.index import LateSettings, LexicalSettings
from shoal.settings.inference import EncoderSettings
from shoal.settings.sources import ChunkSettings, MetadataSettings


class CreateSettings(MetadataSettings, ChunkSettings, EncoderSettings, LexicalSettings, LateSettings):
    """Everything that `shoal index create` takes."""

    index: Name = Field(description="Index root to create: a local path or a URI such as s3://bucket/prefix.")
    dimension: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Dimensions of vectors that documents and queries bring along: the index has no encoder then.",
    )
    text_field: Name = Field(
        "text",
        description="Field of the text. With another name than text, a record may bring its text in that field of its "
        "metadata, as Pinecone's clients do.",
    )
    documents: bool = Field(
        False,
        description="What is written are documents, cut as a build of documents cuts them: by their headings, into "
        "passages of 1000 characters unless chunk_characters says otherwise.",
    )
    shards: int = Field(1, ge=1, le=100_000, description="Shards of the index.")
