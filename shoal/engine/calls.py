"""The calls of an index in this process: what they take and return, the same as those of a client of a server."""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from shoal.client.answers import IndexDescription, SearchResponse
from shoal.client.bodies import render_body
from shoal.engine.answer_fields import answer_fields, result_fields
from shoal.engine.engine import LocalEngine
from shoal.engine.mistakes import explain_mistakes
from shoal.engine.request_models import Part, SearchFields, search_body
from shoal.errors import InvalidArgument
from shoal.records import SearchAnswer
from shoal.settings import ServeSettings


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
        self._search_body = search_body(engine.settings)

    async def search(self, query: str | list[str], options: Mapping[str, Any]) -> list[SearchResponse]:
        """Answer one query or several, checked as over HTTP; a response for each."""
        body = self._read({"query": query, **options})
        requests, _ = body.requests(self.engine.settings, time.monotonic())
        answers = await self.engine.search(requests)
        request_id = uuid.uuid4().hex
        if isinstance(query, str):
            return [_response(answers[0], request_id, body.include)]
        return [_response(answer, f"{request_id}-{number}", body.include) for number, answer in enumerate(answers)]

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

    def _read(self, options: Mapping[str, Any]) -> SearchFields:
        body = json.loads(render_body(options))  # what is no JSON over HTTP is none here
        try:
            return self._search_body.model_validate(body)
        except ValidationError as error:
            message, param = explain_mistakes(error.errors(), body)
            raise InvalidArgument(message, param=param) from None


def _response(answer: SearchAnswer, id_: str, include: Sequence[Part]) -> SearchResponse:
    results = [result_fields(result, include) for result in answer.results]
    fields = {"id": id_, "index_version": answer.index_version, "results": results, **answer_fields(answer)}
    return SearchResponse.model_validate(fields)
