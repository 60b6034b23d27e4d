"""Pinecone's inference: `/embed` and `/rerank` for its bodies (`serve.dialects.shared_paths`), and `/models`."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers

from serve.dialects.base import Engine
from serve.dialects.common.calls import deadline_of, json_answer, large_json_answer
from serve.dialects.common.model_names import ServedModels
from serve.dialects.common.search_units import search_units
from serve.dialects.rerank_api import Document, as_json, best_first, text_of
from serve.web.errors import responses
from shoal.engine.description import IndexDescription
from shoal.engine.request_body import RequestBody
from shoal.errors import InvalidArgument
from shoal.records import InputType, relevance_of
from shoal.settings import ServeSettings

HEADERS = ("api-key", "x-pinecone-api-version")
"""Headers of which every Pinecone client sends one."""
DEFAULT_RANK_FIELDS = ["text"]
"""Fields that are read of documents where a request names none."""


def speaks_pinecone(headers: Headers) -> bool:
    """Whether the headers of a request are those of a Pinecone client."""
    return any(name in headers for name in HEADERS)


class EmbedInput(RequestBody):
    """A text."""

    text: str


class EmbedParameters(RequestBody):
    """How texts are embedded."""

    input_type: Literal["query", "passage"] = Field("passage", description="What the texts are.")
    truncate: Literal["END", "NONE"] = Field("END", description="NONE refuses texts that are too long.")
    dimension: int | None = Field(None, ge=1, description="That of the index; another is refused.")


class PineconeEmbedFields(RequestBody):
    """Texts to be turned into vectors, as Pinecone takes them."""

    model: str
    inputs: list[EmbedInput] = Field(min_length=1, examples=[[{"text": "Most fish rest with open eyes."}]])
    parameters: EmbedParameters = EmbedParameters()


class RerankParameters(RequestBody):
    """How documents are reranked."""

    truncate: Literal["END", "NONE"] = Field("END", description="Documents are cut; NONE is refused.")


class PineconeRerankFields(RequestBody):
    """A query and documents to be scored for it, as Pinecone takes them."""

    model: str
    query: str = Field(min_length=1)
    documents: list[Document] = Field(min_length=1)
    rank_fields: list[str] = Field(DEFAULT_RANK_FIELDS, min_length=1, description="Fields that are read.")
    return_documents: bool = True
    top_n: int | None = Field(None, ge=1, description="Results returned. Left out: all.")
    parameters: RerankParameters = RerankParameters()


class DenseVector(BaseModel):
    """The vector of a text."""

    values: list[float]
    vector_type: Literal["dense"] = "dense"


class PineconeEmbedResponse(BaseModel):
    """Vectors in the order of the texts."""

    model: str
    vector_type: Literal["dense"] = "dense"
    data: list[DenseVector]
    usage: dict[str, int] = Field(description="`total_tokens`.")


class PineconeRank(BaseModel):
    """A document that was scored."""

    index: int
    score: float = Field(description="From 0 to 1; how it comes of the reranker's score, docs/clients.md says.")
    document: dict[str, Any] | None = None


class PineconeRerankResponse(BaseModel):
    """Documents, best first."""

    model: str
    data: list[PineconeRank]
    usage: dict[str, int] = Field(description="`rerank_units`.")


class PineconeModel(BaseModel):
    """A model that may be asked for."""

    model_config = ConfigDict(extra="allow")

    model: str
    type: Literal["embed", "rerank"]
    short_description: str


class PineconeModels(BaseModel):
    """The models that may be asked for."""

    models: list[PineconeModel]


class Inference:
    """Answers the requests of Pinecone's inference."""

    def __init__(self, engine: Callable[[], Engine], settings: ServeSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._models = ServedModels(settings.model_alias or ())

    async def embed(self, fields: PineconeEmbedFields) -> Response:
        """Turn texts into vectors."""
        engine = self._engine()
        description = await engine.describe()
        self._models.check_encoder(fields.model, description)
        parameters = fields.parameters
        if parameters.dimension not in (None, description.dim):
            raise InvalidArgument(
                f"parameters.dimension should be {description.dim}, which this index has, or left out",
                param="parameters.dimension",
            )
        input_type: InputType = parameters.input_type
        texts = [part.text for part in fields.inputs]
        embedded = await engine.embed(texts, input_type, deadline_of(self._settings))
        if parameters.truncate == "NONE" and any(embedded.truncated):
            place = embedded.truncated.index(True)
            raise InvalidArgument(
                f"inputs[{place}] has {embedded.lengths[place]} tokens, and the encoder reads {embedded.max_length}; "
                "shorten it, or leave parameters.truncate out",
                param=f"inputs[{place}]",
            )
        answer = {
            "model": embedded.model,
            "vector_type": "dense",
            "data": [{"values": vector, "vector_type": "dense"} for vector in embedded.vectors],
            "usage": {"total_tokens": embedded.tokens_used},
        }
        return await large_json_answer(answer, embedded.vectors.size)

    async def rerank(self, fields: PineconeRerankFields) -> Response:
        """Score documents for a query."""
        engine = self._engine()
        self._models.check_reranker(fields.model, await engine.describe())
        if fields.parameters.truncate == "NONE":
            raise InvalidArgument("parameters.truncate should be END: documents are cut", param="parameters.truncate")
        texts = [text_of(document, fields.rank_fields, place) for place, document in enumerate(fields.documents)]
        reranked = await engine.rerank(fields.query, texts, deadline_of(self._settings))
        relevance = relevance_of(reranked.scores, engine.reranker_scale())
        ranks = [
            {
                "index": place,
                "score": relevance[place],
                **(_document(fields.documents[place], place) if fields.return_documents else {}),
            }
            for place in best_first(reranked.scores, fields.top_n)
        ]
        usage = {"rerank_units": search_units(len(texts))}
        return json_answer({"model": reranked.model, "data": ranks, "usage": usage})

    def add_models(self, routes: APIRouter) -> None:
        """Add the routes that tell which models there are."""

        @routes.get("/models", response_model=PineconeModels, responses=responses(400, 503))
        async def list_models(
            type: Literal["embed", "rerank"] | None = None, vector_type: str | None = None
        ) -> Response:
            """List the models of this server, as Pinecone does."""
            models = self._all_models(await self._engine().describe())
            chosen = [model for model in models if type in (None, model["type"])]
            if vector_type is not None:
                chosen = [model for model in chosen if model.get("vector_type") == vector_type]
            return json_answer({"models": chosen})

        @routes.get("/models/{name:path}", response_model=PineconeModel, responses=responses(404, 503))
        async def describe_model(name: str) -> Response:
            """Describe a model of this server, as Pinecone does."""
            description = await self._engine().describe()
            for model in self._all_models(description):
                if model["model"] == name:
                    return json_answer(model)
            self._models.check_encoder(name, description)
            return json_answer({**self._all_models(description)[0], "model": name})

    def _all_models(self, description: IndexDescription) -> list[dict[str, Any]]:
        encoder, reranker = description.models.encoder, description.models.reranker
        parts = [
            {
                "model": name,
                "short_description": f"The encoder of the index, {encoder}",
                "type": "embed",
                "vector_type": "dense",
                "default_dimension": description.dim,
                "supported_dimensions": [description.dim],
                "modality": "text",
                "max_batch_size": self._settings.max_vectors,
                "provider_name": "Shoal",
                "supported_metrics": [description.metric],
                "supported_parameters": [INPUT_TYPE],
            }
            for name in self._models.names_of(encoder)
        ]
        parts += [
            {
                "model": name,
                "short_description": f"The reranker of the server, {reranker}",
                "type": "rerank",
                "modality": "text",
                "max_batch_size": self._settings.max_top_k,
                "provider_name": "Shoal",
                "supported_parameters": [],
            }
            for name in (self._models.names_of(reranker) if reranker else ())
        ]
        return parts


INPUT_TYPE: Mapping[str, Any] = {
    "parameter": "input_type",
    "type": "one_of",
    "value_type": "string",
    "required": False,
    "allowed_values": ["query", "passage"],
    "default": "passage",
}
"""The parameter of encoders, as Pinecone describes it."""


def _document(document: str | dict[str, Any], place: int) -> dict[str, Any]:
    return {"document": as_json({"text": document} if isinstance(document, str) else document, place)}
