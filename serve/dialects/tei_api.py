"""What text-embeddings-inference answers: `/info`, `/health`, and for its bodies `/embed` and `/rerank`.

Its clients read errors as `{"error": "<text>", "error_type": ...}`. Which bodies on the shared paths are its own,
`serve.dialects.shared_paths` decides.
"""

from collections.abc import Callable
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field, RootModel
from starlette.datastructures import Headers

from serve.dialects.base import Engine
from serve.dialects.common.calls import check_dimensions, deadline_of, fields_named, json_answer, large_json_answer
from serve.dialects.openai_api import Texts
from serve.dialects.rerank_api import best_first
from serve.web.errors import ErrorBodyMaker, HttpError, responses
from shoal import __version__
from shoal.engine.request_body import RequestBody
from shoal.errors import InvalidArgument, Unavailable
from shoal.records import InputType, relevance_of
from shoal.settings import ServeSettings

PROMPTS: dict[str, InputType] = {"query": "query", "passage": "passage", "document": "passage"}
"""What `prompt_name` may name: the encoder reads queries in another way than passages."""

OWN_PATHS = ("/info", "/health")
"""Paths that no other dialect has."""


class TeiError(BaseModel):
    """An error as the clients of text-embeddings-inference know it."""

    error: str
    error_type: Literal["validation", "backend", "overloaded"]


class TeiEmbedFields(RequestBody):
    """Texts to be turned into vectors. A null is the same as leaving the field out."""

    inputs: Texts = Field(description="A text or a list of texts.", examples=[["Most fish rest with open eyes."]])
    normalize: bool = Field(True, description="Vectors are always normalised; false is refused.")
    truncate: bool = Field(True, description="Cut texts that are too long; false refuses them.")
    truncation_direction: Literal["right", "left", "Right", "Left"] = Field(
        "right", description="The end is cut off; left is refused."
    )
    prompt_name: Literal["query", "passage", "document"] | None = Field(
        None, description="What the texts are; passages by default, which are documents too."
    )
    dimensions: int | None = Field(
        None, ge=1, description="Only so many of the first, normalised anew; at most those of the index."
    )
    encoding_format: Literal["float"] = Field("float", description="Another is refused.")


class TeiRerankFields(RequestBody):
    """A query and texts to be scored for it. A null is the same as leaving the field out."""

    query: str = Field(min_length=1, examples=["how do fish sleep"])
    texts: list[str] = Field(min_length=1, examples=[["Most fish rest with open eyes.", "Bees dance."]])
    raw_scores: bool = Field(False, description="The reranker's own scores; else they lie between 0 and 1.")
    return_text: bool = Field(False, description="Whether results have their text.")
    truncate: bool = Field(True, description="Texts are cut to what the reranker reads; false is refused.")
    truncation_direction: Literal["right", "left", "Right", "Left"] = Field(
        "right", description="The end is cut off; left is refused."
    )
    top_n: int | None = Field(None, ge=1, description="Results returned. Left out: all.")


class TeiRank(BaseModel):
    """A text that was scored."""

    index: int = Field(description="Its place in the request, from 0.")
    score: float
    text: str | None = Field(None, description="Only if it was asked for.")


class TeiRanks(RootModel[list[TeiRank]]):
    """Texts, best first."""


class TeiVectors(RootModel[list[list[float]]]):
    """Vectors in the order of the texts."""


class TeiHealth(BaseModel):
    """Everything can be searched."""

    status: Literal["ok"] = "ok"


class TeiInfo(BaseModel):
    """What is served."""

    model_id: str = Field(description="The encoder.")
    model_sha: str | None = Field(description="Always null.")
    model_dtype: str = Field(description="Of the vectors that are returned.")
    model_type: dict[str, Any] = Field(description="`embedding`, and `reranker` if there is one.")
    reranker_id: str | None = Field(description="The reranker, if there is one.")
    max_concurrent_requests: int
    max_client_batch_size: int
    auto_truncate: bool
    version: str = Field(description="That of Shoal.")


def error_body(error: HttpError) -> dict[str, Any]:
    """Make the body of an error: `TeiError`."""
    return {"error": error.message, "error_type": _error_type(error.status)}


def _error_type(status: int) -> str:
    if status in (429, 503):
        return "overloaded"
    return "validation" if status < 500 else "backend"


def choose_error_body(path: str, headers: Headers) -> ErrorBodyMaker | None:
    """Choose `error_body` for the paths that no other dialect has."""
    return error_body if path in OWN_PATHS else None


def router(engine: Callable[[], Engine], settings: ServeSettings) -> APIRouter:
    """Build the routes of this dialect."""
    routes = APIRouter(tags=["text-embeddings-inference"])

    @routes.get("/info", response_model=TeiInfo, responses=responses(503, model=TeiError))
    async def info() -> Response:
        """Describe the models, as text-embeddings-inference does."""
        described = await engine().describe()
        kinds: dict[str, Any] = {"embedding": {"pooling": "unknown", "dimensions": described.dim}}
        if described.models.reranker is not None:
            kinds["reranker"] = {}
        return json_answer(
            {
                "model_id": described.models.encoder,
                "model_sha": None,
                "model_dtype": "float32",
                "model_type": kinds,
                "reranker_id": described.models.reranker,
                "max_concurrent_requests": settings.max_requests * settings.ingress_replicas,
                "max_client_batch_size": settings.max_vectors,
                "auto_truncate": True,
                "version": __version__,
            }
        )

    @routes.get("/health", response_model=TeiHealth, responses=responses(503, model=TeiError))
    async def health() -> Response:
        """Say whether everything can be searched, as text-embeddings-inference does."""
        if missing := await engine().ready():
            raise Unavailable(f"not ready: {', '.join(missing)}", retry_after_s=1)
        return json_answer({"status": "ok"})

    return routes


async def embed(engine: Engine, settings: ServeSettings, body: TeiEmbedFields) -> Response:
    """Turn texts into vectors."""
    if not body.normalize:
        raise InvalidArgument("normalize should be true: the vectors of an index are normalised", param="normalize")
    _check_direction(body.truncation_direction)
    if body.dimensions is not None:
        check_dimensions(body.dimensions, (await engine.describe()).dim)
    texts = body.inputs if isinstance(body.inputs, list) else [body.inputs]
    input_type = PROMPTS[body.prompt_name] if body.prompt_name else "passage"
    embedded = await engine.embed(texts, input_type, deadline_of(settings))
    if not body.truncate and any(embedded.truncated):
        place = embedded.truncated.index(True)
        raise InvalidArgument(
            f"inputs[{place}] has {embedded.lengths[place]} tokens, and the encoder reads {embedded.max_length}; "
            "shorten it, or leave truncate out",
            param=f"inputs[{place}]",
        )
    vectors = embedded.shortened(body.dimensions) if body.dimensions else embedded.vectors
    return await large_json_answer(list(vectors), vectors.size)


async def rerank(engine: Engine, settings: ServeSettings, body: TeiRerankFields) -> Response:
    """Score texts for a query."""
    _check_direction(body.truncation_direction)
    if not body.truncate:
        raise InvalidArgument("truncate should be true: texts are cut to what the reranker reads", param="truncate")
    with fields_named(documents="texts"):
        reranked = await engine.rerank(body.query, body.texts, deadline_of(settings))
    scores = reranked.scores if body.raw_scores else relevance_of(reranked.scores, engine.reranker_scale())
    ranks: list[dict[str, Any]] = [
        {"index": place, "score": scores[place]} for place in best_first(reranked.scores, body.top_n)
    ]
    if body.return_text:
        for rank in ranks:
            rank["text"] = body.texts[rank["index"]]
    return json_answer(ranks)


def _check_direction(direction: str) -> None:
    if direction.lower() != "right":
        raise InvalidArgument(
            "truncation_direction should be right: only the beginning is read", param="truncation_direction"
        )
