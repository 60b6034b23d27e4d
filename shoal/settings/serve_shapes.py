"""What a request may ask of the shape of its answer."""

from pydantic import Field

from shoal.settings.base import Settings


class AnswerShapeSettings(Settings):
    """Bounds of facets, groups, highlights and pages."""

    help_panel = "Serve"

    max_facets: int = Field(16, ge=1, le=256, description="Most fields whose values one request may have counted.")
    max_facet_limit: int = Field(
        1000, ge=1, le=100_000, description="Most values of one field that an answer shows the counts of."
    )
    max_facet_values: int = Field(
        100_000,
        ge=1,
        le=10_000_000,
        description="Values of one field that are counted at most; a field with more, such as a title, is left out.",
    )
    max_group_size: int = Field(
        100, ge=1, le=10_000, description="Most results of one group, where results are grouped."
    )
    max_group_window: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Passages that stage one looks at, at most, until it has enough groups or different texts.",
    )
    max_highlight_characters: int = Field(
        100_000, ge=1, le=10_000_000, description="Characters of a text in which its best sentence is looked for."
    )
    max_page_depth: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Results of all pages of one search together, at most; with hybrid search no more than window.",
    )
