"""`POST /v1/rerank`, `/rerank` and `/embed`, which several dialects have: who speaks which one there.

    /v1/rerank  a field that only vendors have, such as `model`: Cohere, Jina, vLLM, Xinference, Voyage; else Shoal
/rerank   the body has `texts`: text-embeddings-inference
          a header of Pinecone's, or the body has `rank_fields`: Pinecone
          else Cohere, Jina, vLLM, Xinference
/embed    a header of Pinecone's, or the first of `inputs` is an object: Pinecone
          else text-embeddings-inference
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Discriminator, GetJsonSchemaHandler, Tag
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from starlette.datastructures import Headers

from serve.dialects import tei_api
from serve.dialects.base import Engine
from serve.dialects.native import model_routes
from serve.dialects.native.model_routes import RerankResponse
from serve.dialects.pinecone_api.inference import (
    Inference,
    PineconeEmbedFields,
    PineconeEmbedResponse,
    PineconeRerankFields,
    PineconeRerankResponse,
    speaks_pinecone,
)
from serve.dialects.rerank_api import REFUSALS, Reranking, VendorRerankFields, VendorRerankResponse
from serve.dialects.tei_api import TeiEmbedFields, TeiError, TeiRanks, TeiRerankFields, TeiVectors
from serve.web.errors import ErrorBody, ErrorBodyMaker, responses, use_error_body
from serve.web.json_body import JsonRequest, JsonRoute
from shoal.engine.model_requests import RerankFields, rerank_body
from shoal.settings import ServeSettings

TEI, PINECONE, COHERE, OWN = "<tei>", "<pinecone>", "<cohere>", "<own>"
"""Names of dialects; the angle brackets keep them apart from fields of a body."""
V1_RERANK, RERANK, EMBED = "/v1/rerank", "/rerank", "/embed"
"""The paths that are shared."""
VENDOR_FIELDS = VendorRerankFields.model_fields.keys() - RerankFields.model_fields.keys()
"""Fields of a body for `/v1/rerank` that Shoal's own clients do not know."""


class AnyOf:
    """Describes a union as one of which at least one member holds: bodies of two dialects may look the same."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema with `anyOf` for `oneOf`."""
        described = handler(schema)
        described["anyOf"] = described.pop("oneOf")
        return described


class SpokenBody(dict[str, Any]):
    """The object that is the body of a request, with the dialect that it is in."""

    dialect = ""


def _dialect_of(body: Any) -> str:
    return body.dialect if isinstance(body, SpokenBody) else COHERE


def _dialect_of_v1(body: Any) -> str:
    return body.dialect if isinstance(body, SpokenBody) else OWN


def _dialect_of_inputs(body: Any) -> str:
    return body.dialect if isinstance(body, SpokenBody) else TEI


AnyRerankFields = Annotated[
    Annotated[VendorRerankFields, Tag(COHERE)]
    | Annotated[PineconeRerankFields, Tag(PINECONE)]
    | Annotated[TeiRerankFields, Tag(TEI)],
    Discriminator(_dialect_of),
    AnyOf(),
]
"""What `/rerank` takes."""
AnyEmbedFields = Annotated[
    Annotated[PineconeEmbedFields, Tag(PINECONE)] | Annotated[TeiEmbedFields, Tag(TEI)],
    Discriminator(_dialect_of_inputs),
    AnyOf(),
]
"""What `/embed` takes."""


def spoken(path: str, headers: Headers, body: dict[str, Any]) -> str:
    """Name the dialect of a request on a path that is shared."""
    if path == V1_RERANK:
        return COHERE if VENDOR_FIELDS & body.keys() else OWN
    if path == RERANK:
        if "texts" in body:
            return TEI
        return PINECONE if speaks_pinecone(headers) or "rank_fields" in body else COHERE
    inputs = body.get("inputs")
    objects = isinstance(inputs, list) and bool(inputs) and isinstance(inputs[0], dict)
    return PINECONE if speaks_pinecone(headers) or objects else TEI


def choose_error_body(path: str, headers: Headers) -> ErrorBodyMaker | None:
    """Choose the body of errors that come before a body is read."""
    return tei_api.error_body if path == EMBED and not speaks_pinecone(headers) else None


class SharedRoute(JsonRoute):
    """The `route_class` of these paths: finds out the dialect of a body as it is read, and gives errors its own."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        handle = super().get_route_handler()
        path = self.path

        async def handle_spoken(request: Request) -> Response:
            return await handle(_SpokenRequest(request, path))

        return handle_spoken


class _SpokenRequest(JsonRequest):
    def __init__(self, request: Request, path: str) -> None:
        super().__init__(request.scope, request.receive)
        self._path = path

    async def json(self) -> Any:
        body = await super().json()
        if not isinstance(body, dict):
            return body
        marked = SpokenBody(body)
        marked.dialect = spoken(self._path, self.headers, body)
        if marked.dialect == TEI:
            use_error_body(self.scope, tei_api.error_body)
        return marked


def router(engine: Callable[[], Engine], settings: ServeSettings) -> APIRouter:
    """Build the routes of the paths that are shared."""
    routes = APIRouter(tags=["shared"], route_class=SharedRoute)
    inference, reranking = Inference(engine, settings), Reranking(engine, settings)
    errors: Any = ErrorBody | TeiError
    RerankBody = rerank_body(settings)
    AnyV1RerankFields = Annotated[
        Annotated[RerankBody, Tag(OWN)] | Annotated[VendorRerankFields, Tag(COHERE)],  # type: ignore[valid-type]
        Discriminator(_dialect_of_v1),
        AnyOf(),
    ]

    @routes.post(V1_RERANK, response_model=RerankResponse | VendorRerankResponse, responses=responses(*REFUSALS))
    async def rerank_v1(body: AnyV1RerankFields, request: Request) -> Response:
        """Score documents for a query with the server's reranker, which need not be in the index.

        A body with a field that only vendors have, such as `model`, is answered as Cohere v1, Jina, vLLM, Xinference
        and Voyage do; one without as Shoal's own clients expect it. Both answers have `relevance_score` and `meta`.
        """
        if isinstance(body, RerankFields):
            return await model_routes.rerank(engine(), body)
        return await reranking.answer(body, request.state.request_id, "1")

    @routes.post(
        RERANK,
        response_model=VendorRerankResponse | PineconeRerankResponse | TeiRanks,
        responses=responses(*REFUSALS, model=errors),
    )
    async def rerank(body: AnyRerankFields, request: Request) -> Response:
        """Score documents for a query, as Cohere, Jina, vLLM, Xinference, Pinecone or text-embeddings-inference do.

        A body with `texts` is of the last one, one with `rank_fields`, or a request with the header `Api-Key` or
        `X-Pinecone-Api-Version`, of Pinecone.
        """
        if isinstance(body, TeiRerankFields):
            return await tei_api.rerank(engine(), settings, body)
        if isinstance(body, PineconeRerankFields):
            return await inference.rerank(body)
        return await reranking.answer(body, request.state.request_id, "1")

    @routes.post(
        EMBED,
        response_model=PineconeEmbedResponse | TeiVectors,
        responses=responses(*REFUSALS, model=errors),
    )
    async def embed(body: AnyEmbedFields) -> Response:
        """Turn texts into vectors, as Pinecone or text-embeddings-inference do.

        A body in which `inputs` are objects, or a request with the header `Api-Key` or `X-Pinecone-Api-Version`, is of
        Pinecone.
        """
        if isinstance(body, PineconeEmbedFields):
            return await inference.embed(body)
        return await tei_api.embed(engine(), settings, body)

    return routes
