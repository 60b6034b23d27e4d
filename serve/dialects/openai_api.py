"""Embeddings and models as OpenAI has them: `POST /v1/embeddings`, `GET /v1/models`.

Texts are passages unless the model's name ends in `:query`, or `input_type` says so.
"""

import base64
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Response
from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag

from serve.dialects.base import Engine
from serve.dialects.common.calls import check_dimensions, deadline_of, fields_named, json_answer, large_json_answer
from serve.dialects.common.model_names import ServedModels
from serve.web.errors import responses
from serve.web.json_body import JsonRoute
from shoal.engine.description import IndexDescription
from shoal.engine.request_body import RequestBody
from shoal.errors import InvalidArgument
from shoal.records import FloatArray, InputType
from shoal.settings import ServeSettings

SUFFIXES: dict[str, InputType] = {":query": "query", ":passage": "passage"}
"""Ends of a model's name that say what the texts are, for clients that can say it in no other way."""
KINDS: dict[str, InputType] = {"query": "query", "passage": "passage", "document": "passage"}
"""Values of `input_type`."""


def _no_tokens(value: Any) -> Any:
    """Refuse ids of tokens, which LangChain sends by default: only the tokenizer that made them can read them."""
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, int | list):
        raise ValueError(
            "should be text, not ids of tokens; LangChain sends text with check_embedding_ctx_length=False"
        )
    return value


Texts = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[str], Field(min_length=1), Tag("<texts>")],
    Discriminator(lambda value: "<texts>" if isinstance(value, list) else "<text>"),
]
"""A text or a list of texts."""


class EmbeddingFields(RequestBody):
    """Texts to be turned into vectors. A null is the same as leaving the field out."""

    input: Annotated[Texts, BeforeValidator(_no_tokens)] = Field(
        description="A text or a list of texts.", examples=[["Most fish rest with open eyes."]]
    )
    model: str | None = Field(
        None, description="Left out: the encoder that is served. Another is 404. `:query` behind it is an input_type."
    )
    input_type: Literal["query", "passage", "document"] | None = Field(
        None, description="What the texts are; passages by default, which are documents too."
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: of little-endian float32, a third of the size."
    )
    dimensions: int | None = Field(
        None, ge=1, description="Only so many of the first, normalised anew; at most those of the index."
    )
    user: str | None = Field(None, description="Accepted, and nothing comes of it.")


class Embedding(BaseModel):
    """The vector of a text."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(description="The text's place in the request, from 0.")
    embedding: list[float] | str = Field(description="L2-normalised; as encoding_format says.")


class EmbeddingUsage(BaseModel):
    """What was read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """Vectors in the order of the texts."""

    object: Literal["list"] = "list"
    model: str = Field(description="The encoder that was used.")
    data: list[Embedding]
    usage: EmbeddingUsage


class Model(BaseModel):
    """A model that may be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Seconds since 1970: when the index was built.")
    owned_by: str = Field("shoal", description="Always `shoal`.")
    task: Literal["embed", "rerank"]
    root: str = Field(description="The model that is served under this name.")


class ModelList(BaseModel):
    """The models of this server, under every name that they have."""

    object: Literal["list"] = "list"
    data: list[Model]


def router(engine: Callable[[], Engine], settings: ServeSettings) -> APIRouter:
    """Build the routes of this dialect."""
    routes = APIRouter(prefix="/v1", tags=["openai"], route_class=JsonRoute)
    models = ServedModels(settings.model_alias or ())

    @routes.post(
        "/embeddings",
        response_model=EmbeddingResponse,
        responses=responses(400, 404, 408, 413, 415, 429, 500, 503, 504),
    )
    async def embeddings(body: EmbeddingFields) -> Response:
        """Turn texts into vectors, as OpenAI does."""
        return await _embed(engine(), settings, models, body)

    @routes.get("/models", response_model=ModelList, responses=responses(503))
    async def list_models() -> Response:
        """List the models of this server, as OpenAI does."""
        return json_answer({"object": "list", "data": _models(models, await engine().describe())})

    @routes.get("/models/{name:path}", response_model=Model, responses=responses(404, 503))
    async def retrieve_model(name: str) -> Response:
        """Describe a model of this server."""
        description = await engine().describe()
        for model in _models(models, description):
            if model["id"] == name:
                return json_answer(model)
        models.check_encoder(name, description)
        return json_answer({**_models(models, description)[0], "id": name})

    return routes


async def _embed(engine: Engine, settings: ServeSettings, models: ServedModels, body: EmbeddingFields) -> Response:
    description = await engine.describe()
    name, input_type = _kind(body)
    models.check_encoder(name, description)
    check_dimensions(body.dimensions, description.dim)
    texts = body.input if isinstance(body.input, list) else [body.input]
    with fields_named(inputs="input"):
        embedded = await engine.embed(texts, input_type, deadline_of(settings))
    vectors = embedded.shortened(body.dimensions) if body.dimensions else embedded.vectors
    answer = {
        "object": "list",
        "model": embedded.model,
        "data": _data(vectors, body.encoding_format),
        "usage": {"prompt_tokens": embedded.tokens_used, "total_tokens": embedded.tokens_used},
    }
    return await large_json_answer(answer, vectors.size)


def _kind(body: EmbeddingFields) -> tuple[str | None, InputType]:
    """The name of the model without a suffix, and what the texts are. Raises InvalidArgument for a contradiction."""
    name, by_name = body.model, None
    for suffix, kind in SUFFIXES.items():
        if name is not None and name.endswith(suffix):
            name, by_name = name.removesuffix(suffix), kind
    by_field = KINDS[body.input_type] if body.input_type else None
    if by_name and by_field and by_name != by_field:
        raise InvalidArgument(
            f"input_type should be {by_name}, as the model's name ends, or left out", param="input_type"
        )
    return name, by_field or by_name or "passage"


def _data(vectors: FloatArray, encoding: str) -> Sequence[dict[str, Any]]:
    if encoding == "base64":
        packed = np.ascontiguousarray(vectors, dtype="<f4")
        made: Sequence[Any] = [base64.b64encode(vector).decode("ascii") for vector in packed]
    else:
        made = list(vectors)
    return [{"object": "embedding", "index": place, "embedding": one} for place, one in enumerate(made)]


def _models(models: ServedModels, description: IndexDescription) -> list[dict[str, Any]]:
    created = int(datetime.fromisoformat(description.created_at).timestamp())
    served = [("embed", description.models.encoder), ("rerank", description.models.reranker)]
    return [
        {"id": name, "object": "model", "created": created, "owned_by": "shoal", "task": task, "root": model}
        for task, model in served
        if model is not None
        for name in models.names_of(model)
    ]
