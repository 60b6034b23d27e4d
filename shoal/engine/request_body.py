"""What all request bodies of Shoal's own dialect are made from."""

from itertools import islice
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from shoal.engine.mistakes import MAX_MISTAKES, UnknownField
from shoal.namespaces import MAX_NAMESPACE_BYTES

NAMESPACE: Any = Field(
    "",
    max_length=MAX_NAMESPACE_BYTES,
    description="Whose passages are meant. Left out or empty: those of the default namespace, never those of all.",
    examples=["acme"],
)
"""The field of a namespace."""


class RequestBody(BaseModel):
    """Base of request bodies: unknown fields are refused, a null is the same as leaving the field out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        fields = cls.model_fields
        known = {name: data[name] for name in fields if data.get(name) is not None}
        # Each unknown one is an error, and a body may hold 100,000 of them.
        unknown = islice((name for name in data if name not in fields), MAX_MISTAKES + 1)
        return known | dict.fromkeys(unknown, UnknownField(tuple(fields)))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler.resolve_ref_schema(handler(schema))
        for name, field in described.get("properties", {}).items():
            if name in described.get("required", ()):
                continue
            if isinstance(field.get("type"), str):
                field["type"] = [field["type"], "null"]
            elif "oneOf" in field:
                field["oneOf"].append({"type": "null"})
        return described
