"""Which index a request is for: that of its path, or else the default one.

    /v1/indexes/NAME/...    what is at /v1/... for the default index
    /v1/indexes/NAME        what is at /v1/index, for GET
    /v1/indexes/NAME/mcp    what is at /mcp
    /i/NAME/...             Pinecone's data plane, whose routes hold the name themselves

The first three are routes of no dialect: the path is changed before any other layer sees it.
"""

import re
from contextvars import ContextVar
from copy import deepcopy
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.serving.index_name import is_index_name

INDEXES = "/v1/indexes"
"""Where indexes are listed, and below which each is."""
ASKED_PATH = "asked_path"
"""Key of the state of a request under which its path lies as it was asked, where that was changed."""
MOVED = {"": "/v1/index", "mcp": "/mcp"}
"""Paths that do not lie below /v1, by what stands behind the name of the index."""
TAGS = frozenset({"native"})
"""Tags of the routes that OpenAPI names for each index too."""
_OWN = re.compile(r"/i/([^/]+)/.")
"""Paths that hold the name of an index and stay as they are."""
_ASKED: ContextVar[str | None] = ContextVar("shoal_index", default=None)
"""The index that the path of the request at hand names."""


def asked_index() -> str | None:
    """The index that the path of the request at hand names; None where it names none."""
    return _ASKED.get()


def split_path(method: str, path: str) -> tuple[str | None, str]:
    """Return the index that a path names, None if it names none, and the path of its route."""
    if own := _OWN.match(path):
        return own[1], path
    if not path.startswith(f"{INDEXES}/"):
        return None, path
    name, slash, rest = path.removeprefix(f"{INDEXES}/").partition("/")
    if not is_index_name(name) or rest.split("/")[0] == "indexes" or (slash and not rest):
        return None, path
    if not rest and method not in ("GET", "HEAD"):
        return None, path  # the route that removes an index
    return name, MOVED.get(rest, f"/v1/{rest}")


class IndexPaths:
    """ASGI layer that notes which index a request is for, and changes its path to that of the default index."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        root = scope.get("root_path", "")
        asked = scope["path"].removeprefix(root)
        name, path = split_path(scope["method"], asked)
        if path != asked:
            state = {**scope.get("state", {}), ASKED_PATH: scope["path"]}
            scope = {**scope, "path": root + path, "raw_path": (root + path).encode(), "state": state}
        token = _ASKED.set(name)
        try:
            await self._app(scope, receive, send)
        finally:
            _ASKED.reset(token)


def describe_paths(document: dict[str, Any]) -> None:
    """Name in an OpenAPI document the routes of each index."""
    parameter = {
        "name": "index",
        "in": "path",
        "required": True,
        "description": "The name of the index.",
        "schema": {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,62}$"},
    }
    for path, operations in list(document["paths"].items()):
        if not path.startswith("/v1/") or path.startswith(INDEXES):
            continue
        for method, operation in operations.items():
            if TAGS & set(operation.get("tags", ())):
                copied = deepcopy(operation)
                copied["operationId"] += "_of_index"
                copied["parameters"] = [parameter, *copied.get("parameters", ())]
                document["paths"].setdefault(f"{INDEXES}/{{index}}{path[3:]}", {})[method] = copied
    described = deepcopy(document["paths"][f"{INDEXES}/{{index}}/index"]["get"])
    described["operationId"] += "_by_name"
    document["paths"][f"{INDEXES}/{{index}}"]["get"] = described
