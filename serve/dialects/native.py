"""Shoal's own dialect, `/v1`: both stages in one call, with scores, coverage and timings of each."""

import time
from collections.abc import Callable
from itertools import islice
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Request, Response
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, to_json
from starlette.concurrency import run_in_threadpool

from serve.dialects.base import Engine
from serve.web.access import ADMIN
from serve.web.errors import MOST_PROBLEMS, responses
from shoal.errors import InvalidArgument
from shoal.records import MetadataValue, Mode, SearchAnswer, SearchRequest
from shoal.settings import ServeSettings

Part = Literal["text", "metadata", "vector"]

FEW_RESULTS = 50
"""Results that take less time to serialise than to hand over to a thread; with vectors a few milliseconds."""

_EXAMPLE: JsonDict = {
    "id": "5d2f0c5e8a3b4a7f9f0e6a1b2c3d4e5f",
    "index_version": "20260131T120000000-3f9a0c41",
    "results": [
        {
            "id": "fish-7",
            "score": 4.25,
            "retrieval_score": 0.0311,
            "retrieval_rank": 3,
            "rerank_score": 4.25,
            "text": "Most fish rest by day or by night, with open eyes.",
            "metadata": {"year": 2020},
        }
    ],
    "mode": "hybrid",
    "reranked": True,
    "reranker": "late_interaction",
    "coverage": {"shards": 4, "answered": 3, "fraction": 0.75, "missing": [{"shard": 2, "reason": "deadline"}]},
    "degraded": "1 of 4 shards is missing (shard 2: deadline)",
    "timings_ms": {
        "queue": 0.1,
        "encode": 2.6,
        "retrieve": 8.1,
        "merge": 0.2,
        "fetch": 0.0,
        "rerank": 31.4,
        "total": 42.5,
    },
    "usage": {"queries": 1, "pairs": 25},
}


class Body(BaseModel):
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
        unknown = islice((name for name in data if name not in fields), MOST_PROBLEMS + 1)
        return known | {name: data[name] for name in unknown}

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


class ActivateBody(Body):
    """Which version to serve."""

    version: str = Field(min_length=1, max_length=256, examples=["20260131T120000000-3f9a0c41"])


class RollbackBody(Body):
    """An empty object: a body that is JSON is what no page of another site can send unasked."""


class Result(BaseModel):
    """One passage. `text`, `title`, `metadata` and `vector` are there if `include` asks for them."""

    model_config = ConfigDict(extra="forbid")

    id: str
    score: float = Field(
        description="What the results are ordered by: retrieval_score, or if reranked rerank_score, to which a hybrid "
        "answer adds what the server's settings say of the scores of stage one."
    )
    retrieval_score: float = Field(
        description="Score in stage one: cosine similarity if dense, BM25 if lexical, that of the fusion if hybrid."
    )
    retrieval_rank: int = Field(description="Place in stage-one order, from 1.")
    rerank_score: float | None = Field(description="The reranker's score; null if the answer is not reranked.")
    title: str = Field("", description="Only if the passage has one.")
    text: str = ""
    metadata: dict[str, MetadataValue] = {}
    vector: list[float] | None = Field(None, description="The passage's L2-normalised vector.")


class Missing(BaseModel):
    """A shard that is not part of the answer."""

    shard: int
    reason: Literal["deadline", "overloaded", "unreachable", "error", "suspended"]


class Coverage(BaseModel):
    """Which part of the index answered."""

    shards: int
    answered: int
    fraction: float = Field(description="Share of the index's passages that were searched, from 0 to 1.")
    missing: list[Missing]


class Timings(BaseModel):
    """Milliseconds that the query spent in each stage."""

    queue: float
    encode: float
    retrieve: float
    merge: float
    fetch: float
    rerank: float
    total: float


class Usage(BaseModel):
    """What the answer took."""

    queries: int = Field(description="Queries encoded and searched.")
    pairs: int = Field(description="(query, passage) pairs that the reranker scored.")


class SearchResponse(BaseModel):
    """The answer to one query."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    id: str = Field(description="The request's x-request-id; in a list of queries followed by - and the query's place.")
    index_version: str
    results: list[Result] = Field(description="Best first.")
    mode: Mode = Field(description="How stage one searched.")
    reranked: bool
    reranker: str | None = Field(
        None, description="What ordered the candidates: the server's reranker by its name, or late; null if nothing."
    )
    coverage: Coverage
    degraded: str | None = Field(description="Why the answer is less than what was asked for; null if it is not.")
    timings_ms: Timings
    usage: Usage
    explain: dict[str, Any] | None = Field(None, description="The plan and every shard's part, if asked for.")


class SearchResponses(BaseModel):
    """The answers to a list of queries, in order."""

    model_config = ConfigDict(extra="forbid")

    responses: list[SearchResponse]


class Models(BaseModel):
    """The models in use."""

    encoder: str
    reranker: str | None


class IndexInfo(BaseModel):
    """What is served."""

    model_config = ConfigDict(extra="allow")

    version: str
    previous: str | None = Field(description="What a rollback would serve; null if there is nothing to go back to.")
    passages: int
    shards: int
    dim: int
    metric: str
    kind: str = Field(description="Kind of the vector index.")
    search: str = Field("", description="Search parameters of the vector index.")
    recall_at_10: float | None = Field(None, description="Share of the ten nearest that these find; measured.")
    curve: list[dict[str, Any]] = Field(
        [], description="What other parameters find, cheapest first: search, recall, latency_ms."
    )
    modes: list[Mode] = Field(description="How it can be searched.")
    late_interaction: Literal["none", "stored"] = Field(
        "none", description="Whether the shards hold token vectors, so that rerank can be late."
    )
    fields: dict[str, str] = Field({}, description="Metadata fields that filters know, and their types.")
    models: Models


def router(engine: Callable[[], Engine], settings: ServeSettings) -> APIRouter:
    """Build the routes of this dialect. All limits come from the settings."""
    most_queries = min(settings.max_queries, settings.max_waiting)
    default_top_k = min(settings.top_k, settings.max_top_k)

    def bounded(query: str) -> str:
        size = len(query.encode())
        if not query.strip():
            raise ValueError("should not be blank")
        if size > settings.max_query_bytes:
            raise ValueError(f"should be at most {settings.max_query_bytes} bytes of UTF-8, not {size}")
        return query

    Text = Annotated[str, Field(min_length=1, max_length=settings.max_query_bytes), AfterValidator(bounded)]
    Texts = Annotated[list[Text], Field(min_length=1, max_length=most_queries)]

    class SearchBody(Body):
        """A query, or several at once, and what to return."""

        model_config = ConfigDict(
            json_schema_extra={"examples": [{"query": "how do fish sleep", "top_k": 25, "top_n": 5}]}
        )

        query: Annotated[
            Annotated[Text, Tag("<text>")] | Annotated[Texts, Tag("<texts>")],
            Discriminator(lambda value: "<texts>" if isinstance(value, list) else "<text>"),
        ] = Field(description="One query, or a list that is answered with a list.", examples=["how do fish sleep"])
        top_k: int = Field(
            default_top_k, ge=1, le=settings.max_top_k, description="Candidates taken from stage one; at least top_n."
        )
        top_n: int = Field(
            settings.top_n,
            ge=1,
            le=settings.max_top_k,
            description="Results returned. Left out: as many as top_k, if top_k is smaller or nothing is reranked.",
        )
        rerank: Annotated[
            Annotated[bool, Tag("<bool>")] | Annotated[Literal["late"], Tag("<late>")],
            Discriminator(
                lambda value: (
                    {bool: "<bool>", str: "<late>"}.get(type(value)) if value in (True, False, "late") else None
                ),
                custom_error_type="rerank",
                custom_error_message="should be true, false or 'late'",
            ),
        ] = Field(
            settings.reranker != "none",
            description="Order the candidates by the reranker, or (late) by the token vectors that the shards hold of "
            "their passages, if they do: late_interaction of /v1/index is `stored` then.",
        )
        mode: Mode | None = Field(
            None,
            description="How stage one searches: by vectors (dense), by words (lexical) or by both, fused (hybrid). "
            f"Left out: {_default_mode(settings)}.",
        )
        filter: dict[str, Any] = Field(
            {},
            description="Conditions on metadata that every result fulfils, with the operators of MongoDB: $eq $ne $gt "
            "$gte $lt $lte $in $nin $exists $and $or $not. /v1/index names the fields.",
            examples=[{"year": {"$gte": 2020}, "lang": "en"}],
        )
        recall: float | None = Field(
            None,
            gt=0,
            le=1,
            description="Share of the ten nearest passages that a search by vectors shall find, as it was measured for "
            "the version. Left out: what the version was tuned for. Beyond the curve of /v1/index it is refused.",
        )
        include: list[Part] = Field(
            ["text", "metadata"], max_length=len(get_args(Part)), description="Parts of each passage to return."
        )
        timeout_ms: int = Field(
            min(settings.timeout_ms, settings.max_timeout_ms),
            ge=1,
            le=settings.max_timeout_ms,
            description="Deadline. What is not there by then is left out, and the answer says so.",
        )
        explain: bool = Field(False, description="Return the plan and every shard's part.")

        def sizes(self) -> tuple[int, int]:
            """Resolve (top_k, top_n), where what was left out follows what was given."""
            given = self.model_fields_set
            top_k, top_n = self.top_k, self.top_n
            if "top_n" not in given:
                all_candidates = "top_k" in given and not self.rerank
                top_n = top_k if all_candidates else min(top_n, top_k)
            elif "top_k" not in given:
                top_k = max(top_k, top_n)
            elif top_n > top_k:
                raise InvalidArgument(
                    f"top_n should be at most top_k ({top_k}), not {top_n}: only candidates are returned", param="top_n"
                )
            return top_k, top_n

        def size(self, queries: int, top_k: int, top_n: int) -> int:
            """Count the results of the answer at most; or the candidates, which `explain` lists."""
            param, each = ("top_k", top_k) if self.explain else ("top_n", top_n)
            limits = [(param, each, settings.max_results, "")]
            if "vector" in self.include:
                limits.append(("top_n", top_n, settings.max_vectors, " with vectors"))
            for param, each, most, vectors in limits:
                if queries * each > most:
                    raise InvalidArgument(
                        f"{param} {each} of {queries} queries makes {queries * each:,} results{vectors}, more than the "
                        f"{most:,} of one answer; ask for fewer, or in several requests",
                        param=param,
                    )
            return queries * limits[0][1]

    routes = APIRouter(prefix="/v1", tags=["native"])

    @routes.post(
        "/search",
        response_model=SearchResponse | SearchResponses,
        responses=responses(400, 408, 413, 415, 429, 500, 503, 504),
    )
    async def search(body: SearchBody, request: Request) -> Response:
        """Search with both stages.

        A shard or a reranker that is late is left out: the status is 200, and `coverage` and `degraded` say what is
        missing.
        """
        deadline = time.time() + body.timeout_ms / 1000
        top_k, top_n = body.sizes()
        queries = body.query if isinstance(body.query, list) else [body.query]
        size = body.size(len(queries), top_k, top_n)
        answers = await engine().search(
            [
                SearchRequest(
                    query=query,
                    top_k=top_k,
                    top_n=top_n,
                    rerank=body.rerank,
                    deadline=deadline,
                    include_vector="vector" in body.include,
                    explain=body.explain,
                    mode=body.mode,
                    filter=body.filter,
                    recall=body.recall,
                )
                for query in queries
            ]
        )
        request_id = request.state.request_id

        def response() -> Response:
            if isinstance(body.query, str):
                return _response(_written(answers[0], request_id, body.include))
            parts = (_written(answer, f"{request_id}-{place}", body.include) for place, answer in enumerate(answers))
            return _response(b'{"responses":[' + b",".join(parts) + b"]}")

        return await run_in_threadpool(response) if size > FEW_RESULTS else response()

    @routes.get("/index", response_model=IndexInfo, responses=responses(503))
    async def index() -> Response:
        """Describe the index and the models that are served."""
        return _response(_json(await engine().describe()))

    @routes.post(
        "/index/activate",
        response_model=IndexInfo,
        dependencies=[ADMIN],
        responses=responses(400, 403, 404, 408, 409, 413, 415, 503, 504),
    )
    async def activate(body: ActivateBody) -> Response:
        """Serve another published version. Searches go on meanwhile, and none mixes two versions."""
        await engine().activate(body.version)
        return _response(_json(await engine().describe()))

    @routes.post(
        "/index/rollback",
        response_model=IndexInfo,
        dependencies=[ADMIN],
        responses=responses(400, 403, 408, 409, 413, 415, 503, 504),
    )
    async def rollback(body: RollbackBody) -> Response:
        """Serve the previous version again; it is still loaded."""
        await engine().rollback()
        return _response(_json(await engine().describe()))

    return routes


def _default_mode(settings: ServeSettings) -> str:
    return "hybrid where the index has both, else dense" if settings.mode == "auto" else settings.mode


def _json(body: Any) -> bytes:
    return to_json(body, inf_nan_mode="null")


def _response(content: bytes) -> Response:
    # Serialised here: what is built by hand needs no second validation.
    return Response(content, media_type="application/json")


def _written(answer: SearchAnswer, id_: str, include: list[Part]) -> bytes:
    """Serialise an answer, result by result: all at once would keep the other threads waiting until the end."""
    results = []
    for result in answer.results:
        passage = result.passage
        line: dict[str, Any] = {
            "id": result.id,
            "score": result.score,
            "retrieval_score": result.retrieval_score,
            "retrieval_rank": result.retrieval_rank,
            "rerank_score": result.rerank_score,
        }
        if "text" in include:
            if passage.title:
                line["title"] = passage.title
            line["text"] = passage.text
        if "metadata" in include:
            line["metadata"] = passage.metadata
        if "vector" in include:
            line["vector"] = None if result.vector is None else result.vector.tolist()
        results.append(_json(line))
    coverage, timings = answer.coverage, answer.timings
    rest = {
        "mode": answer.mode,
        "reranked": answer.reranked,
        "reranker": answer.reranker,
        "coverage": {
            "shards": coverage.shards,
            "answered": coverage.answered,
            "fraction": coverage.fraction,
            "missing": [{"shard": missing.shard, "reason": missing.reason} for missing in coverage.missing],
        },
        "degraded": answer.degraded,
        "timings_ms": {stage: round(ms, 3) for stage, ms in timings.stages()},
        "usage": {"queries": 1, "pairs": answer.pairs},
    }
    if answer.explain is not None:
        rest["explain"] = answer.explain
    head = _json({"id": id_, "index_version": answer.index_version})
    return b"".join((head[:-1], b',"results":[', b",".join(results), b"],", _json(rest)[1:]))
