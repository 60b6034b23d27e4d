"""The calls of an index in this process: what they take and return, the same as those of a client of a server."""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from os import PathLike, fspath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from shoal.client.answers import (
    EmbedResponse,
    FetchResponse,
    IndexDescription,
    ListResponse,
    NamespacesResponse,
    RerankResponse,
    SearchResponse,
)
from shoal.client.bodies import embed_request, render_body, rerank_request, search_request
from shoal.client.writes import WriteCall
from shoal.engine.answer_fields import answer_fields, fetch_fields, list_fields, namespaces_fields, result_fields
from shoal.engine.engine import LocalEngine
from shoal.engine.limits import RequestLimits
from shoal.engine.mistakes import explain_mistakes
from shoal.engine.model_requests import embed_body, embed_fields, embed_parts, rerank_body, rerank_fields
from shoal.engine.request_models import Part, fetch_body, list_query, namespaces_query, search_body
from shoal.engine.write_models import checked_key, delete_body, update_body, upsert_body
from shoal.errors import InvalidArgument
from shoal.records import SearchAnswer
from shoal.settings import ServeSettings
from shoal.writing.requests import UpdateRequest, WriteRequest

M = TypeVar("M", bound=BaseModel)


def read_settings(index: str | PathLike[str], options: Mapping[str, Any]) -> ServeSettings:
    """Return the settings of a search of an index root. Raises InvalidArgument naming the options at fault."""
    given = {"index": fspath(index), **options}
    try:
        return ServeSettings.model_validate(given)
    except ValidationError as error:
        message, param = explain_mistakes(error.errors(), given)
        raise InvalidArgument(message, param=param) from None


class EngineCalls:
    """The calls of a client, answered by an engine within its event loop."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine
        self._limits = RequestLimits(engine.settings)
        self._search_body = search_body(engine.settings)
        self._fetch_body = fetch_body(engine.settings)
        self._write_bodies: dict[str, Any] = {
            "/v1/passages": upsert_body(engine.settings),
            "/v1/passages/update": update_body(engine.settings),
            "/v1/passages/delete": delete_body(engine.settings),
        }
        self._list_query = list_query(engine.settings)
        self._namespaces_query = namespaces_query(engine.settings)
        self._embed_body = embed_body(engine.settings)
        self._rerank_body = rerank_body(engine.settings)

    async def search(
        self, query: str | list[str] | None, options: Mapping[str, Any]
    ) -> SearchResponse | list[SearchResponse]:
        """Answer one query or several, checked as over HTTP; a response, or a list with one for each."""
        body = self._read(self._search_body, search_request(query, options))
        requests, _ = body.requests(self.engine.settings, time.monotonic())
        answers = await self.engine.search(requests)
        request_id = uuid.uuid4().hex
        if not body.is_several:
            return _response(answers[0], request_id, body.include)
        return [_response(answer, f"{request_id}-{number}", body.include) for number, answer in enumerate(answers)]

    async def fetch(
        self, ids: Sequence[str], include: Sequence[str] | None, namespace: str = "", min_position: int = 0
    ) -> FetchResponse:
        """Fetch passages by their ids, checked as over HTTP."""
        given = {"ids": list(ids), "namespace": namespace, "min_position": min_position}
        given |= {} if include is None else {"include": list(include)}
        body = self._read(self._fetch_body, given)
        self._limits.check_fetch(body.ids, self._deadline(), with_vectors="vector" in body.include)
        fetched = await self.engine.fetch(
            body.ids, self._deadline(), "vector" in body.include, body.namespace, body.min_position
        )
        return FetchResponse.model_validate(fetch_fields(fetched, body.include))

    async def list_ids(
        self, prefix: str, limit: int | None, cursor: str | None, namespace: str = "", min_position: int = 0
    ) -> ListResponse:
        """List a page of ids, checked as over HTTP."""
        given = {"prefix": prefix, "limit": limit, "cursor": cursor, "namespace": namespace}
        given["min_position"] = min_position
        query = self._read(self._list_query, {name: value for name, value in given.items() if value is not None})
        self._limits.check_list(query.prefix, query.limit, self._deadline())
        listed = await self.engine.list_ids(
            query.prefix, query.limit, query.cursor, self._deadline(), query.namespace, query.min_position
        )
        return ListResponse.model_validate(list_fields(listed))

    async def list_namespaces(self, prefix: str, limit: int | None, cursor: str | None) -> NamespacesResponse:
        """List a page of namespaces, checked as over HTTP."""
        given = {"prefix": prefix, "limit": limit, "cursor": cursor}
        query = self._read(self._namespaces_query, {name: value for name, value in given.items() if value is not None})
        listed = await self.engine.list_namespaces(query.prefix, query.limit, query.cursor, self._deadline())
        return NamespacesResponse.model_validate(namespaces_fields(listed))

    async def embed(self, inputs: Sequence[str], input_type: str, options: Mapping[str, Any]) -> EmbedResponse:
        """Make vectors of texts, checked as over HTTP."""
        body = self._read(self._embed_body, embed_request(inputs, input_type, options))
        deadline = self._deadline(body.timeout_ms)
        self._limits.check_embed(body.inputs, deadline, are_queries=body.input_type == "query")
        embedded = await self.engine.embed(body.inputs, body.input_type, deadline, body.with_tokens)
        fields = embed_fields(embedded, body) | {"data": list(embed_parts(embedded, body))}
        return EmbedResponse.model_validate(fields)

    async def rerank(self, query: str, documents: Sequence[Any], options: Mapping[str, Any]) -> RerankResponse:
        """Score documents for a query, checked as over HTTP."""
        body = self._read(self._rerank_body, rerank_request(query, documents, options))
        deadline = self._deadline(body.timeout_ms)
        self._limits.check_rerank(body.query, body.texts, deadline)
        reranked = await self.engine.rerank(body.query, body.texts, deadline)
        return RerankResponse.model_validate(rerank_fields(reranked, body, self.engine.reranker_scale()))

    async def write(self, call: WriteCall) -> dict[str, Any]:
        """Answer a request that writes, checked as over HTTP."""
        settings, key = self.engine.settings, checked_key(call.key)
        request = self._read(self._write_bodies[call.path], call.body).request(settings, key)
        self._limits.check_write(request)
        match request:
            case WriteRequest():
                return asdict(await self.engine.write(request))
            case UpdateRequest():
                return asdict(await self.engine.update(request))
            case _:
                return asdict(await self.engine.delete(request))

    async def see(self, position: int) -> None:
        """Wait until searches see what was written up to a position, no longer than a search may take."""
        await self.engine.see(position, self._deadline())

    def _deadline(self, timeout_ms: int | None = None) -> float:
        settings = self.engine.settings
        return time.monotonic() + (timeout_ms or min(settings.timeout_ms, settings.max_timeout_ms)) / 1000

    async def describe(self) -> IndexDescription:
        """Describe what is served."""
        return IndexDescription.model_validate_json(to_json(await self.engine.describe()))

    async def activate(self, version: str) -> IndexDescription:
        """Make a published version the active one."""
        await self.engine.activate(version)
        return await self.describe()

    async def rollback(self) -> IndexDescription:
        """Return to the version that was active before."""
        await self.engine.rollback()
        return await self.describe()

    async def refresh(self) -> IndexDescription:
        """Serve what CURRENT names now."""
        await self.engine.refresh()
        return await self.describe()

    async def ready(self) -> bool:
        """Whether a version can be searched."""
        return not await self.engine.ready()

    def _read(self, model: type[M], options: Mapping[str, Any]) -> M:
        body = json.loads(render_body(options))  # what is no JSON over HTTP is none here
        try:
            return model.model_validate(body)
        except ValidationError as error:
            message, param = explain_mistakes(error.errors(), body)
            raise InvalidArgument(message, param=param) from None


def _response(answer: SearchAnswer, id_: str, include: Sequence[Part]) -> SearchResponse:
    results = [result_fields(result, include) for result in answer.results]
    fields = {"id": id_, "index_version": answer.index_version, "results": results, **answer_fields(answer)}
    return SearchResponse.model_validate(fields)
