"""The route of Dify's external knowledge.

The id of the knowledge is the name of the index, its folder's, or `default`. Dify shows people `error_msg`.
"""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from starlette.datastructures import Headers

from serve.dialects.base import Engine
from serve.dialects.common.calls import deadline_of, fields_named, json_answer
from serve.dialects.common.relevance import relevance_of_results
from serve.dialects.dify_api.conditions import MetadataCondition, filter_of
from serve.web.errors import ErrorBody, ErrorBodyMaker, HttpError, responses, shoal_error_body
from serve.web.indexes import Indexes
from serve.web.json_body import JsonRoute
from shoal.engine.request_body import RequestBody
from shoal.errors import NotFound
from shoal.records import ScoreScale, SearchAnswer, SearchRequest
from shoal.serving.index_name import DEFAULT_NAME
from shoal.settings import ServeSettings

PATH = "/retrieval"
"""Where Dify asks, behind the endpoint that it was given."""
CODES = {401: 1002, 403: 1002, 404: 2001}
"""`error_code` by status, as Dify has agreed upon them; of other errors it is the status."""


class RetrievalSetting(RequestBody):
    """How many records, and how good."""

    top_k: int = Field(ge=1, description="Most records; max_top_k bounds it.", examples=[5])
    score_threshold: float = Field(0.0, ge=0, le=1, description="Least score of a record.", examples=[0.3])


class RetrievalFields(RequestBody):
    """A query to a knowledge base. A null is the same as leaving the field out."""

    knowledge_id: str = Field(description="The name of the index, its folder's, or `default`.", examples=["default"])
    query: str = Field(min_length=1, examples=["how do fish sleep"])
    retrieval_setting: RetrievalSetting
    metadata_condition: MetadataCondition | None = None


class Record(BaseModel):
    """A passage."""

    content: str
    score: float = Field(description="From 0 to 1; how it comes of the scores of a search, docs/clients.md says.")
    title: str = Field(description="Of the passage, or its id where it has none.")
    metadata: dict[str, Any] = Field(description="Of the passage, and its id as `passage_id`.")


class RetrievalResponse(BaseModel):
    """Passages, best first."""

    records: list[Record]
    degraded: str | None = Field(description="Why the answer is less than what was asked for; null if it is not.")
    warnings: list[str] = Field(description="What was cut or corrected, and why nothing was found.")


class DifyError(ErrorBody):
    """An error as Dify reads it, and as everybody else does."""

    error_code: int
    error_msg: str


def error_body(error: HttpError) -> dict[str, Any]:
    """Make the body of an error: `DifyError`."""
    code = CODES.get(error.status, error.status)
    return {**shoal_error_body(error), "error_code": code, "error_msg": error.message}


def choose_error_body(path: str, headers: Headers) -> ErrorBodyMaker | None:
    """Choose `error_body` for the path of this dialect."""
    return error_body if path == PATH else None


def router(engine: Indexes, settings: ServeSettings) -> APIRouter:
    """Build the route of this dialect."""
    routes = APIRouter(tags=["dify"], route_class=JsonRoute)

    @routes.post(
        PATH,
        response_model=RetrievalResponse,
        responses=responses(400, 404, 408, 413, 415, 429, 500, 503, 504, model=DifyError),
    )
    async def retrieval(body: RetrievalFields) -> Response:
        """Search for a knowledge base of Dify, with both stages."""
        asked = _asked(engine, body.knowledge_id)
        fields = (await asked.describe()).fields if body.metadata_condition else {}
        top_n = body.retrieval_setting.top_k
        request = SearchRequest(
            query=body.query,
            top_k=max(top_n, min(settings.top_k, settings.max_top_k)),
            top_n=top_n,
            rerank=settings.reranker != "none",
            deadline=deadline_of(settings),
            filter=filter_of(body.metadata_condition, fields),
        )
        with fields_named(top_k="retrieval_setting.top_k", top_n="retrieval_setting.top_k"):
            (answer,) = await asked.search([request])
        return json_answer(_body(answer, body.retrieval_setting.score_threshold, asked.reranker_scale()))

    return routes


def _asked(indexes: Indexes, knowledge_id: str) -> Engine:
    """Return the engine of a knowledge. Raises NotFound with what is to be set in Dify."""
    try:
        return indexes.named(knowledge_id)
    except NotFound:
        example = indexes.example
        names = "the name of an index" if example is None else f"{example!r} or {DEFAULT_NAME!r}"
        raise NotFound(
            f"there is no knowledge {knowledge_id[:100]!r} here; in Dify, set the External Knowledge ID to {names}",
            param="knowledge_id",
        ) from None


def _body(answer: SearchAnswer, threshold: float, scale: ScoreScale | None) -> dict[str, Any]:
    scores = relevance_of_results(answer, scale)
    return {
        "records": [
            {
                "content": result.passage.text or result.passage.title or "",
                "score": score,
                "title": result.passage.title or result.id,
                "metadata": {**(result.passage.metadata or {}), "passage_id": result.id},
            }
            for result, score in zip(answer.results, scores, strict=True)
            if score >= threshold
        ],
        "degraded": answer.degraded,
        "warnings": list(answer.warnings),
    }
