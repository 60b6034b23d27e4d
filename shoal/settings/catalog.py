"""What a server of several indexes takes."""

from pydantic import Field

from shoal.settings.base import Name, Settings


class CatalogSettings(Settings):
    """Where further indexes lie, and what is kept of them in memory."""

    help_panel = "Catalog"

    catalog: Name | None = Field(
        None,
        description="Folder, or a URI, of indexes that are served by the names of their folders: loaded when they are "
        "first asked for, unloaded when they are idle. Links in it are not followed.",
    )
    catalog_memory_mib: int = Field(
        4096,
        ge=16,
        description="MiB that the indexes of the catalog may take together, in each replica of the endpoint, by the "
        "size of their files and of what was written to them. Beyond it those that were not asked for longest are "
        "unloaded first.",
    )
    catalog_idle_s: float = Field(
        900.0,
        ge=0.1,
        le=86_400,
        description="Seconds without a request after which an index of the catalog is unloaded.",
    )
    encoders: list[Name] | None = Field(
        None,
        description="Encoders that an index which is created over HTTP may have. Default: none, so that such an index "
        "has a dimension, and its passages and queries bring their vectors.",
    )
    max_indexes: int = Field(
        1000, ge=1, le=1_000_000, description="Indexes in the catalog from which on none is created over HTTP."
    )
