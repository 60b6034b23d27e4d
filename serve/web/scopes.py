"""What a key must be good for: routes that want more than reading are marked, and refused before a body is read."""

import re
from collections.abc import Iterable
from typing import Any

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

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
    """Which scope each route wants. routes: those of the routers, all that may be marked."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._fixed: dict[tuple[str, str], Scope] = {}
        self._patterns: list[tuple[set[str], re.Pattern[str], Scope]] = []
        for route in routes:
            if isinstance(route, APIRoute) and (wanted := _marked(route)) is not None:
                self._add(route, wanted)

    def wanted(self, method: str, path: str) -> Scope:
        """Return the scope that a request needs; `read` for whatever has no mark.

        Args:
            path: Below the root path of the application.
        """
        if (wanted := self._fixed.get((method, path))) is not None:
            return wanted
        for methods, pattern, scope in self._patterns:
            if method in methods and pattern.match(path):
                return scope
        return "read"

    def _add(self, route: APIRoute, wanted: Scope) -> None:
        methods = route.methods or set()
        if route.param_convertors:
            self._patterns.append((methods, route.path_regex, wanted))
        else:
            self._fixed |= {(method, route.path): wanted for method in methods}


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
