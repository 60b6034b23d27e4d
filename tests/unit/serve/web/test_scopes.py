"""Which key may call which route, told before a body is read."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request

from serve.web.access import Access, KeyRing, is_loopback
from serve.web.errors import install
from serve.web.scopes import ADMIN, WRITE, RouteScopes
from shoal.serving import keys
from tests.unit.serve.web.test_api import check_error

KEYS = {scope: keys.make() for scope in ("read", "write", "admin")}
PATHS = {"read": "/v1/look", "write": "/v1/indexes/fish/passages", "admin": "/v1/switch"}


def router() -> APIRouter:
    routes = APIRouter(prefix="/v1")

    @routes.post("/look")
    async def look(request: Request) -> int:
        return len(await request.body())

    @routes.post("/indexes/{name}/passages", dependencies=[WRITE])
    async def write(name: str, request: Request) -> int:
        return len(await request.body())

    @routes.get("/indexes/{name}/passages")
    async def list_ids(name: str) -> str:
        return name

    @routes.post("/switch", dependencies=[ADMIN])
    async def switch(request: Request) -> int:
        return len(await request.body())

    return routes


def test_a_router_within_a_router_is_refused_since_its_marks_would_not_be_seen() -> None:
    outer = APIRouter()
    outer.include_router(router())
    with pytest.raises(ValueError, match="into the router itself"):
        RouteScopes(outer.routes)


def application(ring: KeyRing | None) -> FastAPI:
    app = FastAPI(redirect_slashes=False)
    routes = router()
    app.add_middleware(Access, keys=ring, scopes=RouteScopes(routes.routes))
    app.include_router(routes)
    install(app)

    @app.middleware("http")
    async def label(request: Request, call_next):  # type: ignore[no-untyped-def]
        response = await call_next(request)
        response.headers["x-request-id"] = "1"  # which `check_error` asks for
        return response

    return app


class Body:
    """A body that tells whether anybody has read it."""

    def __init__(self) -> None:
        self.pulled = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(3):
            self.pulled += 1
            yield b"1234"


async def ask(app: FastAPI, path: str, body: Body, key: str | None) -> httpx.Response:
    headers = {"x-api-key": key} if key else {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shoal") as client:
        return await client.post(path, content=body, headers=headers)


@pytest.mark.parametrize("end", ["", "%0A", "%0a", "%0D", "/", "?a=1", "#"])
@pytest.mark.parametrize("wanted", ["write", "admin"])
async def test_no_spelling_of_a_path_gets_by_with_less(wanted: keys.Scope, end: str) -> None:
    """Expressions of paths end in `$`, which lets a line feed through."""
    lines = keys.line(KEYS["read"], "reader", "read")
    body = Body()
    response = await ask(application(KeyRing(None, lines)), PATHS[wanted] + end, body, KEYS["read"])
    assert response.status_code in (403, 404, 405)
    assert body.pulled == 0


@pytest.mark.parametrize("wanted", list(PATHS))
@pytest.mark.parametrize("scope", list(KEYS))
async def test_a_key_does_what_its_scope_includes_and_no_more_is_read(scope: keys.Scope, wanted: keys.Scope) -> None:
    lines = "\n".join(keys.line(key, f"of-{name}", name) for name, key in KEYS.items())
    body = Body()
    response = await ask(application(KeyRing(None, lines)), PATHS[wanted], body, KEYS[scope])
    if keys.includes(scope, wanted):
        assert (response.status_code, response.json()) == (200, 12)
        return
    message = check_error(response, 403, "PERMISSION_DENIED")
    assert message.startswith(f"the API key of-{scope} may")
    assert message.endswith(f"use one with the scope {wanted}")
    assert response.headers["connection"] == "close"
    assert body.pulled <= 1  # the transport of the test pulls ahead


@pytest.mark.parametrize("wanted", ["write", "admin"])
async def test_beyond_loopback_whoever_has_no_key_only_reads(wanted: str) -> None:
    app = application(None)
    response = await ask(app, PATHS[wanted], Body(), None)
    assert f"shoal keys --scope {wanted}" in check_error(response, 401, "UNAUTHENTICATED")
    assert (await ask(app, PATHS["read"], Body(), None)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("POST", "/v1/indexes/fish/passages", "write"),
        ("GET", "/v1/indexes/fish/passages", "read"),
        ("POST", "/v1/indexes/a/b/passages", "read"),  # no such route
        ("POST", "/v1/switch", "admin"),
        ("PUT", "/v1/switch", "read"),
    ],
)
def test_the_table_knows_methods_and_names_within_paths(method: str, path: str, wanted: str) -> None:
    scope = {"type": "http", "method": method, "path": path}
    assert RouteScopes(router().routes).wanted(scope) == wanted


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("", False)],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
