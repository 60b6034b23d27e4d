"""What Pinecone's clients say of an index that is to be created."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from serve.dialects.common.model_names import ServedModels
from shoal.errors import InvalidArgument

TEXT = "text"
"""What `field_map` maps to the field of the texts."""
METRIC = "cosine"
"""What compares vectors."""


class NewIndexFields(BaseModel):
    """An index for vectors. Where it is to lie (`spec`, `deployment`) counts for nothing: it lies in the catalog."""

    model_config = ConfigDict(extra="allow")

    name: str = Field("", description="Small letters, digits and dashes.")
    dimension: int | None = Field(None, description="Of the vectors; new clients say it in `schema`.")
    metric: str | None = Field(None, description="`cosine`, or left out.")
    schema_: dict[str, Any] | None = Field(
        None, alias="schema", description="`fields`, one of which is a `dense_vector` with its `dimension`."
    )


class ModelFields(BaseModel):
    """The model of an index."""

    model_config = ConfigDict(extra="allow")

    model: str
    field_map: dict[str, str] | None = Field(None, description="`text` maps to the field of the texts.")
    metric: str | None = None


class ModelIndexFields(BaseModel):
    """An index whose texts the server encodes."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(description="Small letters, digits and dashes.")
    embed: ModelFields


def dimension_of(body: NewIndexFields) -> int:
    """Return the dimension of the vectors of a new index. Raises InvalidArgument without one, and for other metrics."""
    vector = _dense_field(body.schema_ or {})
    _check_metric(body.metric or vector.get("metric"))
    dimension = body.dimension if body.dimension is not None else vector.get("dimension")
    if not isinstance(dimension, int) or isinstance(dimension, bool):
        raise InvalidArgument("dimension is required: how many numbers a vector has", param="dimension")
    return dimension


def encoder_of(embed: ModelFields, models: ServedModels) -> str:
    """Return the encoder that a new index is to have: the model itself, or what the operator has named so."""
    _check_metric(embed.metric)
    return models.aliases.get(embed.model, embed.model)


def text_field_of(embed: ModelFields) -> str | None:
    """Return the field that holds the texts of a new index; None where nothing is said of it."""
    return (embed.field_map or {}).get(TEXT)


def _dense_field(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    fields = schema.get("fields")
    for field in fields.values() if isinstance(fields, dict) else ():
        if isinstance(field, dict) and field.get("type") == "dense_vector":
            return field
    return {}


def _check_metric(metric: Any) -> None:
    if metric not in (None, METRIC):
        raise InvalidArgument(f"metric should be {METRIC}: vectors are compared by their directions", param="metric")
