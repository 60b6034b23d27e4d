"""What a search may ask of the shape of its answer, checked against the limits of a server."""

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, create_model

from shoal.engine.request_body import RequestBody
from shoal.records import AnswerShape, Facet, GroupBy, OrderBy
from shoal.settings import ServeSettings

FACET_LIMIT = 10
"""Values of a field that are shown when a request does not say how many."""
_CURSOR_CHARACTERS = 1024
"""Characters of a cursor beside those of the id in it, at most."""
MAX_FIELD_NAME = 1024
"""Characters that the name of a field may have."""

FieldName = Annotated[str, Field(min_length=1, max_length=MAX_FIELD_NAME)]


class FacetFields(RequestBody):
    """A field whose values are counted."""

    field: FieldName
    limit: int


class GroupFields(RequestBody):
    """What results are grouped by."""

    field: FieldName
    size: int


class OrderFields(RequestBody):
    """The metadata field by which passages are put; equal values stand by id, passages without the field come last."""

    field: FieldName = Field(description="Of the metadata, or `$id`: the order of the ids themselves.")
    descending: bool = Field(False, description="Greatest values first.")


class ShapeFields(RequestBody):
    """The fields of a search that say what the answer holds beside its results; `shape_fields` adds the limits."""

    facets: list[str | FacetFields] = Field([])
    group_by: GroupFields | None = None
    collapse: bool = Field(False, description="Return only the best of passages with equal titles and texts.")
    min_score: float | None = Field(
        None,
        allow_inf_nan=False,
        description="Return only results whose `score` is at least this. What scores mean depends on what orders the "
        "answer, so take it from answers of the same kind. An answer that should be reranked and is not ignores it.",
        examples=[0.25],
    )
    highlight: bool = Field(
        False,
        description="Point out the best sentence of each result: by the token vectors that have ordered the answer, "
        "else that with most words of the query, and then null for a text that has none of them.",
    )
    after: str | None = None
    order_by: OrderFields | None = Field(
        None,
        description="Put all passages that fulfil the filter by a metadata field, whatever the query; their scores are "
        "0, and nothing is reranked.",
        examples=[{"field": "year", "descending": True}],
    )
    diversity: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Choose the results among the candidates so that they differ from each other (maximal marginal "
        "relevance): 0 by their scores alone, 1 by their difference alone.",
        examples=[0.3],
    )

    def shape(self) -> AnswerShape:
        """Return what the pipeline is asked."""
        return AnswerShape(
            facets=tuple(
                Facet(facet, FACET_LIMIT) if isinstance(facet, str) else Facet(facet.field, facet.limit)
                for facet in self.facets
            ),
            group_by=GroupBy(self.group_by.field, self.group_by.size) if self.group_by else None,
            collapse=self.collapse,
            min_score=self.min_score,
            diversity=self.diversity,
            highlight=self.highlight,
            after=self.after,
            order_by=OrderBy(self.order_by.field, self.order_by.descending) if self.order_by else None,
        )

    @property
    def group_size(self) -> int:
        """Results that each of `top_n` stands for, at most."""
        return self.group_by.size if self.group_by else 1


def shape_fields(settings: ServeSettings) -> dict[str, Any]:
    """Return the fields of a search whose limits come from the settings, for `create_model`."""
    limit = Field(
        min(FACET_LIMIT, settings.max_facet_limit),
        ge=1,
        le=settings.max_facet_limit,
        description="Values shown, the most frequent ones.",
    )
    facet = create_model("FacetBody", __base__=FacetFields, __doc__=FacetFields.__doc__, limit=(int, limit))
    item = Annotated[
        Annotated[FieldName, Tag("<name>")] | Annotated[facet, Tag("<facet>")],
        Discriminator(
            lambda value: "<name>" if isinstance(value, str) else "<facet>" if isinstance(value, dict) else None,
            custom_error_type="facet",
            custom_error_message="should be the name of a field, or an object with field and limit",
        ),
    ]
    facets: Any = Field(
        [],
        max_length=settings.max_facets,
        description="Metadata fields whose values are counted over all passages that fulfil the filter, each by its "
        f"name or with the number of values to show ({FACET_LIMIT} if left out).",
        examples=[["lang", {"field": "year", "limit": 5}]],
    )
    size = Field(1, ge=1, le=settings.max_group_size, description="Results of one group at most.")
    group = create_model("GroupBody", __base__=GroupFields, __doc__=GroupFields.__doc__, size=(int, size))
    group_by: Any = Field(
        None,
        description="Group the results by a metadata field, or by $document: what stands before the # in the ids of "
        "pieces. top_n then counts groups. Stage one looks at more passages until it has as many.",
        examples=[{"field": "$document", "size": 2}],
    )
    after = Field(
        None,
        min_length=1,
        max_length=_CURSOR_CHARACTERS + 4 * settings.max_id_bytes,
        description="`next` of the page before, to go on behind it in the same version. The rest of the request is as "
        "it was, but for top_n, and not reranked.",
    )
    return {"facets": (list[item], facets), "group_by": (group | None, group_by), "after": (str | None, after)}
