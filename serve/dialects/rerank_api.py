"""Reranking as Cohere (v1 and v2), Jina, vLLM, Xinference and Voyage have it, in one shape.

    POST /v2/rerank, and /v1/rerank and /rerank for bodies that are no other dialect's (`serve.dialects.shared_paths`)

docs/decisions/0012-one-rerank-body.md says why there is one, and what its scores are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Discriminator, Field, Tag

from serve.dialects.base import Engine
from serve.dialects.common.calls import deadline_of, json_answer
from serve.dialects.common.model_names import ServedModels
from serve.dialects.common.search_units import cohere_meta
from serve.web.errors import responses
from serve.web.json_body import JsonRoute
from shoal.engine.request_body import RequestBody
from shoal.errors import InvalidArgument
from shoal.records import FloatArray, RerankedDocuments, content_of, relevance_of
from shoal.settings import ServeSettings

REFUSALS = (400, 404, 408, 413, 415, 429, 500, 503, 504)
"""Statuses of errors that routes of models are known to answer with."""

Document = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[dict[str, Any], Tag("<object>")],
    Discriminator(lambda value: "<object>" if isinstance(value, dict) else "<text>"),
]
"""A text, or an object that has it in a field."""


class VendorRerankFields(RequestBody):
    """A query and documents to be scored for it. A null is the same as leaving the field out."""

    query: str = Field(min_length=1, examples=["how do fish sleep"])
    documents: list[Document] = Field(
        min_length=1,
        description="Texts, or objects with a `text`, before which a `title` is read; other fields come back with it.",
        examples=[["Most fish rest with open eyes.", {"id": "bees-3", "text": "Bees dance."}]],
    )
    model: str | None = Field(None, description="Left out: the reranker that is served. Another is 404.")
    top_n: int | None = Field(None, ge=1, description="Results returned. Left out: all.")
    top_k: int | None = Field(None, ge=1, description="What Voyage calls top_n; the answer then has `data` too.")
    return_documents: bool | None = Field(
        None, description="Left out: of a request that names a model, not as v2, the documents come back; else not."
    )
    rank_fields: list[str] | None = Field(
        None, min_length=1, description="Fields of the documents that are read instead, a line each."
    )
    truncation: bool = Field(True, description="Documents are cut to what the reranker reads; false is refused.")
    max_tokens_per_doc: int | None = Field(None, description="Accepted; the reranker reads what its model can.")
    max_chunks_per_doc: int | None = Field(None, description="As max_tokens_per_doc.")
    truncate_prompt_tokens: int | None = Field(None, description="As max_tokens_per_doc.")
    priority: int | None = Field(None, description="Accepted, and nothing comes of it.")
    user: str | None = Field(None, description="As priority.")
    return_len: bool | None = Field(None, description="As priority: `meta.tokens` is always there.")
    kwargs: str | None = Field(None, description="Of Xinference's client; other than `{}` it is refused.")


class VendorRerankResult(BaseModel):
    """A document that was scored."""

    index: int = Field(description="Its place in the request, from 0.")
    relevance_score: float = Field(description="From 0 to 1; how it comes of the score, docs/clients.md says.")
    score: float = Field(description="The reranker's own score.")
    id: str | None = Field(None, description="That of the document, if it has one.")
    document: dict[str, Any] | None = Field(None, description="As it was sent; a text is the field `text` of it.")


class VendorRerankUsage(BaseModel):
    """What was read."""

    prompt_tokens: int
    total_tokens: int


class VendorRerankResponse(BaseModel):
    """Documents, best first. `meta` and `usage` tell the same tokens to different clients."""

    id: str = Field(description="The request's x-request-id.")
    object: str = Field("list", description="Always `list`.")
    model: str = Field(description="The reranker that was used.")
    results: list[VendorRerankResult]
    data: list[VendorRerankResult] = Field([], description="The results again, for a request with top_k.")
    meta: dict[str, Any] = Field(description="`api_version`, `billed_units` and `tokens`, as Cohere has them.")
    usage: VendorRerankUsage


def router(engine: Callable[[], Engine], settings: ServeSettings) -> APIRouter:
    """Build the routes of this dialect."""
    routes = APIRouter(tags=["rerank"], route_class=JsonRoute)
    rerank = Reranking(engine, settings)

    @routes.post("/v2/rerank", response_model=VendorRerankResponse, responses=responses(*REFUSALS))
    async def rerank_v2(body: VendorRerankFields, request: Request) -> Response:
        """Score documents for a query, as Cohere v2 does."""
        return await rerank.answer(body, request.state.request_id, "2")

    return routes


class Reranking:
    """Answers requests of this dialect, on whichever path they come."""

    def __init__(self, engine: Callable[[], Engine], settings: ServeSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._models = ServedModels(settings.model_alias or ())

    async def answer(self, fields: VendorRerankFields, request_id: str, version: str) -> Response:
        """Answer a request. version: that of Cohere's API; in the second no documents come back unless asked for."""
        _check(fields)
        engine = self._engine()
        self._models.check_reranker(fields.model, await engine.describe())
        texts = [text_of(document, fields.rank_fields, place) for place, document in enumerate(fields.documents)]
        reranked = await engine.rerank(fields.query, texts, deadline_of(self._settings))
        returns = fields.return_documents
        if returns is None:
            returns = fields.model is not None and version == "1"
        relevance = relevance_of(reranked.scores, engine.reranker_scale())
        results = [
            _result(place, (relevance[place], reranked.scores[place]), fields.documents[place], returns)
            for place in best_first(reranked.scores, fields.top_n or fields.top_k)
        ]
        return json_answer(_body(fields, reranked, results, request_id, version))


def best_first(scores: FloatArray, most: int | None) -> list[int]:
    """Return the places of scores, float32 (n,), the highest first and equal ones in order; `most` of them."""
    order: list[int] = np.argsort(-scores, kind="stable")[:most].tolist()
    return order


def text_of(document: str | Mapping[str, Any], rank_fields: Sequence[str] | None, place: int) -> str:
    """Return what the reranker reads of a document. Raises InvalidArgument where there is nothing to read.

    Args:
        document: A text, or an object.
        rank_fields: The fields of an object to read; None for its text, with its title before it.
        place: Of the document, for the message.
    """
    if isinstance(document, str):
        return document
    if rank_fields is None:
        title, text = (document.get(name) for name in ("title", "text"))
        parts = [content_of(title if isinstance(title, str) else None, text)] if isinstance(text, str) else []
    else:
        parts = [value for name in rank_fields if isinstance(value := document.get(name), str) and value]
    if not parts:
        named = ", ".join(rank_fields or ["text"])
        raise InvalidArgument(
            f"documents[{place}] has no text in {named[:100]}; put it there, or name its field in rank_fields",
            param=f"documents[{place}]",
        )
    return "\n".join(parts)


def as_json(part: Any, place: int) -> orjson.Fragment:
    """Write a document, or a part of it, as an answer gives it back.

    Raises InvalidArgument for what JSON cannot say, such as lone surrogates. place: of the document, for the message.
    """
    try:
        return orjson.Fragment(orjson.dumps(part))
    except orjson.JSONEncodeError as error:
        raise InvalidArgument(
            f"documents[{place}] cannot be returned ({error}); leave that out, or return_documents",
            param=f"documents[{place}]",
        ) from None


def _check(fields: VendorRerankFields) -> None:
    if not fields.truncation:
        raise InvalidArgument("truncation should be true: documents are cut to what is read", param="truncation")
    if fields.kwargs is not None and fields.kwargs.strip() not in ("", "{}"):
        raise InvalidArgument("kwargs should be {}: the reranker takes no options", param="kwargs")
    if fields.top_n is not None and fields.top_k is not None:
        raise InvalidArgument("top_k and top_n are two names of one thing; leave one out", param="top_k")


def _result(place: int, scores: tuple[float, float], document: str | dict[str, Any], returns: bool) -> dict[str, Any]:
    result: dict[str, Any] = {"index": place, "relevance_score": scores[0], "score": scores[1]}
    if isinstance(document, dict) and isinstance(id_ := document.get("id"), str):
        result["id"] = as_json(id_, place)
    if returns:
        result["document"] = as_json({"text": document} if isinstance(document, str) else document, place)
    return result


def _body(
    fields: VendorRerankFields,
    reranked: RerankedDocuments,
    results: list[dict[str, Any]],
    request_id: str,
    version: str,
) -> dict[str, Any]:
    tokens = reranked.tokens_used
    return {
        "id": request_id,
        "object": "list",
        "model": reranked.model,
        "results": results,
        **({"data": results} if fields.top_k is not None else {}),
        "meta": cohere_meta(len(fields.documents), tokens, version),
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
