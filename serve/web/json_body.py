"""Bodies in JSON, in which no name may stand twice: which of two values is meant, nobody can tell."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

MAX_NAME = 64
"""Characters of a name that a message repeats."""


class JsonRoute(APIRoute):
    """The `route_class` of a dialect's router: refuses bodies in which an object has a name twice."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            if isinstance(request, JsonRequest):
                return await handle(request)
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_strictly


class JsonRequest(Request):
    """A request whose body is parsed strictly."""

    async def json(self) -> Any:
        """Return the body. Raises HTTPException for a name that stands twice."""
        if not hasattr(self, "_json"):
            self._json = json.loads(await self.body(), object_pairs_hook=unique_names)
        return self._json


def unique_names(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON by its members. Raises HTTPException for a name that stands twice."""
    found = dict(members)
    if len(found) < len(members):
        seen: set[str] = set()
        # A body may hold a million names: each is looked up once, and `add` returns None.
        twice = next(name for name, _ in members if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise HTTPException(
            400, f"the body has the name {twice[:MAX_NAME]!r} twice in one object; leave one of them out"
        )
    return found
