"""A dialect is found by its file, and its errors have the body that it gives them, whoever raises them."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve import dialects
from serve.web.access import KeyRing
from serve.web.api import create_api
from shoal.errors import Overloaded
from shoal.serving import keys
from shoal.testing.fakes import serve_settings
from tests.unit.serve.web.test_api import FakeEngine, check_error

SOURCE = """
from fastapi import APIRouter
from pydantic import BaseModel

class Body(BaseModel):
    text: str

def router(engine, settings):
    routes = APIRouter(prefix="/throwaway/v2")

    @routes.post("/ask")
    async def ask(body: Body):
        await engine().search([])
        return {"asked": body.text}

    @routes.get("/fails")
    async def fails():
        raise RuntimeError("/secret")

    return routes
"""
ERRORS = """
def error_body(error):
    return {"oops": error.message, "status": error.status, "field": error.param, "kind": error.type}
"""
DECLARED = """
from serve.web.errors import responses

class Oops(BaseModel):
    oops: str
    status: int
    field: str | None
    kind: str
"""
KEY = keys.make()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A further folder of dialects."""
    monkeypatch.setattr(dialects, "__path__", [*dialects.__path__, str(tmp_path)])
    yield tmp_path
    sys.modules.pop("serve.dialects.throwaway", None)
    vars(dialects).pop("throwaway", None)


class Server:
    def __init__(self, keyed: bool = False, **limits: Any) -> None:
        settings = serve_settings(**limits)
        self.engine = FakeEngine(settings)
        ring = KeyRing(None, keys.line(KEY, "ui")) if keyed else None
        app = create_api(lambda: self.engine, settings, keys=ring)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shoal")

    async def ask(self, body: Any, **changes: Any) -> httpx.Response:
        return await self.client.post("/throwaway/v2/ask", json=body, **changes)


def check_own(response: httpx.Response, status: int, words: str, param: str | None = None) -> None:
    """An error in the body of the throw-away dialect; status and headers are as for every error."""
    body = response.json()
    assert set(body) == {"oops", "status", "field", "kind"}
    assert (response.status_code, body["status"], body["field"]) == (status, status, param)
    assert words in body["oops"]
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert ("retry-after" in response.headers) == (status in (429, 503))


async def test_every_error_below_its_prefix_has_the_body_of_the_dialect(folder: Path) -> None:
    (folder / "throwaway.py").write_text(SOURCE + ERRORS)
    server = Server(max_body_bytes=1024)
    assert (await server.ask({"text": "a"})).json() == {"asked": "a"}
    check_own(await server.ask({"text": 5}), 400, "text should be a valid string", "text")
    check_own(await server.ask({}), 400, "text is required", "text")
    check_own(await server.client.post("/throwaway/v2/ask", content=b"{}"), 415, "send the body as JSON")
    check_own(await server.client.get("/throwaway/v2/ask"), 405, "GET is not allowed")
    check_own(await server.client.get("/throwaway/v2/other"), 404, "there is no /throwaway/v2/other here")
    check_own(await server.client.get("/throwaway/v2"), 404, "there is no /throwaway/v2 here")
    check_own(await server.ask({"text": "a" * 2000}), 413, "larger than 1024 bytes")
    check_own(await server.client.get("/throwaway/v2/fails"), 500, "the server failed")
    server.engine.error = Overloaded("full", retry_after_s=2)
    check_own(await server.ask({"text": "a"}), 429, "full")


async def test_openapi_describes_the_error_body_of_a_dialect(folder: Path) -> None:
    declared = SOURCE.replace('"/ask"', '"/ask", responses=responses(400, 503, model=Oops)')
    (folder / "throwaway.py").write_text(declared.replace("class Body", f"{DECLARED}\nclass Body") + ERRORS)
    server = Server()
    document = (await server.client.get("/openapi.json")).json()

    def schemas(path: str) -> set[str]:
        answers = document["paths"][path]["post"]["responses"]
        errors = {status: answer for status, answer in answers.items() if status[0] != "2"}
        assert {"400", "503", "default"} <= errors.keys()
        assert "Retry-After" in errors["503"]["headers"]
        return {answer["content"]["application/json"]["schema"]["$ref"] for answer in errors.values()}

    assert {ref for ref in schemas("/throwaway/v2/ask") if "HTTPValidationError" not in ref} == {
        "#/components/schemas/Oops"
    }
    assert schemas("/v1/search") == {"#/components/schemas/ErrorBody"}
    described = document["components"]["schemas"]["Oops"]["properties"]
    assert described.keys() == (await server.ask({})).json().keys()


async def test_a_body_that_is_too_large_only_when_it_is_read_too(folder: Path) -> None:
    (folder / "throwaway.py").write_text(SOURCE + ERRORS)
    server = Server(max_body_bytes=1024)

    async def parts() -> Any:
        for _ in range(4):
            yield b" " * 500

    headers = {"content-type": "application/json"}
    check_own(await server.client.post("/throwaway/v2/ask", content=parts(), headers=headers), 413, "larger than 1024")


async def test_who_has_no_key_or_asks_too_much_learns_it_in_the_body_of_the_dialect(folder: Path) -> None:
    (folder / "throwaway.py").write_text(SOURCE + ERRORS)
    server = Server(keyed=True)
    response = await server.ask({"text": "a"})
    check_own(response, 401, "an API key is needed")
    assert response.headers["www-authenticate"] == "Bearer"
    assert (await server.ask({"text": "a"}, headers={"x-api-key": KEY})).status_code == 200


async def test_elsewhere_errors_have_the_usual_body(folder: Path) -> None:
    (folder / "throwaway.py").write_text(SOURCE + ERRORS)
    server = Server()
    check_error(await server.client.post("/v1/search", json={}), 400, "INVALID_ARGUMENT", "query")
    for path in ("/other", "/throwaway", "/throwaway/v22", "/throwaway/v2x/ask", "/v1/other"):
        check_error(await server.client.get(path), 404, "NOT_FOUND")


async def test_a_dialect_without_a_body_of_its_own_has_the_usual_one(folder: Path) -> None:
    (folder / "throwaway.py").write_text(SOURCE)
    server = Server()
    assert (await server.ask({"text": "a"})).json() == {"asked": "a"}
    check_error(await server.ask({}), 400, "INVALID_ARGUMENT", "text")


async def test_an_error_body_needs_a_prefix(folder: Path) -> None:
    (folder / "throwaway.py").write_text(SOURCE.replace('prefix="/throwaway/v2"', "") + ERRORS)
    with pytest.raises(ValueError, match="needs a prefix"):
        Server()
