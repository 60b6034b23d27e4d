"""What a key must be good for: routes that want more than reading are marked, and refused before a body is read."""

from collections.abc import Iterable
from typing import Any

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match
from starlette.types import Scope as ASGIScope

from shoal.errors import PermissionDenied, Unauthenticated
from shoal.serving.keys import Scope, includes

_WORK: dict[Scope, str] = {"write": "change passages", "admin": "change what is served"}
"""What the routes of a scope do, in messages."""


async def _writes() -> None:
    """Mark a route; `RouteScopes` reads the mark."""


async def _administers() -> None:
    """Mark a route; `RouteScopes` reads the mark."""


WRITE: Any = Depends(_writes)
"""For the `dependencies` of a route that changes passages."""
ADMIN: Any = Depends(_administers)
"""For the `dependencies` of a route that changes what is served."""
_MARKS: dict[Any, Scope] = {_writes: "write", _administers: "admin"}
"""What a mark stands for."""


class RouteScopes:
    """Which scope each route wants.

    routes: those of the routers, all that may be marked. Raises ValueError for a router within a router, or another
    thing that is no route: marks inside it would be seen by nobody.
    """

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        listed = list(routes)
        for route in listed:
            if not isinstance(route, APIRoute):
                raise ValueError(f"{route!r} is no route: put its routes into the router itself, where marks are seen")
        marked = ((route, _marked(route)) for route in listed if isinstance(route, APIRoute))
        self._marked = [(route, wanted) for route, wanted in marked if wanted is not None]

    def wanted(self, scope: ASGIScope) -> Scope:
        """Return the scope that a request needs, given as the router gets it; `read` for whatever has no mark.

        The routes match it as the router does, since whoever finds a path on which the two differ needs no key: a
        route for `/v1/switch` takes `/v1/switch%0A` too.
        """
        return next((wanted for route, wanted in self._marked if route.matches(scope)[0] is Match.FULL), "read")


def _marked(route: APIRoute) -> Scope | None:
    return next((_MARKS[mark.dependency] for mark in route.dependencies if mark.dependency in _MARKS), None)


def check_key(name: str, scope: Scope, wanted: Scope) -> None:
    """Raise PermissionDenied where a key is good for less than what a request needs."""
    if not includes(scope, wanted):
        may = "read only" if scope == "read" else f"{_WORK[scope]} and read only"
        raise PermissionDenied(f"the API key {name} may {may}; use one with the scope {wanted}")


def check_keyless(wanted: Scope) -> None:
    """Raise Unauthenticated for what nobody may do without a key, where a server beyond loopback has none."""
    if wanted != "read":
        raise Unauthenticated(
            f"nobody may {_WORK[wanted]} without an API key where a server listens beyond loopback, and this one has "
            f"none: make one with `shoal keys --scope {wanted} --append FILE` and set api_keys_file "
            "(--api-keys-file FILE)"
        )
