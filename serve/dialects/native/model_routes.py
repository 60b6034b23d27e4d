"""What asks the models alone: the route `/v1/embed`, and `/v1/rerank`, which others have too (`shared_paths`)."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from serve.dialects.base import Engine
from serve.dialects.common.search_units import cohere_meta
from serve.dialects.native.render import render, render_embedded
from serve.web.errors import responses
from shoal.engine.model_requests import (
    EmbedFields,
    RerankFields,
    embed_body,
    embed_fields,
    embed_parts,
    rerank_fields,
)
from shoal.settings import ServeSettings

FEW_TEXTS = 16
"""Texts whose vectors take less time to serialise than to hand over to a thread."""


class EmbeddedText(BaseModel):
    """One text. `vector` and `tokens` are there if `include` asks for them."""

    model_config = ConfigDict(extra="forbid")

    vector: list[float] | None = Field(None, description="Its L2-normalised vector, as the index compares it.")
    tokens: list[list[float]] | None = Field(None, description="The L2-normalised vectors of its tokens.")
    truncated: bool = Field(description="Whether the encoder read only its beginning.")


class EmbedUsage(BaseModel):
    """What the answer took."""

    texts: int
    tokens: int = Field(description="Tokens that were read; 0 if the encoder cannot count them.")


class EmbedResponse(BaseModel):
    """The vectors of texts."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "model": "all-MiniLM-L6-v2",
                    "dim": 3,
                    "data": [{"vector": [0.6, 0.0, 0.8], "truncated": False}],
                    "usage": {"texts": 1, "tokens": 6},
                }
            ]
        },
    )

    model: str = Field(description="The encoder.")
    dim: int = Field(description="Dimensions of each vector.")
    data: list[EmbeddedText] = Field(description="In the order of inputs.")
    usage: EmbedUsage


class DocumentText(BaseModel):
    """A document as it was sent."""

    title: str = Field("", description="Only if the document has one.")
    text: str


class RerankResult(BaseModel):
    """One document."""

    model_config = ConfigDict(extra="forbid")

    index: int = Field(description="Its place in documents, from 0.")
    id: str = Field("", description="Only if the document has one.")
    score: float = Field(description="Higher is better; of which range depends on the reranker.")
    relevance_score: float = Field(description="The same from 0 to 1; how it comes of the score, docs/clients.md says.")
    document: DocumentText | None = Field(None, description="If return_documents asks for it.")


class RerankUsage(BaseModel):
    """What the answer took."""

    pairs: int = Field(description="(query, document) pairs that the reranker scored.")
    tokens: int = Field(description="Tokens that were read; 0 if the reranker cannot count them.")


class RerankResponse(BaseModel):
    """Documents in the order of their scores."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "model": "late_interaction",
                    "results": [
                        {"index": 1, "id": "bats", "score": 0.31, "relevance_score": 0.31},
                        {"index": 0, "score": 0.12, "relevance_score": 0.12},
                    ],
                    "usage": {"pairs": 2, "tokens": 21},
                    "meta": {
                        "api_version": {"version": "1"},
                        "billed_units": {"search_units": 1},
                        "tokens": {"input_tokens": 21, "output_tokens": 0},
                    },
                }
            ]
        },
    )

    model: str = Field(description="The reranker.")
    results: list[RerankResult] = Field(description="Best first; those of equal scores in the order given.")
    usage: RerankUsage
    meta: dict[str, Any] = Field(description="The same for Cohere's clients: `api_version`, `billed_units`, `tokens`.")


def add_models(routes: APIRouter, engine: Callable[[], Engine], settings: ServeSettings) -> None:
    """Add the routes to those of the dialect. All limits come from the settings."""
    EmbedBody = embed_body(settings)
    refusals = responses(400, 408, 413, 415, 429, 500, 503, 504)

    @routes.post("/embed", response_model=EmbedResponse, responses=refusals)
    async def embed(body: EmbedBody) -> Response:  # type: ignore[valid-type]
        """Make vectors of texts with the encoder of the index. Searches get their turn while a long list is done."""
        return await _embed(engine(), body)


async def _embed(engine: Engine, body: EmbedFields) -> Response:
    embedded = await engine.embed(body.inputs, body.input_type, _deadline(body.timeout_ms), body.with_tokens)
    fields = embed_fields(embedded, body)
    response = partial(render_embedded, fields, embed_parts(embedded, body))
    few = len(body.inputs) <= FEW_TEXTS and not body.with_tokens
    return response() if few else await run_in_threadpool(response)


async def rerank(engine: Engine, body: RerankFields) -> Response:
    """Score documents for a query.

    Cohere's clients, which need not name a model, send such bodies too: `meta` is for them.
    """
    reranked = await engine.rerank(body.query, body.texts, _deadline(body.timeout_ms))
    meta = cohere_meta(len(body.documents), reranked.tokens_used, "1")
    return render(rerank_fields(reranked, body, engine.reranker_scale()) | {"meta": meta})


def _deadline(timeout_ms: int) -> float:
    return time.monotonic() + timeout_ms / 1000
